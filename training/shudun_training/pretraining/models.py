"""Making, loading and saving the masked language model: always a stock `transformers` folder with safetensors.

An encoder is taken only when it does what packed rows need: keep texts apart by a four-dimensional mask, and take
positions as they are given. That is tried, not looked up in a list of families.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, PreTrainedTokenizerBase
from transformers.utils import logging

from shudun.errors import ShudunError
from shudun.items import Comment
from shudun.tokenization import ItemTokenizer
from shudun_training.builtin import encoder_location
from shudun_training.checkpoint import compact_bert, compact_tokenizer, item_tokenizer, load_pretrained
from shudun_training.pretraining.batches import Vocabulary
from shudun_training.pretraining.checkpointing import replace_folder
from shudun_training.pretraining.config import NewEncoderConfig, PretrainConfig
from shudun_training.pretraining.objective import attention_bias, output_layer
from shudun_training.vocabulary import SPECIAL_TOKENS

TOKENIZER, ENCODER = "tokenizer", "encoder"

TOLERANCE = 1e-3
"""Largest difference of logits, relative to their largest value, between a text alone and among others."""


def attention_for(device: torch.device) -> str:
    """The attention that is fastest where it runs: on CPUs the backward pass of the fused one is slower in bf16."""
    return "sdpa" if device.type == "cuda" else "eager"


def given_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the configuration names; `None` where a vocabulary is to be made.

    Raises:
        ShudunError: it cannot be read.
    """
    if config.compact is None:
        loaded: PreTrainedTokenizerBase = load_pretrained(
            encoder_location(config.encoder), AutoTokenizer.from_pretrained, revision=config.revision
        )
        return loaded
    if config.compact.tokenizer is None:
        return None
    path = config.compact.tokenizer / "tokenizer.json"
    try:
        return wrap_tokenizer(Tokenizer.from_file(str(path)), config.compact)
    except Exception as error:  # the Rust parser raises bare Exception
        raise ShudunError(f"{path}: cannot be read as a tokenizer: {error}") from error


def wrap_tokenizer(tokenizer: Tokenizer, config: NewEncoderConfig) -> PreTrainedTokenizerBase:
    """A tokenizer for a new encoder.

    Raises:
        ShudunError: it lacks a special token.
    """
    if missing := [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]:
        raise ShudunError(f"tokenizer: expected a BERT-style vocabulary, this one lacks {', '.join(missing)}")
    return compact_tokenizer(tokenizer, config.max_position_embeddings)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        ShudunError: there is none.
    """
    loaded: PreTrainedTokenizerBase = load_pretrained(str(folder), AutoTokenizer.from_pretrained)
    return loaded


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of all tokens in the order of their ids."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(json.dumps(tokens).encode("ascii")).hexdigest()


def masking_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What masking needs to know of a vocabulary.

    Raises:
        ShudunError: it has no [MASK] or no [CLS].
    """
    mask_id, cls_id = tokenizer.mask_token_id, tokenizer.cls_token_id
    if not isinstance(mask_id, int) or not isinstance(cls_id, int):
        raise ShudunError("tokenizer: expected a mask token and a class token, as BERT-style vocabularies have them")
    special = np.zeros(len(tokenizer), np.bool_)
    special[tokenizer.all_special_ids] = True
    return Vocabulary(special, mask_id, cls_id)


def begin(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, origin: Path | None, attention: str) -> Any:
    """The masked language model to begin with: a checkpoint's, where there is one, or what is configured.

    Raises:
        ShudunError: the encoder cannot be loaded, lacks weights, cannot work on packed rows, or has too few positions
            for `max_length`.
    """
    if origin is not None:
        model = _load(str(origin), attention)
    elif config.compact is not None:
        model = _new(config.compact, tokenizer, attention)
    else:
        model = _load(str(encoder_location(config.encoder)), attention, revision=config.revision)
    if config.max_length > model.config.max_position_embeddings:
        raise ShudunError(
            f"max_length is {config.max_length}, but the encoder has positions for "
            f"{model.config.max_position_embeddings} tokens"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise ShudunError(f"the tokenizer has {len(tokenizer)} ids, the encoder {model.config.vocab_size}")
    require_packing(model, item_tokenizer(tokenizer, max_length=config.max_length))
    return model


def save_model(model: Any, folder: Path) -> None:
    """Write weights and configuration as they are."""
    with _quiet():
        model.save_pretrained(folder)


def save_encoder(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, half: bool) -> None:
    """Write the finished encoder in place of an older one: weights in fp32 or, with `half`, in fp16; its tokenizer."""
    part = folder.with_name(folder.name + ".part")
    # Tied weights stay one tensor, which is written once.
    halves: dict[int, torch.Tensor] = {}
    state = model.state_dict()
    if half:
        state = {name: halves.setdefault(value.data_ptr(), value.half()) for name, value in state.items()}
    with _quiet():
        # The configuration goes on saying float32: transformers computes in what it says, whatever the file holds.
        model.save_pretrained(part, state_dict=state)
    tokenizer.save_pretrained(part)
    replace_folder(part, folder)


def require_packing(model: Any, tokenizer: ItemTokenizer) -> None:
    """Check that texts packed in one row get the logits they get alone.

    Raises:
        ShudunError: they do not, or the model cannot be called so.
    """
    try:
        difference = _packing_difference(model, tokenizer)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ShudunError(_UNFIT.format(model.config.model_type, f"it cannot be called so ({error})")) from error
    if not difference <= TOLERANCE:
        reason = f"a text's logits change by {difference:.1%} beside other texts"
        raise ShudunError(_UNFIT.format(model.config.model_type, reason))


_UNFIT = (
    "encoder: models of type {!r} cannot be pre-trained on packed rows: {}. Needed are a mask of four dimensions, "
    "given positions and segments, and an output layer over hidden states, as BERT and its kin have them"
)


@torch.no_grad()
def _packing_difference(model: Any, tokenizer: ItemTokenizer) -> float:
    encoded = tokenizer.encode([Comment("这家面馆好吃"), Comment("求链接", parent_text="晚霞"), Comment("在哪里买的")])
    lengths = encoded.lengths
    position = np.arange(len(encoded.ids)) - np.repeat(encoded.starts[:-1], lengths)
    types = position >= np.repeat(encoded.first, lengths)
    ids, positions, segments, piece = (
        torch.from_numpy(np.asarray(values, np.int64)[None])
        for values in (encoded.ids, position, types, np.repeat(np.arange(len(lengths)), lengths))
    )
    model.eval()
    bias = attention_bias(piece, torch.float32)
    hidden = model.base_model(
        input_ids=ids, attention_mask=bias, position_ids=positions, token_type_ids=segments
    ).last_hidden_state
    packed = output_layer(model)(hidden)[0]
    bounds = list(pairwise(encoded.starts.tolist()))
    alone = [model(input_ids=ids[:, a:b], token_type_ids=segments[:, a:b]).logits[0] for a, b in bounds]
    model.train()
    return float((packed - torch.cat(alone)).abs().max() / packed.abs().max())


def _new(config: NewEncoderConfig, tokenizer: PreTrainedTokenizerBase, attention: str) -> BertForMaskedLM:
    torch.manual_seed(config.seed)
    return BertForMaskedLM(
        compact_bert(config, config.max_position_embeddings, tokenizer, {"attn_implementation": attention})
    )


def _load(name: str, attention: str, *, revision: str | None = None) -> Any:
    model, report = load_pretrained(
        name,
        AutoModelForMaskedLM.from_pretrained,
        revision=revision,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    # transformers would fill absent weights with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise ShudunError(f"{name}: no whole masked language model, it lacks {', '.join(missing)}")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    # A bar for each of two small files would break the bar of the run.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]

"""Making, saving and loading the model: always a stock `transformers` folder that others can load without us.

`problem_type` and `id2label` are written, so that a plain `AutoModelForSequenceClassification` (and a server
that honours them) applies a sigmoid per label and names the labels. Weights are safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer
from shudun_training.builtin import encoder_location
from shudun_training.config import CompactConfig, ModelConfig
from shudun_training.vocabulary import train_tokenizer


def build_tokenizer(config: ModelConfig, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The encoder's own tokenizer, or a new one trained on `texts` for a compact encoder."""
    if config.compact is not None:
        return compact_tokenizer(train_tokenizer(texts, vocab_size=config.compact.vocab_size), config.max_length)
    loaded: PreTrainedTokenizerBase = load_pretrained(
        encoder_location(config.encoder), AutoTokenizer.from_pretrained, revision=config.revision
    )
    return loaded


def compact_tokenizer(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerBase:
    """A tokenizer of our own vocabulary in the form that `transformers` saves and loads."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        unk_token="[UNK]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        pad_token="[PAD]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        mask_token="[MASK]",  # noqa: S106
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def build_model(config: ModelConfig, taxonomy: Taxonomy, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A sequence classifier with one logit per label: fine-tuned from `encoder`, or with random weights."""
    head: dict[str, Any] = {
        "num_labels": len(taxonomy.labels),
        "id2label": dict(enumerate(taxonomy.label_ids)),
        "label2id": dict(taxonomy.index),
        "problem_type": "multi_label_classification",
    }
    if config.compact is not None:
        head["attn_implementation"] = _attention()
        return BertForSequenceClassification(compact_bert(config.compact, config.max_length, tokenizer, head))
    model: PreTrainedModel = load_pretrained(
        encoder_location(config.encoder),
        AutoModelForSequenceClassification.from_pretrained,
        revision=config.revision,
        use_safetensors=True,
        dtype=torch.float32,  # by default weights that are stored in fp16 would also be trained in fp16
        attn_implementation=_attention(),
        ignore_mismatched_sizes=True,
        **head,
    )
    if config.max_length > model.config.max_position_embeddings:
        raise ShudunError(
            f"model.max_length is {config.max_length}, but {config.encoder} has positions for "
            f"{model.config.max_position_embeddings} tokens"
        )
    return model


def item_tokenizer(tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> ItemTokenizer:
    """The same tokenizer in the form that training and scoring share."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ShudunError(f"{type(tokenizer).__name__}: expected a tokenizer with a tokenizer.json (a 'fast' one)")
    return ItemTokenizer(backend.to_str(), max_length=max_length)


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, weights: dict[str, Any] | None = None
) -> None:
    """Write a stock `transformers` folder (safetensors, tokenizer, `problem_type`, `id2label`).

    `weights`: full tensors by name, where the model itself holds shards.
    """
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a saved checkpoint folder in evaluation mode.

    Raises:
        ShudunError: the folder is missing, incomplete or damaged.
    """
    if not folder.is_dir():
        raise ShudunError(f"{folder}: no checkpoint folder; run `shudun train` first")
    model, report = load_pretrained(
        str(folder),
        AutoModelForSequenceClassification.from_pretrained,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=_attention(),
        output_loading_info=True,
    )
    # transformers would fill absent weights with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise ShudunError(f"{folder}: the checkpoint lacks weights: {', '.join(missing)}; train or copy it again")
    return model.eval(), load_pretrained(str(folder), AutoTokenizer.from_pretrained)


def _attention() -> str | None:
    # On a CPU the gradient of the fused attention is slow: 1.6 times the time of a step (4x256, bf16, rows of 64).
    return None if torch.accelerator.is_available() else "eager"


def compact_bert(
    compact: CompactConfig, max_length: int, tokenizer: PreTrainedTokenizerBase, head: dict[str, Any]
) -> BertConfig:
    """The `transformers` configuration of a compact encoder with positions for `max_length` tokens."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=compact.hidden_size,
        num_hidden_layers=compact.num_hidden_layers,
        num_attention_heads=compact.num_attention_heads,
        intermediate_size=compact.intermediate_size,
        hidden_dropout_prob=compact.dropout,
        attention_probs_dropout_prob=compact.dropout,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id,
        **head,
    )


def load_pretrained(name: str | None, load: Any, **arguments: Any) -> Any:
    """Call a `from_pretrained`, without remote code.

    Raises:
        ShudunError: there is no such folder or hub id, or it is damaged.
    """
    try:
        return load(name, trust_remote_code=False, **arguments)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ShudunError(
            f"{name}: cannot be loaded as a local folder or hub id (offline? give a local folder): {error}"
        ) from error

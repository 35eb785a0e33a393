"""From a checkpoint to ONNX bytes, and the parity gate that decides whether they may be shipped.

The exporter here is torch's own, for models that cannot take the fused graph. A graph takes `input_ids`,
`attention_mask` and `token_type_ids` `(batch, seq_len)` and returns `logits` `(batch, num_labels)` and `embedding`
`(batch, hidden)`, the last hidden state at `[CLS]`.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shudun.batching import Outputs
from shudun.devices import Device
from shudun.errors import ShudunError
from shudun.items import Comment, Item, Note
from shudun.rendering import render
from shudun.scorer import BATCHING
from shudun.session import INPUTS, OUTPUTS, GraphSession
from shudun.tokenization import ItemTokenizer
from shudun_training.finetune import predict_logits
from shudun_training.ngram_branch.branch import NgramBranch

OPSET = 20
LOGIT_TOLERANCE = 1e-4
"""Largest difference to torch on any logit or embedding component of any validation text, in fp32."""


class GateError(ShudunError):
    """The exported graph does not reproduce the checkpoint; nothing was written."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest absolute differences between torch and the graph over `texts` real texts."""

    texts: int
    max_abs_logit: float
    max_abs_embedding: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def export_stock_graph(model: PreTrainedModel) -> bytes:
    """Export any sequence classifier in fp32 by torch's exporter and return the checked ONNX bytes."""
    wrapped = _Exported(model).to(torch.float32).eval()
    # Distinct example tensors: the exporter merges inputs that are the same object.
    ids = torch.arange(5, 19).reshape(2, 7)
    mask = torch.ones_like(ids)
    types = torch.zeros_like(ids)
    mask[1, 5:], types[0, 3:] = 0, 1
    axes = {name: {0: "batch", 1: "seq_len"} for name in INPUTS}
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            wrapped,
            (ids, mask, types),
            dynamo=True,
            input_names=list(INPUTS),
            dynamic_shapes=axes,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise GateError("torch.onnx.export returned no program")
    _name_outputs(program)
    buffer = io.BytesIO()
    onnx.save(program.model_proto, buffer)
    graph = buffer.getvalue()
    onnx.checker.check_model(onnx.load_from_string(graph))
    return graph


def graph_outputs(graph: bytes, encoder: ItemTokenizer, items: Sequence[Item], *, device: Device = "cpu") -> Outputs:
    """Logits and embeddings of items by the graph, as scoring computes them on `device`."""
    session = GraphSession(graph, device=device)
    return session.start(encoder.encode(items), BATCHING[session.device])()


def check_parity(
    model: PreTrainedModel,
    graph: bytes,
    encoder: ItemTokenizer,
    items: Sequence[Item],
    *,
    branch: NgramBranch | None = None,
) -> Parity:
    """Run torch and the graph on the same texts, and on an empty, an emoji-only, an answering and a cut one.

    Torch, and numpy for the n-gram branch of a graph that has one, compute in double precision, so that the
    difference is the rounding of the graph alone.

    Raises:
        GateError: a difference is larger than `LOGIT_TOLERANCE`, or an output is not finite.
    """
    items = [*items, *_edge_items(encoder.max_length)]
    logits, embeddings = predict_logits(copy.deepcopy(model).double(), encoder, items)
    expected = (logits if branch is None else branch.blend(logits, items, encoder), embeddings)
    # Other batches than torch's: padding and neighbours must not matter.
    got = graph_outputs(graph, encoder, items)
    worst = np.array([np.abs(a - b).max() for a, b in zip(got, expected, strict=True)])
    if not (worst <= LOGIT_TOLERANCE).all():  # also refuses NaN
        raise GateError(
            f"parity gate: largest difference to torch is {worst[0]:.2e} on logits and {worst[1]:.2e} on "
            f"embeddings, over {len(items)} validation texts; at most {LOGIT_TOLERANCE:.0e} is allowed. "
            "Nothing was written"
        )
    return Parity(texts=len(items), max_abs_logit=float(worst[0]), max_abs_embedding=float(worst[1]))


def _edge_items(max_length: int) -> list[Item]:
    long = "长" * (2 * max_length)
    return [Comment(""), Comment("😀🎉"), Comment("在哪买", "求链接"), Note("", long), Note(long, long)]


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, encoder: ItemTokenizer, items: Sequence[Item]) -> None:
    """Compare the scoring tokenisation with the checkpoint's own on every text that is not cut.

    Raises:
        GateError: the ids or segments of a text differ.
    """
    encoded = encoder.encode(items)
    for i, item in enumerate(items):
        if encoded.truncated[i]:
            continue
        batch = encoded.batch(np.array([i]))
        # As a batch of one: outside a batch the tokenizer takes an empty second segment for none.
        expected = tokenizer(*([segment] for segment in render(item).segments), return_token_type_ids=True)
        if (
            batch.input_ids.tolist() != expected["input_ids"]
            or batch.token_type_ids.tolist() != expected["token_type_ids"]
        ):
            raise GateError(f"tokenizer gate: the ids of text {item.id!r} differ from the checkpoint's tokenizer")


class _Exported(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=True,
        )
        return output.logits, output.hidden_states[-1][:, 0]


def _name_outputs(program: Any) -> None:
    # Naming outputs through the exporter collides with inner values of the same name (aten.embedding).
    outputs = program.model.graph.outputs
    for node in program.model.graph:
        for value in node.outputs:
            if value.name in OUTPUTS:
                value.name = f"inner_{value.name}"
    for value, name in zip(outputs, OUTPUTS, strict=True):
        value.name = name


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notes on absent torchvision operators and on axis names; errors still raise."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)

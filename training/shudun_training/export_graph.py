"""Which graph a checkpoint becomes: the fused one in a chosen precision, or the generic export.

Every precision but fp32 passes a gate of its own: what it costs, on real validation text, in average precision,
in probability and in decisions. A precision that fails is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from transformers import PreTrainedModel

from shudun.calibration import Calibration, OperatingPoint
from shudun.items import Item
from shudun.tokenization import ItemTokenizer
from shudun_training.examples import POSITIVE, UNKNOWN
from shudun_training.fused_graph import FloatLinear, build_fused_graph, unsupported_reason
from shudun_training.fused_graph_cuda import build_cuda_graph
from shudun_training.ngram_branch.branch import NgramBranch
from shudun_training.ngram_branch.graph import add_branch
from shudun_training.onnx_export import GateError, export_stock_graph
from shudun_training.quantization import DynamicInt8Linear, StaticInt8Linear, calibrate_scales

Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-dynamic"]
GraphKind: TypeAlias = Literal["auto", "generic"]

MAX_AP_LOSS = 0.03
MAX_FLIP_RATE = 0.01
"""Limits of the quantisation gate: loss of average precision of any label with at least `GATE_POSITIVES` known
positives, and share of known cells whose decision at fp32's thresholds differs."""

GATE_POSITIVES = 10


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """ONNX bytes and how they were made: `kind` is "fused" or "generic", `note` says why if generic."""

    graph: bytes
    kind: str
    note: str


@dataclass(frozen=True, slots=True)
class QuantisationLoss:
    """What a graph of lower precision costs against fp32 on real validation text."""

    texts: int
    max_ap_loss: float
    max_abs_probability: float
    flip_rate: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def export_graph(
    model: PreTrainedModel,
    *,
    precision: Precision = "fp32",
    kind: GraphKind = "auto",
    encoder: ItemTokenizer | None = None,
    calibration_items: Sequence[Item] = (),
    branch: NgramBranch | None = None,
) -> ExportedGraph:
    """Export a classifier.

    Args:
        model: the checkpoint.
        precision: "fp32"; "fp16", for CUDA; "int8", with fixed activation scales, so that a text's score never
            depends on its batch mates; or "int8-dynamic", whose scales are found per batch.
        kind: "generic" for a graph of standard operators alone, which other runtimes (TensorRT) understand too.
        encoder: needed for "int8".
        calibration_items: training texts that "int8" takes its activation ranges from.
        branch: an n-gram branch to add to the graph; it stays in fp32.

    Raises:
        GateError: this model or kind can only be exported in fp32, or "int8" lacks texts.
    """
    exported = _export_encoder(model, precision, kind, encoder, calibration_items)
    return exported if branch is None else replace(exported, graph=add_branch(exported.graph, branch))


def check_quantisation(
    reference: NDArray[np.float32],
    quantised: NDArray[np.float32],
    labels: NDArray[np.int64],
    calibration: Calibration,
    points: Sequence[OperatingPoint],
) -> QuantisationLoss:
    """Compare logits `(n, num_labels)` of fp32 and of a quantised graph, under fp32's calibration and thresholds.

    Raises:
        GateError: a logit is not finite, or a limit of the gate is passed.
    """
    if not np.isfinite(quantised).all():
        raise GateError("quantisation gate: the graph returned non-finite logits. Nothing was written")
    before, after = calibration.apply(reference), calibration.apply(quantised)
    known = labels != UNKNOWN
    thresholds = np.array([point.threshold for point in points], dtype=np.float32)
    flips = ((before >= thresholds) != (after >= thresholds)) & known
    loss = QuantisationLoss(
        texts=len(labels),
        max_ap_loss=max(_ap_losses(before, after, labels), default=0.0),
        max_abs_probability=float(np.abs(before - after)[known].max(initial=0.0)),
        flip_rate=float(flips.sum() / max(known.sum(), 1)),
    )
    if loss.max_ap_loss > MAX_AP_LOSS or loss.flip_rate > MAX_FLIP_RATE:
        raise GateError(
            f"quantisation gate: a label loses {loss.max_ap_loss:.3f} average precision (at most {MAX_AP_LOSS}), "
            f"{loss.flip_rate:.2%} of the decisions flip (at most {MAX_FLIP_RATE:.0%}), over {loss.texts} "
            "validation texts. Nothing was written; export with --precision fp32"
        )
    return loss


def _export_encoder(
    model: PreTrainedModel,
    precision: Precision,
    kind: GraphKind,
    encoder: ItemTokenizer | None,
    calibration_items: Sequence[Item],
) -> ExportedGraph:
    reason = "standard operators were asked for" if kind == "generic" else unsupported_reason(model)
    if reason is not None:
        if precision != "fp32":
            raise GateError(f"precision {precision} needs the fused graph, which cannot be taken here: {reason}")
        return ExportedGraph(export_stock_graph(model), "generic", reason)
    if precision == "fp32":
        return ExportedGraph(build_fused_graph(model, FloatLinear()), "fused", "")
    if precision == "fp16":
        return ExportedGraph(build_cuda_graph(model), "fused", "")
    if precision == "int8-dynamic":
        return ExportedGraph(build_fused_graph(model, DynamicInt8Linear()), "fused", "")
    if encoder is None or not calibration_items:
        raise GateError("precision int8 needs a tokenizer and training texts to take activation ranges from")
    scales = calibrate_scales(model, encoder, calibration_items)
    return ExportedGraph(build_fused_graph(model, StaticInt8Linear(scales)), "fused", "")


def _ap_losses(before: NDArray[np.float32], after: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    losses = []
    for i in range(labels.shape[1]):
        known = labels[:, i] != UNKNOWN
        truth = labels[known, i] == POSITIVE
        if GATE_POSITIVES <= truth.sum() < truth.size:
            old, new = (average_precision_score(truth, scores[known, i]) for scores in (before, after))
            losses.append(float(old - new))
    return losses

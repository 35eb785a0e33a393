"""From a checkpoint and validation rows to a bundle: graph, gates, calibration, thresholds, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from transformers import PreTrainedModel

from shudun.bundle import write_bundle
from shudun.calibration import Calibration, OperatingPoint
from shudun.devices import Device
from shudun.items import Item
from shudun.policy import Decider
from shudun.tokenization import ItemTokenizer
from shudun.version import __version__
from shudun_training.config import RunConfig, ThresholdConfig, load_policy, load_taxonomy
from shudun_training.export_graph import ExportedGraph, GraphKind, Precision, check_quantisation, export_graph
from shudun_training.metrics import compute_metrics
from shudun_training.ngram_branch.branch import NgramBranch
from shudun_training.onnx_export import check_parity, graph_outputs
from shudun_training.provenance import environment, now
from shudun_training.thresholds import fit_calibration, fit_operating_points


@dataclass(frozen=True, slots=True)
class Subject:
    """What is bundled, and the validation rows that everything is fitted and measured on.

    `labels`: `(n, num_labels)`, as in `examples`, of the `n` validation `items`. `branch`: the n-gram branch, if any.
    """

    model: PreTrainedModel
    encoder: ItemTokenizer
    items: Sequence[Item]
    labels: NDArray[np.int64]
    thresholds: ThresholdConfig
    branch: NgramBranch | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A graph with its validation logits `(n, num_labels)`, what was fitted on them, and what the gates found.

    `device` computed the logits.
    """

    exported: ExportedGraph
    precision: Precision
    logits: NDArray[np.float32]
    calibration: Calibration
    points: tuple[OperatingPoint, ...]
    gate: Mapping[str, Any]
    device: Device


def fit_fp32(subject: Subject, *, kind: GraphKind = "auto") -> Fitted:
    """Export in fp32, pass the parity gate, fit calibration and thresholds."""
    exported = export_graph(subject.model, kind=kind, branch=subject.branch)
    parity = check_parity(subject.model, exported.graph, subject.encoder, subject.items, branch=subject.branch)
    return _fit(subject, exported, "fp32", {"parity": parity.to_dict()}, _logits(subject, exported, "cpu"), "cpu")


def fit_quantised(subject: Subject, fp32: Fitted, *, precision: Precision, calibration_items: Sequence[Item]) -> Fitted:
    """Export in another precision, pass the quantisation gate against `fp32`, fit anew on the same rows.

    fp16 is computed by CUDA where this onnxruntime has it, as in scoring; on a CPU its products are rounded less.
    """
    exported = export_graph(
        subject.model,
        precision=precision,
        encoder=subject.encoder,
        calibration_items=calibration_items,
        branch=subject.branch,
    )
    on_gpu = precision == "fp16" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    device: Device = "cuda" if on_gpu else "cpu"
    logits = _logits(subject, exported, device)
    loss = check_quantisation(fp32.logits, logits, subject.labels, fp32.calibration, fp32.points)
    return _fit(subject, exported, precision, {**fp32.gate, "quantisation": loss.to_dict()}, logits, device)


def write(
    subject: Subject,
    fitted: Fitted,
    target: Path,
    *,
    config: RunConfig,
    sources: Mapping[str, Any],
    further: Mapping[str, Any],
) -> None:
    """Write the bundle with its provenance (`further`: more of it) and its metrics on the validation rows."""
    taxonomy, policy = load_taxonomy(config.taxonomy), load_policy(config.policy)
    scores = fitted.calibration.apply(fitted.logits)
    applicable = taxonomy.applicable([item.kind for item in subject.items])
    selected = Decider(policy, taxonomy, fitted.points).select(scores, applicable)
    shape = subject.model.config
    write_bundle(
        target,
        name=config.name,
        created=now(),
        shudun_version=__version__,
        precision=fitted.precision,
        provenance={
            "encoder": config.model.model_dump(mode="json"),
            "sources": sources,
            "thresholds": config.thresholds.model_dump(mode="json"),
            "environment": environment(),
            "graph": fitted.exported.kind,
            "shape": {
                "layers": shape.num_hidden_layers,
                "hidden": shape.hidden_size,
                "intermediate": shape.intermediate_size,
            },
            "gate": fitted.gate,
            "fitted_on": fitted.device,
            "ngram_branch": None if subject.branch is None else subject.branch.summary(),
            **further,
        },
        graph=fitted.exported.graph,
        tokenizer=subject.encoder,
        taxonomy=taxonomy,
        calibration=fitted.calibration,
        points=fitted.points,
        policy=policy,
        metrics={"validation": compute_metrics(scores, selected, subject.labels, taxonomy.label_ids)},
    )


def _logits(subject: Subject, exported: ExportedGraph, device: Device) -> NDArray[np.float32]:
    return graph_outputs(exported.graph, subject.encoder, subject.items, device=device)[0]


def _fit(
    subject: Subject,
    exported: ExportedGraph,
    precision: Precision,
    gate: Mapping[str, Any],
    logits: NDArray[np.float32],
    device: Device,
) -> Fitted:
    # Thresholds belong to the graph they are used with: each graph gets its own.
    calibration = fit_calibration(logits, subject.labels)
    points = fit_operating_points(calibration.apply(logits), subject.labels, subject.thresholds)
    return Fitted(exported, precision, logits, calibration, points, gate, device)

"""From a checkpoint and validation rows to a bundle: graph, gates, calibration, thresholds, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from shudun.bundle import write_bundle
from shudun.calibration import Calibration, OperatingPoint
from shudun.items import Item
from shudun.tokenization import ItemTokenizer
from shudun.version import __version__
from shudun_training.config import RunConfig, ThresholdConfig, load_policy, load_taxonomy
from shudun_training.export_graph import ExportedGraph, Precision, check_quantisation, export_graph
from shudun_training.metrics import compute_metrics
from shudun_training.onnx_export import check_parity, graph_outputs
from shudun_training.provenance import environment, now
from shudun_training.thresholds import fit_calibration, fit_operating_points


@dataclass(frozen=True, slots=True)
class Fitted:
    """A graph with its validation logits `(n, num_labels)`, what was fitted on them, and what the gates found."""

    exported: ExportedGraph
    logits: NDArray[np.float32]
    calibration: Calibration
    points: tuple[OperatingPoint, ...]
    gate: Mapping[str, Any]


def fit_fp32(
    model: PreTrainedModel,
    encoder: ItemTokenizer,
    items: Sequence[Item],
    labels: NDArray[np.int64],
    thresholds: ThresholdConfig,
) -> Fitted:
    """Export in fp32, pass the parity gate, fit calibration and thresholds on `labels` `(n, num_labels)`."""
    exported = export_graph(model)
    parity = check_parity(model, exported.graph, encoder, items)
    logits, _ = graph_outputs(exported.graph, encoder, items)
    return Fitted(exported, logits, *_fit_decisions(logits, labels, thresholds), {"parity": parity.to_dict()})


def fit_quantised(
    fp32: Fitted,
    model: PreTrainedModel,
    encoder: ItemTokenizer,
    items: Sequence[Item],
    labels: NDArray[np.int64],
    thresholds: ThresholdConfig,
    precision: Precision,
    calibration_items: Sequence[Item],
) -> Fitted:
    """Export in another precision, pass the quantisation gate against `fp32`, fit anew on the same rows."""
    exported = export_graph(model, precision=precision, encoder=encoder, calibration_items=calibration_items)
    logits, _ = graph_outputs(exported.graph, encoder, items)
    loss = check_quantisation(fp32.logits, logits, labels, fp32.calibration, fp32.points)
    # Thresholds belong to the graph they are used with: they are fitted again.
    gate = {**fp32.gate, "quantisation": loss.to_dict()}
    return Fitted(exported, logits, *_fit_decisions(logits, labels, thresholds), gate)


def _fit_decisions(
    logits: NDArray[np.float32], labels: NDArray[np.int64], thresholds: ThresholdConfig
) -> tuple[Calibration, tuple[OperatingPoint, ...]]:
    calibration = fit_calibration(logits, labels)
    return calibration, fit_operating_points(calibration.apply(logits), labels, thresholds)


def write(
    fitted: Fitted,
    target: Path,
    config: RunConfig,
    record: Mapping[str, Any],
    precision: Precision,
    labels: NDArray[np.int64],
    encoder: ItemTokenizer,
    model: PreTrainedModel,
) -> None:
    """Write the bundle with its provenance and its metrics on the validation rows."""
    taxonomy = load_taxonomy(config.taxonomy)
    scores = fitted.calibration.apply(fitted.logits)
    selected = scores >= np.array([point.threshold for point in fitted.points], dtype=np.float32)
    write_bundle(
        target,
        name=config.name,
        created=now(),
        shudun_version=__version__,
        precision=precision,
        provenance={
            "encoder": config.model.model_dump(mode="json"),
            "sources": record["sources"],
            "thresholds": config.thresholds.model_dump(mode="json"),
            "environment": environment(),
            "graph": fitted.exported.kind,
            "shape": {
                "layers": model.config.num_hidden_layers,
                "hidden": model.config.hidden_size,
                "intermediate": model.config.intermediate_size,
            },
            "gate": fitted.gate,
        },
        graph=fitted.exported.graph,
        tokenizer=encoder,
        taxonomy=taxonomy,
        calibration=fitted.calibration,
        points=fitted.points,
        policy=load_policy(config.policy),
        metrics={"validation": compute_metrics(scores, selected, labels, taxonomy.label_ids)},
    )

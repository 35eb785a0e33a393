"""The parts of a bundle with an n-gram branch, each scored alone by the graph that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from shudun.devices import Device
from shudun.items import Item
from shudun.scorer import Scorer
from shudun_training.config import ThresholdConfig
from shudun_training.ngram_branch.graph import BRANCH_LOGITS, ENCODER_LOGITS, part_graph
from shudun_training.thresholds import fit_calibration, fit_operating_points

PARTS = {"encoder": ENCODER_LOGITS, "ngram_branch": BRANCH_LOGITS}


def part_scorers(
    scorer: Scorer, items: Sequence[Item], labels: NDArray[np.int64], thresholds: ThresholdConfig
) -> dict[str, Scorer]:
    """Name of each part → its scorer, calibrated on validation items by the rules of the whole; none without a branch.

    `labels`: `(n, num_labels)`, as in `examples`, of the `n` `items`.
    """
    if scorer.manifest.provenance.get("ngram_branch") is None:
        return {}
    return {name: _alone(scorer, value, items, labels, thresholds) for name, value in PARTS.items()}


def _alone(
    scorer: Scorer, value: str, items: Sequence[Item], labels: NDArray[np.int64], thresholds: ThresholdConfig
) -> Scorer:
    device = cast("Device", scorer.device)
    bundle = replace(scorer.bundle, graph=part_graph(scorer.bundle.graph, value))
    logits = Scorer(bundle, device=device, threads=scorer.threads).run(items).logits
    calibration = fit_calibration(logits, labels)
    points = fit_operating_points(calibration.apply(logits), labels, thresholds)
    return Scorer(replace(bundle, calibration=calibration, points=points), device=device, threads=scorer.threads)

"""Metrics of the project: `evaluate` modules in subfolders, loaded from disk without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from numpy.typing import NDArray

MULTILABEL = Path(__file__).parent / "multilabel" / "multilabel.py"


def compute_metrics(
    scores: NDArray[np.floating[Any]],
    predictions: NDArray[np.bool_],
    references: NDArray[np.int64],
    label_ids: Sequence[str],
) -> dict[str, Any]:
    """Run the `multilabel` module; all arrays have shape `(n, num_labels)`, references as in `examples`."""
    result = _module().compute(
        predictions=predictions.astype(np.int32), references=references, scores=scores, label_ids=list(label_ids)
    )
    return dict(result)


@cache
def _module() -> Any:
    return evaluate.load(str(MULTILABEL))

"""From the rows of windowed items back to one output for each item."""

from __future__ import annotations

import numpy as np

from shudun.batching import Outputs
from shudun.tokenization import Encoded


def pool_windows(encoded: Encoded, outputs: Outputs) -> Outputs:
    """Outputs by item from outputs by row: the largest logit of each label, the mean embedding.

    Calibration rises with the logit, so the largest logit is the largest probability. A non-finite logit in any
    window makes that label's result NaN: it is never hidden by another window.
    """
    logits, embeddings = outputs
    if (encoded.windows == 1).all():
        return outputs
    known = np.where(np.isfinite(logits), logits, np.float32(np.nan))
    largest = np.maximum.reduceat(known, encoded.first_rows, axis=0)
    totals = np.add.reduceat(embeddings, encoded.first_rows, axis=0)
    means = np.asarray(totals / encoded.windows[:, None], dtype=np.float32)
    return np.asarray(largest, dtype=np.float32), means

"""TF-IDF of n-gram counts: sublinear term frequency, smooth inverse document frequency, rows of length 1.

The same weighting as scikit-learn's `TfidfTransformer(sublinear_tf=True)`, on a document frequency that is given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize


def inverse_document_frequency(frequency: NDArray[np.int64], rows: int) -> NDArray[np.float32]:
    """`ln((1 + rows) / (1 + frequency)) + 1`, as if one more row held every n-gram; at least 1."""
    return (np.log((1 + rows) / (1 + frequency)) + 1).astype(np.float32)


def term_frequency(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """`1 + ln(count)`, for counts of at least 1."""
    return 1.0 + np.log(counts)


def tfidf(counts: csr_matrix, idf: NDArray[np.float32]) -> csr_matrix:
    """Features `(rows, ngrams)` in double precision; a row without a kept n-gram stays zero."""
    weighted = counts.astype(np.float64)
    weighted.data = term_frequency(weighted.data) * idf[weighted.indices]
    return normalize(weighted, norm="l2", copy=False)

"""The n-gram branch as numbers: dictionary, weights, and its logits in double precision.

What `graph` adds to an ONNX graph is measured against `NgramBranch.logits`, which shares no code with it beyond the
stored numbers. Knows nothing of ONNX, torch or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shudun.items import Item
from shudun.tokenization import Encoded, ItemTokenizer
from shudun_training.ngram_branch.dictionary import NgramDictionary
from shudun_training.ngram_branch.features import tfidf


@dataclass(frozen=True, slots=True)
class BlendWeights:
    """Weights of the encoder's and of the branch's logits in the final ones; shared by all labels, at least 0."""

    encoder: float
    branch: float


@dataclass(frozen=True, slots=True)
class NgramBranch:
    """A linear model over TF-IDF features of token n-grams, and its weight beside the encoder.

    `idf`: float32 `(ngrams,)`; `coefficients`: float32 `(ngrams, num_labels)`; `bias`: float32 `(num_labels,)`;
    `vocab_size` and `max_length` are those of the tokenizer whose ids the n-grams are made of.
    """

    dictionary: NgramDictionary
    idf: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    bias: NDArray[np.float32]
    vocab_size: int
    max_length: int
    weights: BlendWeights

    def logits(self, encoded: Encoded) -> NDArray[np.float64]:
        """Logits of the branch alone, `(rows, num_labels)`."""
        features = tfidf(self.dictionary.counts(encoded), self.idf)
        return np.asarray(features @ self.coefficients.astype(np.float64)) + self.bias

    def blend(
        self, encoder_logits: NDArray[np.floating[Any]], items: Sequence[Item], tokenizer: ItemTokenizer
    ) -> NDArray[np.float64]:
        """Final logits `(n, num_labels)` of items, from the encoder's."""
        own = self.logits(tokenizer.encode(items))
        return self.weights.encoder * encoder_logits.astype(np.float64) + self.weights.branch * own

    def summary(self) -> dict[str, Any]:
        """What it is, as plain JSON values."""
        return {
            "ngrams": len(self.dictionary),
            "by_order": list(self.dictionary.sizes),
            "encoder_weight": self.weights.encoder,
            "branch_weight": self.weights.branch,
        }

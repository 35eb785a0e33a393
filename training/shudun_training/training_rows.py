"""Tokenised training rows: fixed ones, or rows disguised anew in each epoch.

A disguised row depends on its id, the epoch and a seed alone, never on order, workers or what came before: a resumed
run sees the texts that an undisturbed one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer
from shudun_training.augmentation import Augmenter
from shudun_training.config import AugmentationConfig
from shudun_training.examples import Example, label_matrix


class HasLengths(Protocol):
    """Rows that know their lengths in tokens."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row `(n,)`, special tokens included."""


def build_augmenter(config: AugmentationConfig | None, examples: Sequence[Example]) -> Augmenter | None:
    """The augmenter that a configuration asks for, with its rates matched on the rows; `None` where it is off."""
    if config is None or config.probability == 0:
        return None
    augmenter = Augmenter(
        probability=config.probability,
        names=config.families,
        held_out=config.held_out,
        intensity=config.intensity,
        seed=config.seed,
    )
    return augmenter.match_rates(examples)


def training_dataset(
    examples: Sequence[Example], encoder: ItemTokenizer, taxonomy: Taxonomy, augmenter: Augmenter | None
) -> Dataset | AugmentedRows:
    """Rows to train on; without an augmenter they are tokenised once."""
    if augmenter is None:
        return to_dataset(examples, encoder, taxonomy)
    return AugmentedRows(examples, encoder, taxonomy, augmenter)


def row_lengths(rows: Dataset | HasLengths) -> NDArray[np.int64]:
    """Tokens of each row `(n,)`, special tokens included; of augmented rows before they are disguised."""
    return np.asarray(rows["length"]) if isinstance(rows, Dataset) else rows.lengths


def to_dataset(examples: Sequence[Example], encoder: ItemTokenizer, taxonomy: Taxonomy) -> Dataset:
    """Tokenised examples as a `datasets.Dataset`, ragged; `length` serves length grouping."""
    return Dataset.from_dict(_columns(examples, encoder, taxonomy))


class AugmentedRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples, disguised and tokenised when asked for; `set_epoch` is called by the data loader."""

    def __init__(
        self, examples: Sequence[Example], encoder: ItemTokenizer, taxonomy: Taxonomy, augmenter: Augmenter
    ) -> None:
        self._examples = examples
        self._encoder = encoder
        self._taxonomy = taxonomy
        self._augmenter = augmenter
        self._epoch = 0
        self.lengths: NDArray[np.int64] = encoder.encode([example.item for example in examples]).lengths

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose texts are given from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as of `to_dataset`; torch fetches a whole batch at once."""
        chosen = [self._examples[index] for index in indices]
        disguised = [replace(example, item=self._augmenter(example, self._epoch).item) for example in chosen]
        columns = _columns(disguised, self._encoder, self._taxonomy)
        columns["labels"] = columns["labels"].tolist()
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _columns(examples: Sequence[Example], encoder: ItemTokenizer, taxonomy: Taxonomy) -> dict[str, Any]:
    encoded = encoder.encode([example.item for example in examples])
    rows = range(len(examples))
    ids = [encoded.ids[encoded.starts[i] : encoded.starts[i + 1]] for i in rows]
    types = [(np.arange(len(row)) >= first).astype(np.int64) for row, first in zip(ids, encoded.first, strict=True)]
    labels = label_matrix(examples, taxonomy)
    return {"input_ids": ids, "token_type_ids": types, "length": encoded.lengths, "labels": labels}

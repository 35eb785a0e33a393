"""doccano: rows as JSONL for text classification.

`label` holds the positive labels and, as `?x`, those that are open. A row that is not labelled has no `label`. All
else is metadata, which doccano keeps and gives back: `id`, `kind`, `title`, `parent_text` and the row's own columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun_training.examples import Example
from shudun_training.importers.doccano import LABEL_COLUMNS, OPEN
from shudun_training.importers.parsing import item_columns


def write(examples: Iterable[Example], file: IO[str], taxonomy: Taxonomy) -> None:
    """Write one line for each example.

    Raises:
        ShudunError: a column of a row would be taken for its labels.
    """
    for example in examples:
        file.write(json.dumps(_row(example, taxonomy), ensure_ascii=False, default=str) + "\n")


def _row(example: Example, taxonomy: Taxonomy) -> dict[str, object]:
    taken = sorted(set(LABEL_COLUMNS) & set(example.meta))
    if taken:
        raise ShudunError(f"row {example.id}: doccano would read its column {taken[0]!r} as labels; rename it")
    row: dict[str, object] = dict(item_columns(example.item))
    if not set(taxonomy.label_ids) <= example.unknown_labels:
        positive = [label for label in taxonomy.label_ids if label in example.labels]
        row["label"] = positive + [OPEN + label for label in taxonomy.label_ids if label in example.unknown_labels]
    return {**row, **example.meta}

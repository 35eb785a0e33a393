"""What an importer is: a plan of the parts to read, each with a conversion of one record into the item format.

Knows neither how parts are written nor split (see `runner`), nor any particular source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from shudun.errors import ShudunError
from shudun.items import KINDS
from shudun.records import Encoding, RecordOrBad
from shudun.rows import Row
from shudun.taxonomy import Label, Taxonomy

ITEM_COLUMNS = ("id", "kind", "title", "text", "parent_text")
"""Item fields that a source's own columns may be mapped to; so may `labels`, `unknown_labels` and `group`."""

OTHER_COLUMNS = ("labels", "unknown_labels", "group")

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Split of a published data set that has none of its own."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is left out on purpose: known to its source and counted, but no row and no error."""

    reason: str


Convert: TypeAlias = Callable[[Row], Mapping[str, Any] | Dropped]
"""From one record to a row in the item format, other columns included.

Raises `RowError` for a record that is not what its format documents."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the input, or one split of a data set.

    `split` is the part's official split; `None` leaves it to the runner. `path` names the part in reports.
    """

    path: Path
    records: Callable[[], Iterator[RecordOrBad]]
    convert: Convert
    split: str | None = None


@dataclass(frozen=True)
class Plan:
    """What will be read, and against which labels its rows are checked.

    `shares`: default split of a source without official splits; `None` writes one file. `drop_repeats`: official
    splits lose the rows whose text stands in an earlier part, in the order of `parts`. `tally` counts what the
    conversion leaves out by rule, and `verify` may refuse what was read as a whole.
    """

    parts: Sequence[Part]
    taxonomy: Taxonomy
    annotated_labels: Sequence[str] | None = None
    shares: Mapping[str, float] | None = None
    drop_repeats: bool = False
    tally: Counter[str] = field(default_factory=Counter)
    verify: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person says about their own data; published data sets need none of it.

    `label_map`: source label → label of the taxonomy, or an empty string to leave it out. `label_separator`: how
    labels are joined in one text cell.
    """

    taxonomy: Taxonomy | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    annotated_labels: Sequence[str] | None = None
    encoding: Encoding = "utf-8"
    label_separator: str | None = None

    def column(self, name: str) -> str:
        """The column that holds a field."""
        return self.columns.get(name, name)

    def checked(self, *, unused: Sequence[str] = ()) -> Taxonomy:
        """The taxonomy, with the other options checked against it.

        Args:
            unused: options that the format has no use for.

        Raises:
            ShudunError: no taxonomy, an unknown field, labels that the taxonomy does not have, or an unused option.
        """
        if given := [name for name in unused if getattr(self, name)]:
            raise ShudunError(f"this format has no use for {', '.join(map(_flag, given))}; leave it out")
        if self.taxonomy is None:
            raise ShudunError("your own data need a taxonomy: give --taxonomy FILE, e.g. configs/taxonomy/xhs.yaml")
        fields = (*ITEM_COLUMNS, *OTHER_COLUMNS)
        if strange := sorted(set(self.columns) - set(fields)):
            raise ShudunError(f"--column: no field {', '.join(strange)}; there are {', '.join(fields)}")
        targets = {label for label in self.label_map.values() if label} | set(self.annotated_labels or ())
        if unknown := sorted(targets - set(self.taxonomy.label_ids)):
            raise ShudunError(
                f"--label-map, --annotated-labels: not in taxonomy {self.taxonomy.id}: {', '.join(unknown)}"
            )
        return self.taxonomy


Planner: TypeAlias = Callable[[Path, ImportOptions], Plan]
"""Plans the import of a path: a file, a folder, or for some formats the name of a hub data set."""


def _flag(option: str) -> str:
    return "--column" if option == "columns" else f"--{option.replace('_', '-')}"


def published_taxonomy(name: str, label_ids: Iterable[str]) -> Taxonomy:
    """Labels of a published data set, enough to check rows by; definitions stand in `configs/taxonomy/`."""
    labels = tuple(Label(id=x, name_zh=x, family=name, tier="T2", applies_to=KINDS) for x in label_ids)
    return Taxonomy(id=name, version="", labels=labels)


def only_file(path: Path, *endings: str) -> Path:
    """`path`, when it is a file of one of these types.

    Raises:
        ShudunError: it is missing, or another type.
    """
    if not path.name.lower().endswith(endings):
        raise ShudunError(f"{path}: expected a file ending in {', '.join(endings)}")
    if not path.is_file():
        raise ShudunError(f"{path}: no such file")
    return path

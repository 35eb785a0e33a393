"""Loading of labelled rows: files, folders of splits, `datasets` folders and hub data sets, all alike.

Every road ends in the same row parser, so a bad row is reported in the same way wherever it comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from shudun.errors import ShudunError
from shudun.records import FORMATS, Record
from shudun.rows import OnBadRow, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.config import SourceConfig
from shudun_training.examples import Example, ExampleParser

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What was read: for provenance and for finding the same rows again.

    `sha256` is over the file's bytes, or over the canonical JSON of the rows of a `datasets` source. `used` of the
    `good` rows were drawn by `share`.
    """

    path: str
    split: str | None
    columns: dict[str, str]
    annotated_labels: list[str] | None
    sha256: str
    read: int
    good: int
    rejected: int
    share: float = 1.0
    repeat: int = 1
    used: int = 0

    @property
    def name(self) -> str:
        """Short name for reports: file or folder, and split."""
        return Path(self.path).name + (f"/{self.split}" if self.split else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def config(self) -> SourceConfig:
        """The source as configuration, to read it again."""
        return SourceConfig(
            path=self.path,
            split=self.split,
            columns=self.columns,
            annotated_labels=self.annotated_labels,
            share=self.share,
            repeat=self.repeat,
        )


def load_examples(
    sources: Sequence[SourceConfig],
    taxonomy: Taxonomy,
    *,
    on_bad_row: OnBadRow = "fail",
    rejected_dir: Path | None = None,
) -> tuple[list[Example], list[SourceRecord]]:
    """Read all sources in order; ids must be unique within each source.

    Raises:
        ShudunError: a source cannot be read, or holds no usable row.
    """
    examples: list[Example] = []
    records = []
    for number, source in enumerate(sources):
        rows, record = _load_one(source, number, taxonomy, on_bad_row, rejected_dir)
        if not rows:
            raise ShudunError(f"{source.path}: no usable row ({record.read} read, {record.rejected} rejected)")
        examples += rows
        records.append(record)
    return examples, records


def _load_one(
    source: SourceConfig, number: int, taxonomy: Taxonomy, on_bad_row: OnBadRow, rejected_dir: Path | None
) -> tuple[list[Example], SourceRecord]:
    try:
        parser = ExampleParser(taxonomy, source.annotated_labels)
    except ValueError as error:
        raise ShudunError(f"{source.path}: {error}") from error
    file = _local_file(source)
    dataset = None if file else _load_dataset(source)
    rejected = None if rejected_dir is None else rejected_dir / f"{number}-{Path(source.path).name}.rejected.jsonl"
    reader = RowReader(
        file or Path(source.path),
        parser,
        on_bad_row=on_bad_row,
        rejected_path=rejected,
        columns=source.columns,
        records=None if dataset is None else _dataset_records(dataset),
    )
    rows = [example for example in reader if _drawn(example, source.share)]
    record = SourceRecord(
        path=source.path,
        split=source.split,
        columns=dict(source.columns),
        annotated_labels=source.annotated_labels,
        sha256=file_sha256(file) if file else _dataset_sha256(dataset),
        read=reader.read,
        good=reader.good,
        rejected=reader.rejected,
        share=source.share,
        repeat=source.repeat,
        used=len(rows),
    )
    return rows, record


def source_slices(records: Sequence[SourceRecord]) -> dict[str, slice]:
    """Where the rows of each source stand in what `load_examples` returns, by the source's name."""
    slices: dict[str, slice] = {}
    start = 0
    for number, record in enumerate(records, start=1):
        name = record.name if record.name not in slices else f"{record.name} ({number})"
        slices[name] = slice(start, start + record.used)
        start += record.used
    return slices


def repeated(examples: Sequence[T], records: Sequence[SourceRecord]) -> list[T]:
    """The rows of one training epoch: each source as often as its `repeat` says.

    `examples`: rows in the order of `load_examples`, or anything else that there is one of for each row.
    """
    slices = source_slices(records).values()
    return [
        example
        for record, part in zip(records, slices, strict=True)
        for _ in range(record.repeat)
        for example in examples[part]
    ]


def _drawn(example: Example, share: float) -> bool:
    # By the id and not by a random number, so that a row stays in or out whatever else the file holds.
    digest = hashlib.blake2b(str(example.id).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _local_file(source: SourceConfig) -> Path | None:
    """The file to read, or `None` when `datasets` must read the source."""
    path = Path(source.path)
    if path.is_file() and source.split is not None:
        raise ShudunError(f"{path}: 'split' chooses from a folder or a hub data set; leave it out for a file")
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return None
        if source.split is None:
            raise ShudunError(f"{path}: a folder needs 'split', e.g. train, to choose <split>.jsonl")
        found = [path / f"{source.split}{ending}" for ending in FORMATS]
        existing = [candidate for candidate in found if candidate.is_file()]
        if len(existing) != 1:
            names = ", ".join(candidate.name for candidate in found)
            raise ShudunError(f"{path}: expected exactly one of {names}; found {len(existing)}")
        return existing[0]
    if path.is_file() or path.is_absolute() or path.name.lower().endswith(FORMATS):
        return path
    return None


def _load_dataset(source: SourceConfig) -> Any:
    import datasets

    path = Path(source.path)
    if path.is_dir():
        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as error:  # pyarrow and datasets raise unrelated types
            raise ShudunError(f"{path}: cannot be read as a folder of datasets.save_to_disk: {error}") from error
        if isinstance(loaded, datasets.Dataset):
            return loaded
        if source.split not in loaded:
            raise ShudunError(f"{path}: no split {source.split!r}; it has {', '.join(loaded)}")
        return loaded[source.split]
    if source.split is None:
        raise ShudunError(f"{source.path}: a hub data set needs 'split', e.g. train")
    try:
        return datasets.load_dataset(source.path, split=source.split)
    except Exception as error:
        raise ShudunError(
            f"{source.path}: neither a local file or folder, nor a hub data set that can be loaded: {error}"
        ) from error


def _dataset_records(dataset: Any) -> Iterator[Record]:
    for line, values in enumerate(dataset, start=1):
        yield Record(line, values, json.dumps(values, ensure_ascii=False, default=str))


def _dataset_sha256(dataset: Any) -> str:
    digest = hashlib.sha256()
    for values in dataset:
        digest.update(json.dumps(values, sort_keys=True, ensure_ascii=True, default=str).encode("ascii"))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Unlabelled texts as a stream of chunks, always the same rows in the same order.

Bad rows go to a side file each; texts that stand in a labelled split are left out, since training rows are there with
their labels and the others are for measuring. Knows nothing of teachers and students.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.items import Item, is_blank
from shudun.records import Record, RecordOrBad, open_bytes, undecodable
from shudun.rendering import Rendered, render
from shudun.rows import Row, RowReader, parse_item
from shudun_training.distillation.config import TEXT_FORMATS, UnlabelledConfig
from shudun_training.distillation.ranks import rank

CHUNK_ROWS = 16384
"""Rows of a chunk: what is scored, kept and found again as a whole."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that belong together: the items, what a model sees of them, and the digest of the latter."""

    items: Sequence[Item]
    rendered: Sequence[Rendered]
    digest: str


@dataclass(slots=True)
class TextCounts:
    """What became of the rows of one file: `read == used + left_out + rejected` after the last chunk."""

    path: str
    read: int = 0
    used: int = 0
    left_out: int = 0
    rejected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def text_digest(rendered: Rendered) -> bytes:
    """16 bytes that tell texts apart as a model sees them."""
    segments = b"\0".join(segment.encode("utf-8") for segment in rendered.segments)
    return hashlib.blake2b(segments, digest_size=16, salt=bytes([rendered.primary, len(rendered.segments)])).digest()


def as_chunk(items: Sequence[Item], rendered: Sequence[Rendered] | None = None) -> Chunk:
    """One chunk of these items; the digest covers their texts and their order."""
    seen = [render(item) for item in items] if rendered is None else rendered
    digest = hashlib.blake2b(b"".join(map(text_digest, seen)), digest_size=16)
    return Chunk(items, seen, digest.hexdigest())


def chunks_of(items: Sequence[Item]) -> Iterator[Chunk]:
    """Items in memory as chunks, in order."""
    for start in range(0, len(items), CHUNK_ROWS):
        yield as_chunk(items[start : start + CHUNK_ROWS])


class UnlabelledTexts:
    """The texts of several files; each iteration reads them anew, and `counts` are those of the last one."""

    def __init__(
        self,
        sources: Sequence[UnlabelledConfig],
        *,
        labelled: Iterable[Item],
        rejected_dir: Path,
        rows: int = CHUNK_ROWS,
    ) -> None:
        """`labelled`: items of all splits, whose texts are left out; `rows`: of a chunk.

        Raises:
            ShudunError: a file is missing.
        """
        for source in sources:
            if not source.path.is_file():
                raise ShudunError(f"{source.path}: no such file (unlabelled texts)")
        self._sources = list(sources)
        self._labelled: Collection[bytes] = {text_digest(render(item)) for item in labelled}
        self._rejected_dir = rejected_dir
        self._rows = rows
        self.counts: list[TextCounts] = []

    def __iter__(self) -> Iterator[Chunk]:
        self.counts = []
        for number, source in enumerate(self._sources):
            yield from self._chunks(number, source)

    def _chunks(self, number: int, source: UnlabelledConfig) -> Iterator[Chunk]:
        counts = TextCounts(str(source.path))
        self.counts.append(counts)
        reader = _reader(source, self._rejected_dir / f"{number}-{source.path.name}{_suffix()}.rejected.jsonl")
        items: list[Item] = []
        rendered: list[Rendered] = []
        for item in reader:
            seen = render(item)
            if text_digest(seen) in self._labelled:
                counts.left_out += 1
                continue
            items.append(item)
            rendered.append(seen)
            if len(items) == self._rows:
                counts.used += len(items)
                yield as_chunk(items, rendered)
                items, rendered = [], []
        if items:
            counts.used += len(items)
            yield as_chunk(items, rendered)
        counts.read, counts.rejected = reader.read, reader.rejected


def _suffix() -> str:
    # Each process reads all files: two must not write one side file.
    return f".{rank()}" if rank() else ""


def _reader(source: UnlabelledConfig, rejected: Path) -> RowReader[Item]:
    is_text = source.path.name.lower().endswith(TEXT_FORMATS)
    return RowReader(
        source.path,
        _parse,
        on_bad_row="skip",
        rejected_path=rejected,
        columns=source.columns,
        records=_text_lines(source.path) if is_text else None,
    )


def _parse(row: Row) -> Item:
    item = parse_item(row)
    if is_blank(item):
        raise row.problem("text", "a non-blank text", row.get("text"), "Remove the row: there is nothing to score.")
    # Without an id a row is not held against the ids of millions of others: nothing here goes by ids.
    return replace(item, id=None)


def _text_lines(path: Path) -> Iterator[RecordOrBad]:
    """One record a line; blank lines are none."""
    with open_bytes(path) as file:
        for line, data in enumerate(file, start=1):
            content = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
            if not content.strip():
                continue
            try:
                text = content.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raw = content.decode("utf-8", "backslashreplace").rstrip("\r\n")
                got = f"byte {content[error.start]:#04x} at offset {error.start} of the line"
                yield undecodable(str(path), line, got, raw, "utf-8")
            else:
                yield Record(line, {"text": text}, text)

"""Running an import: read, check, write, split, count.

Nothing appears in the output folder unless the whole import succeeds; what an earlier import left there is replaced.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.rows import OnBadRow, RowReader
from shudun_training.importers.contract import Part, Plan
from shudun_training.importers.parsing import RowImporter
from shudun_training.importers.writing import ALL, HeldRows, Repeats, SplitCounts, SplitWriter, near_duplicate_note

RECORD, REJECTED = "import.json", "rejected"


@dataclass
class PartCounts:
    """What became of the records of one part: `read == written + sum(dropped) + rejected`."""

    file: str
    read: int = 0
    written: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class ImportResult:
    """Counts by part and by split, and remarks."""

    parts: list[PartCounts]
    splits: Mapping[str, SplitCounts]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "parts": [{**vars(part), "dropped": dict(part.dropped)} for part in self.parts],
            "splits": {
                name: {**vars(counts), "positives": dict(counts.positives)} for name, counts in self.splits.items()
            },
            "notes": self.notes,
        }


class ImportRun:
    """One import into a working folder, which `publish` moves into place."""

    def __init__(self, plan: Plan, folder: Path, *, on_bad_row: OnBadRow) -> None:
        self._plan = plan
        self._folder = folder
        self._on_bad_row = on_bad_row
        self._repeats = Repeats() if plan.drop_repeats else None
        self._held = HeldRows()
        self._official: dict[str, list[str]] = {}

    def run(self, shares: Mapping[str, float] | None, *, seed: int) -> ImportResult:
        """Read every part; split what has no official split by `shares`, or write it to one file.

        Raises:
            ShudunError: an unreadable part, no usable row, shares beside an official split, or a refused row.
        """
        official = {part.split is not None for part in self._plan.parts}
        if shares and True in official:
            raise ShudunError("the source has an official split, which is kept; leave out --split-shares")
        shares = shares or self._plan.shares
        with SplitWriter(self._folder) as writer:
            parts = [self._read(part, writer, hold=bool(shares)) for part in self._plan.parts]
        if not sum(part.written for part in parts):
            raise ShudunError(f"no usable row: {sum(part.read for part in parts):,} read, see the reasons above")
        self._plan.verify()
        notes = [f"{count:,} {what}" for what, count in self._plan.tally.items() if count]
        counts: Mapping[str, SplitCounts] = writer.counts
        if shares and False in official:
            counts, note = self._divide(shares, seed)
            notes.append(note)
        if {"train", "test"} <= set(self._official):
            notes.append(near_duplicate_note(self._official))
        return ImportResult(parts, counts, notes)

    def _read(self, part: Part, writer: SplitWriter, *, hold: bool) -> PartCounts:
        counts = PartCounts(str(part.path))
        reader = RowReader(
            part.path,
            RowImporter(part, self._plan),
            on_bad_row=self._on_bad_row,
            rejected_path=self._folder / REJECTED / f"{part.path.name}.rejected.jsonl",
            records=part.records(),
        )
        for row in reader:
            leak = self._repeats and part.split and self._repeats.leaks(row.text, part.split)
            if row.dropped or leak:
                counts.dropped[row.dropped or f"text stands in {leak}"] += 1
                continue
            counts.written += 1
            writer.write(part.split or ALL, row.line, row.labels)
            if hold:
                self._held.add(row)
            elif self._repeats and part.split:
                self._official.setdefault(part.split, []).append(row.text)
        counts.read, counts.rejected = reader.read, reader.rejected
        return counts

    def _divide(self, shares: Mapping[str, float], seed: int) -> tuple[Mapping[str, SplitCounts], str]:
        names, note = self._held.split(self._plan.taxonomy.label_ids, shares, seed=seed)
        whole = self._folder / f"{ALL}.jsonl"
        with SplitWriter(self._folder) as writer, whole.open(encoding="utf-8", newline="\n") as lines:
            for line, name, labels in zip(lines, names, self._held.labels, strict=True):
                writer.write(name, line, labels)
        whole.unlink()
        return {name: writer.counts[name] for name in shares if name in writer.counts}, note


def run_import(
    plan: Plan,
    output: Path,
    *,
    shares: Mapping[str, float] | None,
    seed: int,
    on_bad_row: OnBadRow,
    origin: Mapping[str, Any],
) -> ImportResult:
    """Run `plan` into the folder `output`; `origin` stands in its `import.json` beside the counts."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as name:
        folder = Path(name)
        result = ImportRun(plan, folder, on_bad_row=on_bad_row).run(shares, seed=seed)
        record = {**origin, "seed": seed, **result.to_dict()}
        text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
        _publish(folder, output)
    return result


def _publish(folder: Path, output: Path) -> None:
    if (output / RECORD).is_file():
        for split in json.loads((output / RECORD).read_text(encoding="utf-8"))["splits"]:
            (output / f"{Path(split).name}.jsonl").unlink(missing_ok=True)
        shutil.rmtree(output / REJECTED, ignore_errors=True)
    output.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        target = output / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)

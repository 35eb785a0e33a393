"""`shudun data noise`: labels that look wrong, as a queue for a person to review."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.table import Column, Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun.items import Comment, Note
from shudun.rows import OnBadRow, RowReader
from shudun.taxonomy import Taxonomy
from shudun_training.config import load_taxonomy
from shudun_training.examples import POSITIVE, Example, ExampleParser, label_matrix
from shudun_training.label_noise import LEAST_CELLS, doubtful_first, label_quality
from shudun_training.row_progress import row_progress
from shudun_training.unseen_probabilities import bundle_probabilities, file_probabilities, out_of_fold

SHOWN = 10
SHOWN_CHARACTERS = 50


@dataclass(frozen=True, slots=True)
class Suspect:
    """One label of one row that looks wrong.

    `given` is "positive" or "negative"; `probability` the model's for the label; `quality` cleanlab's score of the
    given value, 0 to 1, low where it is doubtful; `flagged` whether confident learning counts it as an error.
    """

    rank: int
    id: str | None
    label: str
    given: str
    probability: float
    quality: float
    flagged: bool
    kind: str
    title: str
    text: str
    parent_text: str
    labels: list[str]
    file: str


def review_queue(
    files: Sequence[Path],
    taxonomy_path: Path,
    output: Path,
    *,
    group_column: str | None,
    bundle: Path | None = None,
    scores: Path | None = None,
    limit: int = 500,
    seed: int = 20261120,
    doccano: Path | None = None,
    on_bad_row: str = "fail",
) -> None:
    """Write the `limit` most doubtful labels of the rows as JSON lines, most doubtful first, and print the first.

    Probabilities come from `bundle`, from `scores` (output of `shudun score` for the same ids), or from the linear
    baseline out of fold. Bad rows under "skip" go to `OUTPUT.rejected-<number of the file>.jsonl`.

    Raises:
        ShudunError: unusable rows, scores that miss a row or a label, or no label with enough rows.
    """
    if bundle is not None and scores is not None:
        raise ShudunError("--bundle and --scores are two sources of the same probabilities; give one")
    taxonomy = load_taxonomy(taxonomy_path)
    with row_progress() as step:
        examples, places = _load(files, taxonomy, cast("OnBadRow", on_bad_row), output)
        labels = label_matrix(examples, taxonomy)
        step("predicting", len(examples))
        if bundle is not None:
            probabilities = bundle_probabilities(bundle, [example.item for example in examples], taxonomy)
        elif scores is not None:
            probabilities = file_probabilities(scores, examples, taxonomy)
        else:
            probabilities = out_of_fold(
                [example.item for example in examples], labels, _groups(examples, group_column), seed=seed
            )
        step("judging", len(examples))
        quality, flagged = label_quality(labels, probabilities)
    queue = []
    for rank, (row, column) in enumerate(doubtful_first(labels, quality, flagged)[:limit].tolist(), start=1):
        item = examples[row].item
        suspect = Suspect(
            rank=rank,
            id=item.id,
            file=places[row],
            label=taxonomy.label_ids[column],
            given="positive" if labels[row, column] == POSITIVE else "negative",
            probability=round(float(probabilities[row, column]), 4),
            quality=round(float(quality[row, column]), 4),
            flagged=bool(flagged[row, column]),
            kind=item.kind,
            title=item.title if isinstance(item, Note) else "",
            text=item.text,
            parent_text=item.parent_text if isinstance(item, Comment) else "",
            labels=[label for label in taxonomy.label_ids if label in examples[row].labels],
        )
        queue.append(suspect)
    _write_lines(output, map(asdict, queue))
    if doccano is not None:
        _write_lines(doccano, _questions(queue))
    _print(queue, flagged, quality, taxonomy, output)


def _load(
    files: Sequence[Path], taxonomy: Taxonomy, on_bad_row: OnBadRow, output: Path
) -> tuple[list[Example], list[str]]:
    """The examples of all files, and the file of each."""
    examples: list[Example] = []
    places: list[str] = []
    for number, path in enumerate(files):
        side = output.with_name(f"{output.name}.rejected-{number}.jsonl")
        reader = RowReader(path, ExampleParser(taxonomy), on_bad_row=on_bad_row, rejected_path=side)
        examples += reader
        places += [path.name] * reader.good
        if reader.rejected:
            terminal.console().print(f"{path}: {reader.rejected:,} bad rows: {side}", soft_wrap=True)
    if not examples:
        raise ShudunError(f"no usable row in {', '.join(map(str, files))}")
    return examples, places


def _groups(examples: Sequence[Example], column: str | None) -> list[str | None] | None:
    if column is None:
        return None
    names = [example.meta.get(column) for example in examples]
    if not any(names):
        raise ShudunError(f"no row has a '{column}', which --group-column names")
    return [str(name) if name else None for name in names]


def _questions(queue: Iterable[Suspect]) -> Iterator[dict[str, Any]]:
    """One row for each text, as doccano imports it: its labels, and in words what is doubtful about them."""
    by_text = sorted(queue, key=lambda suspect: (suspect.file, suspect.id or ""))
    rows = []
    for _, group in groupby(by_text, key=lambda suspect: (suspect.file, suspect.id)):
        first, *others = sorted(group, key=lambda suspect: suspect.rank)
        doubts = [f"{s.label}: given {s.given}, p={s.probability:.2f}" for s in (first, *others)]
        texts = [
            part for part in (first.title, first.text, first.parent_text and f"[回复] {first.parent_text}") if part
        ]
        row = {"id": first.id, "file": first.file, "text": "\n".join(texts), "label": first.labels, "Comments": doubts}
        rows.append((first.rank, row))
    for _, row in sorted(rows, key=lambda entry: entry[0]):
        yield row


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _print(
    queue: Sequence[Suspect],
    flagged: NDArray[np.bool_],
    quality: NDArray[np.float64],
    taxonomy: Taxonomy,
    output: Path,
) -> None:
    console = terminal.console()
    table = Table("rank", "id", "label", "given", "p", "quality", Column("text", overflow="fold"))
    for suspect in queue[:SHOWN]:
        text = " ".join(f"{suspect.title} {suspect.text}".split())[:SHOWN_CHARACTERS]
        figures = [f"{suspect.probability:.2f}", f"{suspect.quality:.2f}"]
        table.add_row(str(suspect.rank), str(suspect.id), suspect.label, suspect.given, *figures, text)
    console.print(table)
    judged = (~np.isnan(quality)).sum()
    console.print(f"{judged:,} labels of {len(quality):,} rows judged, {flagged.sum():,} counted as errors")
    console.print(f"{len(queue):,} most doubtful: {output}", soft_wrap=True)
    if left_out := [taxonomy.label_ids[i] for i in np.flatnonzero(np.isnan(quality).all(axis=0))]:
        console.print(f"not judged, fewer than {LEAST_CELLS} positives or negatives: {', '.join(left_out)}")

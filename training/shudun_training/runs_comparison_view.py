"""A comparison of runs on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from shudun import terminal
from shudun.errors import ShudunError
from shudun_training.runs_compare import PER_LABEL, Run, compare
from shudun_training.runs_table import SHORT, STDOUT, write_json


def compare_runs(folders: Sequence[Path], *, seed: int = 0, json_path: Path | None = None) -> None:
    """Print what differs between runs; `json_path` takes the comparison ("-": standard output alone).

    Raises:
        ShudunError: fewer than two folders, or more than there are letters; one of them holds no readable run.
    """
    if not 2 <= len(folders) <= len(ascii_uppercase):
        raise ShudunError(f"expected 2 to {len(ascii_uppercase)} run folders to compare, got {len(folders)}")
    content = compare([Run.read(folder) for folder in folders], seed=seed)
    if json_path is not None:
        write_json(content, json_path)
    if json_path != STDOUT:
        _print(content, terminal.console())


def _print(content: Mapping[str, Any], console: Console) -> None:
    letters = ascii_uppercase[: len(content["runs"])]
    for letter, run in zip(letters, content["runs"], strict=True):
        console.print(f"{letter}  {run}", soft_wrap=True)
    _print_changes("configuration", content["config"], letters, console)
    _print_changes("versions", content["versions"], letters, console)
    _print_data(content["data"], letters, console)
    for letter, difference in zip(letters[1:], content["differences"], strict=True):
        word = "comparable" if difference["comparable"] else "NOT comparable"
        console.print(f"{letter} and {letters[0]} are {word}: {difference['why']}", soft_wrap=True)
    _print_overall(content, letters, console)
    _print_labels(content, letters, console)


def _print_changes(title: str, changes: Mapping[str, Sequence[Any]], letters: str, console: Console) -> None:
    if not changes:
        console.print(f"{title}: the same")
        return
    table = Table("key", *letters, title=f"{title}: what differs", title_justify="left")
    for key, values in changes.items():
        table.add_row(key, *("-" if value is None else str(value) for value in values))
    console.print(table)


def _print_data(data: Mapping[str, Mapping[str, Any]], letters: str, console: Console) -> None:
    table = Table("data", "", *letters, title="data checksums", title_justify="left")
    for name, found in data.items():
        cells = ["-" if checksum is None else checksum[:SHORT] for checksum in found["checksums"]]
        table.add_row(name, "same" if found["same"] else "DIFFERENT", *cells)
    console.print(table)


def _print_overall(content: Mapping[str, Any], letters: str, console: Console) -> None:
    table = Table("figure", *_columns(content, letters), title="figures over all labels", title_justify="left")
    for part in ("test", "validation", "baseline"):
        for name in ("macro_f1", "micro_f1", "macro_ap"):
            row = [f"{part} {name}"]
            row += [_figure((metrics or {}).get(part), name) for metrics in content["metrics"]]
            shown = [d for d in content["differences"] if d["comparable"]]
            row += [_interval(d["overall"].get(name) if part == "test" else None) for d in shown]
            table.add_row(*row)
    console.print(table)


def _print_labels(content: Mapping[str, Any], letters: str, console: Console) -> None:
    metrics = [found["per_label"] if found else {} for found in content["metrics"]]
    labels = dict.fromkeys(label for found in metrics for label in found)
    shown = [difference for difference in content["differences"] if difference["comparable"]]
    for name in PER_LABEL:
        title = f"{name.upper()} per label"
        table = Table(
            "label",
            Column("positives", justify="right"),
            *_columns(content, letters),
            title=title,
            title_justify="left",
        )
        for label in labels:
            positives = next((str(found[label]["positives"]) for found in metrics if label in found), "-")
            row = [label, positives, *(_figure(found.get(label), name) for found in metrics)]
            table.add_row(*row, *(_interval(difference["per_label"][label][name]) for difference in shown))
        console.print(table)


def _columns(content: Mapping[str, Any], letters: str) -> list[Column]:
    pairs = zip(letters[1:], content["differences"], strict=True)
    names = [f"{letter} - {letters[0]}" for letter, difference in pairs if difference["comparable"]]
    return [Column(name, justify="right") for name in (*letters, *names)]


def _figure(values: Mapping[str, Any] | None, name: str) -> str:
    value = None if values is None else values.get(name)
    return "-" if value is None else f"{value:.3f}"


def _interval(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "-"
    if "low" not in value:
        return f"{value['delta']:+.3f}"
    return f"{value['delta']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"

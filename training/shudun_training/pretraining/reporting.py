"""What a person sees of a run and what is kept of it: a bar on terminals, lines, and the curve as JSONL."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from shudun.errors import ShudunError


class Meter:
    """Means of the losses and the speed since the last line."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        self.steps = self.tokens = 0
        self._began = time.perf_counter()

    def add(self, masked: Tensor, bag: Tensor) -> None:
        """Add this process's shares of one part of a step."""
        self._sums += torch.stack([masked.detach(), bag.detach()]).double()

    def end_step(self, tokens: int) -> None:
        """Count a step."""
        self.steps += 1
        self.tokens += tokens

    @property
    def sums(self) -> Tensor:
        """Sums of both losses of this process, float64 `(2,)`."""
        return self._sums

    @property
    def seconds(self) -> float:
        """Seconds since the beginning or the last reset."""
        return time.perf_counter() - self._began


class Curve:
    """The curve of a run: `curve.jsonl`, log lines and a bar; it writes in one process alone."""

    def __init__(self, path: Path, *, start: int, steps: int, shown: bool) -> None:
        """Go on with the curve at `start`; entries behind that step, of a life that was cut off, are dropped."""
        self._path, self._steps, self._shown = path, steps, shown
        if shown:
            kept = [entry for entry in read_curve(path) if entry["step"] <= start]
            path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not shown or not sys.stderr.isatty(), file=sys.stderr
        )

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def write(self, entry: dict[str, Any]) -> None:
        """Keep an entry and show it as a line."""
        if not self._shown:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        tqdm.write(_line(entry, self._steps), file=sys.stderr)

    def __enter__(self) -> Curve:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The entries of a curve; one that was cut off at the end is left out.

    Raises:
        ShudunError: something else than a curve is there.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ShudunError(f"{path}: no curve of a run: {error}") from error


def _line(entry: dict[str, Any], steps: int) -> str:
    shown = {
        "masked": "loss {:.3f}",
        "bag": "bag of words {:.3f}",
        "lr": "rate × {:.2f}",
        "tokens_per_s": "{:,.0f} tokens/s",
        "held_out": "held-out loss {:.3f}",
        "perplexity": "perplexity {:.1f}",
    }
    parts = [text.format(entry[name]) for name, text in shown.items() if name in entry]
    return "  ".join([f"step {entry['step']:,}/{steps:,}", *parts])

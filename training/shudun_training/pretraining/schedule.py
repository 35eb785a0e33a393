"""The learning rate over the steps: it rises, stays, and falls to zero over the last ones.

Warmup-stable-decay (Hu et al. 2024, arXiv:2404.06395): until the fall begins no step depends on how many there will
be, so that a run can be prolonged, or several falls begun from one point.
"""

from __future__ import annotations

from typing import NamedTuple


class Schedule(NamedTuple):
    """Steps in all, and how many of them the learning rate rises and falls over."""

    steps: int
    warmup_steps: int
    decay_steps: int

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at a step (0-based)."""
        rise = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        fall = min((self.steps - step) / max(self.decay_steps, 1), 1.0)
        return rise * fall

    def agrees(self, other: Schedule, steps: int) -> bool:
        """Whether another schedule had the same factors over the first `steps` steps."""
        return steps <= min(self.steps, other.steps) and all(
            self.factor(step) == other.factor(step) for step in range(steps)
        )

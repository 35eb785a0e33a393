"""What an audit says: findings, each of one check and one level, and which levels fail the command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from shudun.errors import ShudunError

Level: TypeAlias = Literal["error", "warning", "note"]
FailOn: TypeAlias = Literal["error", "warning", "note", "never"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

DEFAULT_LEVELS: Mapping[str, Level] = {
    "invalid_rows": "error",
    "repeated_ids": "error",
    "group_leakage": "error",
    "near_duplicate_leakage": "error",
    "judged_text_leakage": "error",
    "conflicting_labels": "error",
    "personal_data": "error",
    "links": "warning",
    "missing_evidence": "warning",
    "labels_without_positives": "warning",
    "unknown_tokens": "warning",
    "surface_imbalance": "warning",
    "duplicates_within_split": "warning",
    "few_positives": "note",
}
"""Check → level of its findings, unless `--level` says otherwise."""

EXAMPLES = 5
"""Examples that a finding shows at most."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: `count` cases in all, of which `examples` shows the first `EXAMPLES`, personal data masked."""

    check: str
    count: int
    message: str
    examples: tuple[str, ...] = ()
    level: Level = "note"

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self) | {"examples": list(self.examples)}


def with_levels(findings: Iterable[Finding], levels: Mapping[str, Level]) -> list[Finding]:
    """Findings that counted anything, with the level of their check, most severe first."""
    found = [replace(finding, level=levels[finding.check]) for finding in findings if finding.count]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def failing(findings: Iterable[Finding], fail_on: FailOn) -> list[Finding]:
    """The findings at or above level `fail_on`; none for "never"."""
    if fail_on == "never":
        return []
    return [finding for finding in findings if LEVELS.index(finding.level) <= LEVELS.index(fail_on)]


def parse_levels(pairs: Iterable[str]) -> dict[str, Level]:
    """Check → level from `CHECK=LEVEL` options, defaults for the others.

    Raises:
        ShudunError: unknown check or level.
    """
    levels = dict(DEFAULT_LEVELS)
    for pair in pairs:
        check, _, level = pair.partition("=")
        if check not in levels or level not in LEVELS:
            raise ShudunError(
                f"--level {pair}: expected CHECK=LEVEL with a check of {', '.join(levels)} "
                f"and a level of {', '.join(LEVELS)}"
            )
        levels[check] = level
    return levels

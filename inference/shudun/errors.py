"""Errors a user can act on: each says what was expected, what was found and what to do.

Every exception that the packages raise on purpose derives from `ShudunError`; anything else is a bug.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


class ShudunError(Exception):
    """Base of all errors that shudun raises on purpose."""


class BundleError(ShudunError):
    """A bundle is incomplete, altered, foreign, or does not fit this version of shudun."""


class DeviceError(ShudunError):
    """The requested device or execution provider is not what would run."""


class DeviceMemoryError(DeviceError):
    """A batch does not fit in the memory of its device; a smaller one may."""


class TaxonomyError(ShudunError):
    """A taxonomy or policy definition is not usable."""


class MissingExtraError(ShudunError):
    """An optional dependency is absent; the message holds the exact install line."""

    def __init__(self, what: str, extra: str, cause: ImportError) -> None:
        super().__init__(f"{what} needs the '{extra}' extra ({cause}). Install it with: pip install 'shudun[{extra}]'")


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Where a row is wrong and what to do about it.

    `line` is 1-based: the physical line for JSONL and CSV (the first line of a multi-line CSV record),
    the row number for Parquet and hub datasets.
    """

    file: str
    line: int
    field: str
    expected: str
    got: str
    hint: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: field '{self.field}': expected {self.expected}, got {self.got}. {self.hint}"

    def to_dict(self) -> dict[str, object]:
        """The problem as plain JSON values."""
        return asdict(self)


class RowError(ShudunError):
    """One row of input cannot be used; `problem` locates it."""

    def __init__(self, problem: RowProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem

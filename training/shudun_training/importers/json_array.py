"""The elements of a JSON file that is one array, as texts, piece by piece.

Only brackets and quotes are followed and nothing is parsed, so that a broken element can be reported and the next
one read. Memory is that of the longest element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shudun.errors import ShudunError

MAX_ELEMENT_CHARS = 1 << 26
"""Longest element: past it a bracket or quote is missing, and the rest cannot be told apart."""

_STRUCTURE = re.compile(r'["\\\[\]{},]')
_BLANK = re.compile(r"\s+")


def array_elements(chunks: Iterator[str], name: str) -> Iterator[tuple[int, str]]:
    """First line and text of each element of the array that `chunks` hold; `name` stands in errors.

    Raises:
        ShudunError: no array, something after it, or brackets or quotes that do not close.
    """
    scanner = _Scanner(name)
    for chunk in chunks:
        yield from scanner.feed(chunk)
    scanner.end()


class _Scanner:
    """Where the reading stands: in which element, how deep, and whether inside a string."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""
        self._start, self._line = 0, 1  # of the element that is being read
        self._depth, self._quoted, self._escaped, self._closed = 0, False, -1, False

    def feed(self, chunk: str) -> Iterator[tuple[int, str]]:
        """Elements that end in this piece."""
        position = len(self._text) - self._start  # what is left over was looked through before
        self._escaped -= self._start
        self._text, self._start = self._text[self._start :] + chunk, 0
        while match := _STRUCTURE.search(self._text, position):
            position = match.end()
            if self._in_string(match.start(), match.group()):
                continue
            element = self._bracket(match.start(), match.group())
            if element is not None:
                yield element
        if len(self._text) - self._start > MAX_ELEMENT_CHARS:
            raise self._error(f"an element of over {MAX_ELEMENT_CHARS:,} characters; is a quote or bracket open?")

    def end(self) -> None:
        """Check that the array was whole and alone."""
        if not self._closed:
            problem = "the array does not close: the file is cut short, or a quote or bracket is open"
            raise self._error(problem if self._depth else "expected a JSON array, which begins with '['")
        if self._text[self._start :].strip():
            raise self._error("something stands after the end of the array")

    def _in_string(self, at: int, char: str) -> bool:
        """Follow quotes and escapes; whether the character is part of a string."""
        if not self._quoted:
            self._quoted = char == '"'
            return char in '"\\'
        if char == "\\" and at != self._escaped:
            self._escaped = at + 1
        elif char == '"' and at != self._escaped:
            self._quoted = False
        return True

    def _bracket(self, at: int, char: str) -> tuple[int, str] | None:
        if self._depth == 0:
            if char != "[" or self._closed or self._text[self._start : at].strip():
                after = "something stands after the end of the array"
                raise self._error(after if self._closed else "expected a JSON array, which begins with '['")
            self._move(at)
        self._depth += (char in "[{") - (char in "]}")
        self._closed = self._depth == 0
        if self._closed or (char == "," and self._depth == 1):
            return self._finish(at, last=self._closed)
        return None

    def _finish(self, at: int, *, last: bool) -> tuple[int, str] | None:
        first_line, bare = self._first_line(), self._text[self._start : at].strip()
        self._move(at)
        return None if last and not bare else (first_line, bare)

    def _first_line(self) -> int:
        """Line in which what stands at `_start`, or after the blanks there, begins."""
        blank = _BLANK.match(self._text, self._start)
        return self._line + self._text.count("\n", self._start, blank.end() if blank else self._start)

    def _move(self, at: int) -> None:
        self._line += self._text.count("\n", self._start, at)
        self._start = at + 1

    def _error(self, problem: str) -> ShudunError:
        return ShudunError(f"{self._name}:{self._first_line()}: {problem}")

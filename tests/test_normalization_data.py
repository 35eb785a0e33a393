"""The shipped character tables are what their script generates, and they are settled."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = json.loads((ROOT / "inference" / "shudun" / "normalization_data.json").read_text(encoding="utf-8"))


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def test_the_shipped_tables_are_generated():
    found = {"unicode": unicodedata.unidata_version, "opencc": installed("opencc"), "regex": installed("regex")}
    if found != SHIPPED["versions"]:
        pytest.skip(f"the tables were made with {SHIPPED['versions']}, here are {found}")
    spec = importlib.util.spec_from_file_location("make", ROOT / "scripts" / "make_normalization_data.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.tables() | {"split": SHIPPED["split"]} == SHIPPED


def folds() -> dict[str, str]:
    found = {
        source: target for fold in SHIPPED["fold"].values() for target, sources in fold.items() for source in sources
    }
    return found | dict(zip(*SHIPPED["traditional"], strict=True))


def test_no_fold_makes_what_another_undoes():
    found, (ambiguous, simple) = folds(), SHIPPED["traditional_in_context"]
    dropped = {chr(cp) for low, high in SHIPPED["dropped"] for cp in range(low, high + 1)}
    made = set("".join(found.values())) | set(simple)
    assert made.isdisjoint(found)
    assert made.isdisjoint(dropped)
    assert made.isdisjoint(ambiguous)
    assert dropped.isdisjoint(found)


def test_traditional_forms_are_folded_one_for_one():
    for sources, targets in (SHIPPED["traditional"], SHIPPED["traditional_in_context"]):
        assert len(sources) == len(set(sources)) == len(targets)


def test_common_simplified_text_is_never_folded_out_of_context():
    """GB 2312 level 1: the 3,755 characters in daily use."""
    common = [
        bytes([row, cell]).decode("gb2312")
        for row in range(0xB0, 0xD8)
        for cell in range(0xA1, 0xFF)
        if (row, cell) < (0xD7, 0xFA)
    ]
    assert len(common) == 3755
    assert set(common).isdisjoint(folds())


def test_split_characters_have_a_bound_half():
    left, right = SHIPPED["bound"]
    split = SHIPPED["split"]
    for i in range(0, len(split), 3):
        assert split[i] in left or split[i + 1] in right

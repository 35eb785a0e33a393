"""Shortcuts in the data we ship: models that see no meaning, and how far positive and clean rows look apart.

Band: a probe stays near chance when its macro average precision is at most `NEAR` above the 97.5th percentile of
chance. The linear text model is 0.66 (validation) and 0.74 (test) above chance, so a shortcut within the band explains
less than a thirteenth of what can be learnt. Labels that what is seen defines by nature are left out of a probe: the
rules of `hard_sell_template` (slogans, walls of tags) and `clickbait` (sensational titles) speak of punctuation,
`regulated_service_promo` and `academic_cheating` are bound to trades, and a covert advertisement is one for a brand.

Where the data are not near chance, that is said in `BEYOND` with the figure at hand, and an expected failure that turns
into an error as soon as new rows mend it. `CEILING` keeps every figure from growing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from shudun import Comment, Taxonomy
from shudun.items import Kind
from shudun.rows import RowReader
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser
from shudun_training.shortcuts import (
    ProbeResult,
    View,
    average_precision,
    brand_names,
    count_emoji,
    emoji_and_marks,
    find_brand_names,
    lengths,
    own_text,
    probe,
    separation,
    verticals,
)

ROOT = Path(__file__).parents[1]
XHS = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")

Splits = Mapping[str, list[Example]]

NEAR = 0.05

PROBES: Mapping[str, tuple[View, tuple[str, ...]]] = {
    "lengths": (lengths, ()),
    "emoji and marks": (emoji_and_marks, ("hard_sell_template", "clickbait")),
    "vertical": (verticals, ("regulated_service_promo", "academic_cheating")),
    "brand names": (brand_names, ("covert_ad",)),
}
"""What is seen, and the labels that it defines by nature."""

BEYOND = {
    (
        "lengths",
        "validation",
    ): "0.170: covert ads and fabricated experiences are told at length, calls to write are short",
    ("lengths", "test"): "0.155, 0.004 over the band",
    ("emoji and marks", "validation"): "0.246: exclamation marks, colons and full stops go with violations",
    ("emoji and marks", "test"): "0.181: so they do here",
    ("vertical", "test"): "0.167: fake_engagement, pirated_content and shill_comment keep to few verticals",
}

CEILING = {
    ("lengths", "validation"): 0.19,
    ("lengths", "test"): 0.18,
    ("emoji and marks", "validation"): 0.28,
    ("emoji and marks", "test"): 0.21,
    ("vertical", "validation"): 0.14,
    ("vertical", "test"): 0.20,
    ("brand names", "validation"): 0.13,
    ("brand names", "test"): 0.16,
}

BALANCE = 0.1
"""A random positive row beats a random clean row of its kind in 0.5 of all cases, give or take this."""

COUNTS: Mapping[str, Callable[[str], float]] = {
    "emoji": count_emoji,
    "characters": len,
    "exclamation marks": lambda text: text.count("!") + text.count("！"),
}


def expected(cases: Mapping[tuple[str, ...], str], *choices: tuple[str, ...]) -> list[object]:
    """Every combination; those known to fail are expected to, and must be removed from the list once they do not."""
    found: list[tuple[str, ...]] = [()]
    for values in choices:
        found = [(*head, value) for head in found for value in values]
    marks = {case: pytest.mark.xfail(strict=True, reason=reason) for case, reason in cases.items()}
    return [pytest.param(*case, marks=marks.get(case, ())) for case in found]


@pytest.fixture(scope="module")
def splits() -> Splits:
    parse = ExampleParser(XHS)
    folder = ROOT / "data_cards" / "shudun-xhs"
    return {name: list(RowReader(folder / f"{name}.jsonl", parse)) for name in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def results(splits: Splits) -> dict[tuple[str, str], ProbeResult]:
    tests = {name: splits[name] for name in ("validation", "test")}
    return {
        (name, split): result
        for name, (view, _) in PROBES.items()
        for split, result in probe(view, splits["train"], tests, XHS).items()
    }


@pytest.mark.parametrize(("name", "split"), expected(BEYOND, tuple(PROBES), ("validation", "test")))
def test_a_model_that_sees_only_a_shortcut_stays_near_chance(
    name: str, split: str, results: dict[tuple[str, str], ProbeResult]
) -> None:
    found, chance, chance_high = results[name, split].macro(without=PROBES[name][1])
    assert chance < 0.12
    assert found <= chance_high + NEAR, f"{found:.3f}, chance {chance:.3f}, at most {chance_high:.3f} by luck"


@pytest.mark.parametrize(("name", "split"), CEILING)
def test_no_shortcut_grows(name: str, split: str, results: dict[tuple[str, str], ProbeResult]) -> None:
    found, _, _ = results[name, split].macro(without=PROBES[name][1])
    assert found <= CEILING[name, split], f"{found:.3f}"


@pytest.mark.parametrize(
    ("what", "kind", "split"), expected({}, tuple(COUNTS), ("note", "comment"), ("train", "validation", "test"))
)
def test_positive_and_clean_rows_are_balanced(what: str, kind: Kind, split: str, splits: Splits) -> None:
    rows = [row for row in splits[split] if row.item.kind == kind and not row.unknown_labels]
    values = {bool(row.labels): [] for row in rows} | {True: [], False: []}
    for row in rows:
        values[bool(row.labels)].append(COUNTS[what](own_text(row)))
    assert abs(separation(values[True], values[False]) - 0.5) <= BALANCE


def planted(taxonomy: Taxonomy, seed: int, cue: str = "!") -> list[Example]:
    """Rows whose first label always has the cue, and whose other label has nothing to do with it."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(200):
        labels = {name for name in ("diversion", "shill") if rng.random() < 0.3}
        text = "好" * int(rng.integers(3, 30)) + cue * ("diversion" in labels)
        rows.append(Example(Comment(text, id=str(i)), frozenset(labels), frozenset()))
    return rows


def test_a_probe_finds_a_planted_shortcut_and_nothing_else(taxonomy: Taxonomy) -> None:
    tests = {"test": planted(taxonomy, 1)}
    found = probe(emoji_and_marks, planted(taxonomy, 0), tests, taxonomy)["test"]
    assert found.precision["diversion"] == 1.0
    assert found.excess("diversion") > 0.6
    assert abs(found.excess("shill")) < 0.1
    assert set(found.precision) == {"diversion", "shill"}
    macro, chance, high = found.macro(without=["diversion"])
    assert macro == found.precision["shill"]
    assert chance < high < 0.5
    blind = probe(lengths, planted(taxonomy, 0, cue=""), {"test": planted(taxonomy, 1, cue="")}, taxonomy)["test"]
    assert blind.macro()[0] < blind.macro()[2] + 0.02


def test_average_precision_is_that_of_scikit_learn_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth = np.append(rng.random(40) < 0.3, True)
        scores = rng.integers(0, 12, 41) / 12
        assert average_precision(truth[None], scores)[0] == pytest.approx(average_precision_score(truth, scores))


def test_brand_names_are_those_that_the_group_spells_and_no_other_group_writes() -> None:
    texts = [
        ("a-jinhe-nose", "在槿禾做的"),
        ("a-jinhe-nose", "没有名字"),
        ("b-yuesao", "月嫂走之前"),
        ("c-x", "问月嫂"),
    ]
    rows = [Example(Comment(text), frozenset(), frozenset(), {"group": group}) for group, text in texts]
    assert find_brand_names(rows) == [["槿禾"], [], [], []]
    assert brand_names(rows)[0] == "槿 禾 槿禾"


def test_separation_is_a_half_for_equal_groups_and_one_for_groups_apart() -> None:
    assert separation([1, 2, 3], [3, 2, 1]) == 0.5
    assert separation([5, 6], [1, 2]) == 1.0
    assert separation([1], [1, 2]) == 0.25

"""Disguises: by seed, row and epoch alone; as often on clean rows as on others; held-out wording never written."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import Comment, Note, ShudunError
from shudun.items import Item
from shudun.rows import RowReader
from shudun_training.augmentation import Augmented, Augmenter
from shudun_training.config import load_taxonomy
from shudun_training.disguise import glyphs, words
from shudun_training.disguise.families import families
from shudun_training.disguise.readings import homophones, initials, pinyin
from shudun_training.disguise.selection import alias_words, select_families
from shudun_training.examples import Example, ExampleParser
from shudun_training.text_edits import apply_edits

ROOT = Path(__file__).parents[2]
FAMILIES = tuple(families())

CALL = "想要的人加微信 demo_0138 私我发你链接，主页有群，淘宝也能搜到QQ"
RECIPE = "今天给孩子做饭：番茄2个加鸡蛋3个，和面500克，谢谢妈妈的老方法，ok好吃"


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    taxonomy = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
    return list(RowReader(ROOT / "data_cards" / "shudun-xhs" / "train.jsonl", ExampleParser(taxonomy)))


@pytest.fixture(scope="module")
def augmenter(rows: list[Example]) -> Augmenter:
    return Augmenter(seed=5).match_rates(rows)


def example(item: Item | str, *labels: str, **meta: object) -> Example:
    return Example(Comment(item, id="x") if isinstance(item, str) else item, frozenset(labels), frozenset(), meta)


def rng(seed: int) -> Random:
    return Random(seed)  # noqa: S311


def written(name: str, text: str, seeds: int = 30) -> set[str]:
    """What a family makes of a text under several seeds."""
    return {apply_edits(text, families()[name].edits(text, rng(seed), 1.0)) for seed in range(seeds)}


@pytest.mark.parametrize("text", [CALL, RECIPE], ids=["call", "recipe"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_acts_on_contact_wording_and_on_everyday_wording(name: str, text: str) -> None:
    assert text not in written(name, text)


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("homophone_alias", ["薇信", "威信", "维信"]),
        ("initials", ["vx", "wx", "V信"]),
        ("nickname", ["绿泡泡", "卫星", "绿色软件"]),
        ("emoji_word", ["🛰️", "💚💬"]),
        ("inserted_symbols", ["微.信", "微-信"]),
        ("inserted_spaces", ["微 信"]),
        ("zero_width", ["微\u200b信"]),
        ("split_characters", ["微亻言"]),
        ("similar_characters", ["徽伩", "徴倌"]),
        ("full_pinyin", ["weixin", "微xin", "wei信"]),
        ("plus_sign", ["➕微信", "＋微信"]),
        ("full_width", ["ｄｅｍｏ＿０１３８"]),
        ("styled_letters", ["𝐝𝐞𝐦𝐨_𝟎𝟏𝟑𝟖", "𝚍𝚎𝚖𝚘_𝟶𝟷𝟹𝟾"]),
        ("circled_letters", ["ⓓⓔⓜⓞ_0138", "🅓🅔🅜🅞_0138"]),
        ("circled_digits", ["demo_⓪①③⑧", "demo_⓿❶❸❽"]),
        ("keycap_digits", ["demo_0️⃣1️⃣3️⃣8️⃣"]),
        ("spoken_digits", ["demo_零幺三八", "demo_〇一三八"]),
        ("formal_digits", ["demo_零壹叁捌"]),
    ],
)
def test_contact_wording_is_written_as_people_do(name: str, forms: list[str]) -> None:
    texts = written(name, "加微信 demo_0138", seeds=300)
    for form in forms:
        assert any(form in text for text in texts), form


def test_a_longer_word_is_not_taken_for_a_shorter_one() -> None:
    for name in FAMILIES:
        for text in written(name, "加微信", seeds=100):
            assert "卫星信" not in text
            assert "vx信" not in text


def test_words_that_only_look_like_contact_wording_are_left_alone() -> None:
    for text in ("参加我们的活动", "增加一下"):
        assert not families()["plus_sign"].edits(text, rng(0), 1.0)


@given(st.text(max_size=60), st.sampled_from(FAMILIES), st.integers(0, 5))
def test_any_text_can_be_disguised_and_edits_fit_it(text: str, name: str, seed: int) -> None:
    edits = families()[name].edits(text, rng(seed), 0.5)
    new = apply_edits(text, edits)
    assert not edits or new != text
    assert all(edit.new != text[edit.start : edit.end] for edit in edits)


def test_tables_hold_what_they_claim() -> None:
    """Reading, radicals and plain characters, by sources other than the tables."""
    for table in (glyphs.split(), glyphs.similar(), glyphs.traditional()):
        assert all(len(char) == 1 and form != char for char, form in table.items())
    assert len(glyphs.traditional()) > 200
    assert glyphs.radicals()["人"] == "⼈"
    for forms in words.TABLES:
        assert all(form != word for word, options in forms.items() for form in options)
        assert all(len(set(options)) == len(options) for options in forms.values())
    assert (pinyin("微信"), initials("链接"), pinyin("vx群")) == ("weixin", "lj", "vxqun")
    assert {"威", "维"} <= set(homophones("微"))
    assert all(pinyin(char) == "wei" for char in homophones("微"))
    assert homophones("微") == homophones("微")
    assert "微" not in homophones("微")
    assert homophones("v") == ()


def test_traditional_forms_are_those_of_opencc() -> None:
    opencc = pytest.importorskip("opencc")
    to_simplified = opencc.OpenCC("t2s")
    assert all(to_simplified.convert(new) == char for char, new in glyphs.traditional().items())


def test_the_same_seed_row_and_epoch_give_the_same_text_in_any_order(rows: list[Example]) -> None:
    some = rows[:60]
    first = [Augmenter(seed=1).match_rates(some)(row, 3).item for row in some]
    other = Augmenter(seed=1).match_rates(some[::-1])
    backwards = [other(row, 3).item for row in some[::-1]][::-1]
    assert first == backwards
    for seed, epoch in ((1, 4), (2, 3)):
        again = Augmenter(seed=seed).match_rates(some)
        assert sum(again(row, epoch).item != item for row, item in zip(some, first, strict=True)) > 25


def test_the_same_text_comes_out_of_another_process() -> None:
    code = (
        "from shudun import Comment; from shudun_training.examples import Example; "
        "from shudun_training.augmentation import Augmenter; "
        f"print(ascii([Augmenter(seed=1)(Example(Comment({CALL!r}, id='x'), frozenset(), frozenset()), e).item.text "
        "for e in range(20)]))"
    )
    here = [Augmenter(seed=1)(example(CALL), epoch).item.text for epoch in range(20)]
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == ascii(here)


def test_variant_classes_are_equally_common_in_rows_with_and_without_a_violation(
    rows: list[Example], augmenter: Augmenter
) -> None:
    sides = Counter(bool(row.labels) for row in rows)
    found: Counter[tuple[str, bool]] = Counter()
    disguised: Counter[bool] = Counter()
    for epoch in range(4):
        for row in rows:
            variants = augmenter(row, epoch).variants
            disguised[bool(row.labels)] += bool(variants)
            found.update((variant, bool(row.labels)) for variant in variants)
    assert disguised[True] / sides[True] == pytest.approx(disguised[False] / sides[False], abs=0.02)
    assert 0.7 < disguised[True] / (4 * sides[True]) < 1.0
    for variant in {variant for variant, _ in found}:
        with_, without = (found[variant, side] / (4 * sides[side]) for side in (True, False))
        assert with_ == pytest.approx(without, rel=0.15, abs=0.006), variant
        assert min(with_, without) > 0.01, variant


def test_without_matched_rates_the_disguise_would_tell_the_labels(rows: list[Example]) -> None:
    """The check above must be able to fail."""
    augmenter = Augmenter(names=["circled_letters"], seed=5)
    acted = Counter(bool(row.labels) for row in rows if augmenter(row, 0).changes)
    sides = Counter(bool(row.labels) for row in rows)
    assert acted[True] / sides[True] > 2 * acted[False] / sides[False]


def test_rows_of_one_side_alone_are_disguised_all_the_same() -> None:
    for labels in ((), ("diversion",)):
        only = [example(Comment(CALL, id=str(i)), *labels) for i in range(20)]
        augmenter = Augmenter(seed=0).match_rates(only)
        assert sum(bool(augmenter(row, 0).changes) for row in only) > 15


def test_plain_disguises_are_commoner_than_exotic_ones(rows: list[Example], augmenter: Augmenter) -> None:
    found = Counter(variant for row in rows for variant in augmenter(row, 0).variants)
    plain = min(found[variant] for variant in ("V03", "V04", "V05", "V06", "V07", "V08"))
    exotic = ("V01", "V09", "V11", "V12")
    assert plain > 0.8 * max(found[variant] for variant in exotic)
    assert sum(found[v] for v in ("V03", "V04", "V05", "V06", "V07", "V08")) > 2 * sum(found[v] for v in exotic)


def test_held_out_families_and_words_are_never_written(rows: list[Example]) -> None:
    held_out = ["绿泡泡", "薇信", "vx", "🛰️", "split_characters", "nickname", "娃"]
    names = ["homophone_alias", "initials", "nickname", "emoji_word", "split_characters", "full_pinyin"]
    augmenter = Augmenter(names=names, held_out=held_out, intensity=1.0, seed=0)
    free = Augmenter(names=names, intensity=1.0, seed=0)
    texts = [example(Comment(CALL, id=str(i))) for i in range(300)] + rows[:300]
    seen = Counter(word for i, row in enumerate(texts) for word in held_out if word in free(row, i).item.text)
    assert {"绿泡泡", "薇信", "vx", "🛰️"} <= set(seen)
    for i, row in enumerate(texts):
        augmented = augmenter(row, i)
        assert not {"split_characters", "nickname"} & set(augmented.families)
        for word in held_out:
            assert augmented.item.text.count(word) <= row.item.text.count(word)


def test_only_chosen_families_act(rows: list[Example]) -> None:
    augmenter = Augmenter(names=["nickname", "plus_sign"], seed=0)
    assert {name for row in rows for name in augmenter(row, 0).families} == {"nickname", "plus_sign"}


@pytest.mark.parametrize(
    ("names", "held_out", "message"),
    [
        (["homophones"], [], "unknown disguise families: homophones; known: zero_width"),
        (None, ["绿泡沫"], "neither a family nor an alias word: 绿泡沫"),
        (["nickname"], ["nickname"], "no disguise family is left"),
    ],
)
def test_names_that_are_none_are_refused(names: list[str] | None, held_out: list[str], message: str) -> None:
    with pytest.raises(ShudunError, match=message):
        select_families(names, held_out)
    assert "绿泡泡" in alias_words()


def test_probability_is_the_share_of_rows_and_zero_changes_none(rows: list[Example]) -> None:
    assert not any(Augmenter(probability=0, seed=0)(row, 0).changes for row in rows)
    share = sum(bool(Augmenter(probability=0.3, seed=0)(row, 0).changes) for row in rows) / len(rows)
    assert 0.2 < share < 0.33


def check_spans(before: Item, augmented: Augmented) -> None:
    for field in ("title", "text"):
        if hasattr(before, field):
            text, new = getattr(before, field), getattr(augmented.item, field)
            assert augmented.move(field, 0, len(text)) == (0, len(new))
            changed = [False] * len(new)
            for change in augmented.changes:
                assert 0 <= change.start < change.end <= len(getattr(augmented.item, change.field))
                if change.field == field:
                    changed[change.start : change.end] = [True] * (change.end - change.start)
            kept = "".join(char for char, was in zip(new, changed, strict=True) if not was)
            assert is_subsequence(kept, text)


def is_subsequence(short: str, long: str) -> bool:
    rest = iter(long)
    return all(char in rest for char in short)


def test_changed_spans_cover_all_that_is_new_and_titles_count_too(rows: list[Example]) -> None:
    augmenter = Augmenter(seed=9)
    fields = set()
    for row in rows[:600]:
        augmented = augmenter(row, 0)
        check_spans(row.item, augmented)
        assert augmented.variants == {families()[name].variant for name in augmented.families}
        assert bool(augmented.changes) == (augmented.item != row.item)
        fields |= {change.field for change in augmented.changes}
    assert fields == {"title", "text"}


def test_the_text_of_another_writer_stays() -> None:
    item = Comment("加微信", parent_text="加微信聊吧", id="x")
    for epoch in range(40):
        assert Augmenter(seed=0)(example(item), epoch).item.parent_text == item.parent_text  # type: ignore[union-attr]


def test_evidence_keeps_its_words_through_several_families() -> None:
    text = "同款在这，加微信 demo_0138 拉你"
    start = text.index("加微信")
    end = text.index(" 拉")
    row = example(Note("看看", text, id="x"), "diversion")
    for epoch in range(200):
        augmented = Augmenter(names=["nickname", "inserted_spaces", "zero_width"], seed=0)(row, epoch)
        first, last = augmented.move("text", start, end)
        inside, outside = augmented.item.text[first:last], augmented.item.text[last:]
        assert "demo_0138" in "".join(char for char in inside if char.isascii() and not char.isspace())
        assert outside.lstrip("\u200b\u200c\u200d\u2060\ufeff").startswith((" ", "\u3000"))

"""Personal data is found in its disguises, placeholders are not, and no finding shows the value."""

from __future__ import annotations

import time
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun_training.personal_data import (
    ID_CHECK_CHARACTERS,
    ID_WEIGHTS,
    find_personal_data,
    mask,
    without_personal_data,
)


def kinds(text: str) -> list[str]:
    return sorted(found.kind for found in find_personal_data(text))


def id_card(first: str) -> str:
    """17 digits with their check character (GB 11643-1999)."""
    total = sum(int(digit) * weight for digit, weight in zip(first, ID_WEIGHTS, strict=True))
    return first + ID_CHECK_CHARACTERS[total % 11]


def luhn(first: str) -> str:
    """Digits with their check digit: the one that makes the sum of digits, every second doubled, a multiple of 10."""
    for check in "0123456789":
        digits = [int(char) for char in first + check]
        doubled = [digit * 2 - 9 * (digit > 4) if i % 2 else digit for i, digit in enumerate(reversed(digits))]
        if sum(doubled) % 10 == 0:
            return first + check
    raise AssertionError


CARD = id_card("11010519491231002")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("打电话13812345678找我", "phone"),
        ("V13812345678", "phone"),
        ("138-1234-5678", "phone"),
        ("+86 138 1234 5678", "phone"),
        ("1-3-8-1-2-3-4-5-6-7-8", "phone"),
        ("１３８１２３４５６７８", "phone"),
        ("①③⑧①②③④⑤⑥⑦⑧", "phone"),
        ("1️⃣3️⃣8️⃣1️⃣2️⃣3️⃣4️⃣5️⃣6️⃣7️⃣8️⃣", "phone"),
        ("138\u200b1234\u200b5678", "phone"),
        ("幺三八一二三四五六七八", "phone_in_hanzi"),
        ("座机0755-26861234", "landline"),
        (f"身份证{CARD}", "id_card"),
        (f"身份证{CARD.lower()}", "id_card"),
        (f"卡号{luhn('622202123456789012')}", "bank_card"),
        ("6222 0212 3456 7894", "bank_card"),
        ("写信到 zhang.san@mail.cn", "email"),
        ("ｌｉｌｙ＠ｍａｉｌ．ｃｎ", "email"),
        ("加微信 lily_1992", "contact_handle"),
        ("薇❤：lily19920", "contact_handle"),
        ("加v lily1992x", "contact_handle"),
        ("vx：lily1992", "contact_handle"),
        ("绿泡泡号 lily1992", "contact_handle"),
        ("QQ群 712345689", "contact_handle"),
        ("我的是wxid_8k2j4h6g", "contact_handle"),
        ("看 https://t.me/lily", "link"),
    ],
)
def test_it_is_found_in_its_forms(text: str, kind: str) -> None:
    assert kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "加我微信 demo_0000",
        "微信sample0000dy",
        "薇：test_eye00",
        "d-e-m-o-00xl",
        "卫❤ xx_yimin00",
        "🐧 0000xx88",
        "138 0000 0000",
        "mail demo@example.com 或 https://example.com/a",
        "a@shop.example",
        "身高155 160 165 170 175",
        "3999 4999 5999 6999",
        "2026-01-19到2026-02-01",
        "订单0.13812345678",
        "wechat pay 好用",
        "微信小程序搜一下",
        f"编号{CARD[:-1]}{'1' if CARD[-1] != '1' else '2'}",
        f"编号{id_card('11010519491331002')}",
        "卡号6222021234567890120",
        "8888888888888888",
        "一二三四五，上山打老虎",
    ],
)
def test_placeholders_and_everyday_numbers_are_passed_over(text: str) -> None:
    assert kinds(text) == []


@given(
    rest=st.text(alphabet="3456789", min_size=10, max_size=10),
    before=st.text(alphabet="加我电话：，。🌸 "),
    after=st.text(alphabet="找我哈，。🌸 "),
)
def test_a_number_is_found_anywhere_and_never_shown(rest: str, before: str, after: str) -> None:
    number = "1" + rest
    text = before + number + after
    found = find_personal_data(text)
    assert [entry.kind for entry in found] == ["phone"]
    assert number not in str(found)
    assert number not in without_personal_data(text)
    assert without_personal_data(text).startswith(before.replace("：", ":").replace("，", ","))


@given(
    place=st.integers(100_000, 699_999), day=st.dates(date(1900, 1, 1), date(2030, 1, 1)), serial=st.integers(0, 999)
)
def test_every_identity_number_with_a_right_check_character_is_found(place: int, day: date, serial: int) -> None:
    assert "id_card" in kinds(id_card(f"{place}{day:%Y%m%d}{serial:03}"))


@given(st.text())
def test_masking_keeps_the_length_and_hides_the_middle(value: str) -> None:
    assert len(mask(value)) == len(value)
    assert set(mask(value)[2:-1]) <= {"*"}


@given(st.text())
def test_any_text_can_be_scanned(text: str) -> None:
    find_personal_data(text)
    assert find_personal_data(without_personal_data(text)) == []


@pytest.mark.parametrize("unit", ["a", "1", "a_", "vx", "一", "1 ", "@", "a.", "加v", "微信a"])
def test_a_long_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """A pattern that backtracks over the whole text would need hours here, not seconds."""
    started = time.monotonic()
    find_personal_data(unit * (300_000 // len(unit)))
    assert time.monotonic() - started < 20

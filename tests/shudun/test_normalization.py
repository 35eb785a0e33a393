"""The normaliser: what it undoes, what it leaves alone, and that its map and its repetition hold for any text."""

from __future__ import annotations

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shudun.disguise_patterns import gates, patterns
from shudun.normalization import Variant, normalize, normalize_text, spelt_text

# Fragments that the rules look at, so that random texts meet them often and next to each other.
WORDS = """
    ０ ① ❶ ⑩ ² ³ ₀ 1 0 9 # 12345678 🏴 👩 ⚕ ❤ 🇨 🇳 🇻 ➕ + ＋ 🌸 🐧 ㎡ 微 信 號 這 乾 於 著 单 単 ⼒ 力 口 我 讠 人 扌 丁
    禾 厶 薇 一 二 三 八 零 〇 ○ 幺 壹 叁 拾 万 一三八零零零零零零零零 群 扣 主 页 加微. V v x Ѵ х ｖ 𝐕
    o O o0 qq vx d demo_00 sample . · - ， 。 ：
""".split()  # noqa: SIM905
INVISIBLE = [
    "\u200b",
    "\u200d",
    "\ufe0f",
    "\u20e3",
    "\u0336",
    "\u0301",
    "\ud83d",
    "\ude00",
    "\ud800",
    "\u0000",
    "\u00ad",
    "\U000e0067",
    "\U000e007f",
]
FRAGMENTS = st.sampled_from([*WORDS, *INVISIBLE, " ", "\n", "\u3000", "👨\u200d👩\u200d👧"])
TEXTS = st.lists(st.one_of(FRAGMENTS, FRAGMENTS, st.text(max_size=3)), max_size=14).map("".join)
IN_CONTEXT = str.maketrans("零〇○一二三八幺壹叁拾oO乾於著", "00012381一三十00干于着") | {
    ord("壹"): "1一",
    ord("叁"): "3三",
}
NORMALISED = {"V01", "V02", "V11", "V12"}


def classes(text: str) -> set[str]:
    return {variant.name for variant in normalize(text).variants}


@settings(max_examples=150)
@given(TEXTS)
@example("134567o\u0301")
@example("加号：三八零○\u0301")
@example("1\u200d\u0301")
@example("零零零-1o345678")
@example("abc零零d零零")
@example("🇻\u200d🇨🇳")
@example("¹\u0301²³")
def test_a_second_pass_changes_and_finds_nothing(text):
    once = normalize(text).text
    twice = normalize(once)
    assert twice.text == once
    assert {variant.name for variant in twice.variants}.isdisjoint(NORMALISED)


@settings(max_examples=150)
@given(TEXTS)
def test_offsets_are_an_ordered_map_into_the_raw_text(text):
    for found in (normalize(text), normalize(text).spelt()):
        starts, ends = found.offsets[:, 0], found.offsets[:, 1]
        assert found.offsets.shape == (len(found.text), 2)
        assert found.offsets.dtype == np.int64
        assert (starts < ends).all()
        assert (np.diff(starts) >= 0).all()
        assert (np.diff(ends) >= 0).all()
        assert not len(found.text) or (starts[0] >= 0 and ends[-1] <= len(text))
        assert all(0 <= start < end <= len(text) for _, start, end in found.variants)


@settings(max_examples=150)
@given(TEXTS)
def test_each_character_comes_from_its_own_span(text):
    """The raw characters of a span alone explain the character, whatever stands around them."""
    found = normalize(text)
    for char, (start, end) in zip(found.text, found.offsets.tolist(), strict=True):
        raw = text[start:end]
        alone = normalize_text(raw) + unicodedata.normalize("NFKC", raw) + raw.translate(IN_CONTEXT)
        assert char in alone or (char.isascii() and ord(raw) == 0x1F1E6 + ord(char) - ord("A"))


@settings(max_examples=150)
@given(TEXTS)
def test_the_fast_paths_equal_the_exact_one(text):
    found = normalize(text)
    assert normalize_text(text) == found.text
    assert spelt_text(text) == found.spelt().text
    found.text.encode("utf-8")


SAMPLES = (
    "加微.信 代◈写✿论☆文 一 二 三 四 w❤x d.d.我 d-e-m-o-0-0 要的➕我 多加➕V demo_00 威信 demo_00 "
    "加薇 卫⭐ 进裙 v我 qq demo_00 加V dd我 weixin 扣扣群 绿泡泡 去小黄鱼 企鹅群 🛰 demo_00 微❤ 亻言 力口我 Ѵх"
)


def test_every_pattern_has_a_sample_for_which_its_gates_open():
    for pattern in patterns():
        matches = list(pattern.regex.finditer(SAMPLES))
        assert matches, pattern.regex
        for match in matches:
            around = SAMPLES[max(match.start() - 3, 0) : match.end() + 9]
            changes = pattern.spelt is None or pattern.spelt(match) != match[0]
            assert not changes or any(gates()[name].search(around) for name in pattern.gates), match


@settings(max_examples=150)
@given(TEXTS)
def test_gates_open_wherever_a_pattern_matches(text):
    text = normalize_text(text)
    opened = {name for name, gate in gates().items() if gate.search(text)}
    for pattern in patterns():
        match = pattern.regex.search(text)
        if match and (pattern.spelt is None or pattern.spelt(match) != match[0]):
            assert pattern.gates & opened, pattern


@settings(max_examples=150)
@given(TEXTS)
def test_spelling_out_twice_changes_nothing(text):
    once = spelt_text(text)
    assert spelt_text(once) == once


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("微\u200b信\x00号\u202e\U000e0041", "微信号"),
        ("微\u0336信\u0336 v\u20dd", "微信 v"),
        ("ＶＸ𝐕𝐱①③⑧❶🅥🆅1️⃣➓ᵛˣⅤ🇻🇽", "VXVx1381VV110vxVVX"),
        ("代寫🈶號，單単戻る", "代写有号，单单戾る"),
        ("⼈⾦見", "人金见"),
        ("餅乾，我於台北看著你", "饼干，我于台北看着你"),
        ("电话一三八零零零零零零零零", "电话13800000000"),
        ("幺三八，壹叁捌零零零零 零零零零", "138，1380000 0000"),
        ("加号：零零零零xx，sample零零cpa", "加号：0000xx，sample00cpa"),
        ("138O0000OOO", "13800000000"),
        ("月入叁万，壹佰贰一位", "月入三万，一百二一位"),
        ("v¹³⁸⁰⁰", "v13800"),
        ("\ud83d\ude00\ud800", "😀\ufffd"),
    ],
)
def test_what_is_undone(raw, expected):
    assert normalize_text(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界！（真的？）：；“引”「号」～…—、。",
        "60㎡ 5㎏ 36℃ №1 ½杯 10m² CO₂ H₂O ™ ºC",
        "一个人二十块三天一三五周二〇二四年三月八日",
        "一二三四五，上山打老虎；六六六六六；三三两两；九九八十一；一一对应",
        "她考了一九七九五名，电话三九打不通，H₂₂O",
        "乾隆爱吃苔藓，名著，於潜，宫商角徵羽",
        "大陆元旦，队伍整齐，壹加壹，老幺和幺儿",
        "👨\u200d👩\u200d👧 👩\u200d⚕ 🇨🇳🇭🇰 ❤ 1+1 🤷🏽\u200d♀",
        "ﾟДﾟ ｡◕‿◕｡ •̀ᴗ•́ é ñ",
        "房费1000O元的B1O套餐",
        "ABC abc 123 +86 a_b@c.com",
    ],
)
def test_what_is_left_alone(text):
    assert normalize_text(text) is text
    assert classes(text).isdisjoint(NORMALISED)


def test_a_presentation_selector_of_an_emoji_is_no_disguise():
    assert normalize_text("❤️ ☎︎ 👩‍⚕️") == "❤ ☎ 👩‍⚕"
    assert classes("❤️ ☎︎ 👩‍⚕️ \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f") == set()
    assert classes("微\ufe0f信") == {"V01"}


@pytest.mark.parametrize(
    ("raw", "variant", "span", "spelt"),
    [
        ("留微.信聊", "V03", "微.信", "留微信聊"),
        ("私🌸我发", "V03", "私🌸我", "私我发"),
        ("求代◈写◈论◈文", "V03", "代◈写", "求代写论文"),
        ("求代◈写✿论☆文", "V03", "代◈写", "求代写论文"),
        ("号 d e m o 0 0", "V03", "d e m o 0 0", "号 demo00"),
        ("要的➕我", "V04", "➕", "要的加我"),
        ("＋V demo_00", "V04", "＋", "加V demo_00"),
        ("加薇 demo_00", "V05", "加薇", "加薇 demo_00"),
        ("ＶＸ：demo00", "V06", "ＶＸ", "VX：demo00"),
        ("绿泡泡找我", "V07", "绿泡泡", "绿泡泡找我"),
        ("🐧群 0000", "V08", "🐧", "🐧群 0000"),
        ("微亻言号", "V09", "亻言", "微信号"),
        ("有事力口我", "V09", "力口", "有事加我"),
        ("走Ѵх：demo", "V10", "Ѵх", "走Vx：demo"),
    ],
)
def test_disguises_in_context_are_reported_and_spelt_out_beside_the_text(raw, variant, span, spelt):
    found = normalize(raw)
    assert Variant(variant, raw.index(span), raw.index(span) + len(span)) in found.variants
    assert found.spelt().text == spelt


@pytest.mark.parametrize(
    "text",
    [
        "妈妈➕我，鸡蛋➕糖，满50+5，V领➕微喇裤",
        "阿薇和采薇，领导的威信，卫星过境，小黄鱼十八一斤",
        "vx是水平速度，dx是微元，Vista系统，抖音V我50",
        "企鹅馆🐧门票，🛰️从头顶过，🍑很甜",
        "红/黄/蓝，上-中-下，A B C D，1 2 3 4 5",
        "α受体，β胡萝卜素，хорошо，Москва",
        "微 我，私 我想想，力口分，明日月光",
    ],
)
def test_the_same_characters_elsewhere_are_neither_reported_nor_changed(text):
    found = normalize(text)
    assert found.variants == ()
    assert found.spelt().text == found.text == normalize_text(text)


def test_spans_lead_back_to_the_raw_text():
    raw = "加 讠人\u200b证 ⑩元，🇻x"
    found = normalize(raw)
    assert found.text == "加 讠人证 10元，Vx"
    assert raw[slice(*found.raw_span(0, 2))] == "加 "
    assert raw[slice(*found.raw_span(3, 5))] == "人\u200b证"
    assert found.raw_span(6, 7) == found.raw_span(7, 8) == found.raw_span(6, 8) == (7, 8)
    spelt = found.spelt()
    assert spelt.text == "加 认证 10元，Vx"
    assert raw[slice(*spelt.raw_span(2, 3))] == "讠人"
    for start, end in [(0, 0), (3, 2), (-1, 2), (0, 99)]:
        with pytest.raises(ValueError, match="expected a span inside"):
            found.raw_span(start, end)


def test_an_untouched_text_costs_no_copy_and_its_map_is_the_identity():
    text = "这家面馆真的好吃" * 800
    found = normalize(text)
    assert found.text is text
    assert (found.offsets[:, 0] == np.arange(len(text))).all()
    assert (found.offsets[:, 1] == np.arange(len(text)) + 1).all()


@pytest.mark.parametrize(
    "char",
    [
        "微",
        "\u200b",
        "①",
        "這",
        "乾",
        "零",
        "幺",
        "1",
        "o",
        "\u0301",
        "\u200d",
        "🇻",
        "➕",
        ".",
        " ",
        "讠",
        "v",
        "\ud800",
        "²",
        "\x00",
        "Ѵ",
    ],
)
def test_long_runs_of_one_character_take_linear_time(char):
    times = []
    for length in (20_000, 200_000):
        start = time.process_time()
        found = normalize(f"加{char * length}這")
        times.append(time.process_time() - start)
        assert normalize_text(found.text) == found.text
    assert times[1] < 40 * times[0] + 0.5


def test_a_combining_storm_is_cleared_where_it_hides_chinese():
    assert normalize_text("微" + "\u0301\u0336" * 5000 + "信") == "微信"
    storm = "a" + "\u0301" * 10_000
    assert normalize_text(storm) == storm

"""Disguises for measuring the normaliser: one small deterministic operator for each way to hide words.

Characters and aliases that an operator writes are to be absent from the training texts; `operators` leaves out the
ones that are present and fails where none is left. They were chosen without regard to what the normaliser knows.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from itertools import cycle

import opencc

Operator = Callable[[str], str]

WORDS = """
微信 崴鑫 weixin 小绿 💬
加微 枷崴 jiawei 加小绿 🏡💬
私信 厮鑫 sixin 小窗 📩
私我 厮硪 siwo 小窗我 📩我
主页 煮曳 zhuye 首屏 🏡
联系 涟系 lianxi 勾搭 ☎
淘宝 绹宝 taobao 桃色软件 🍑🐚
闲鱼 咸渔 xianyu 海鲜市场 🐠
扣扣 叩叩 koukou 鹅厂 🦢
加我 枷硪 jiawo 贴我 🖐我
滴滴 嘀嘀 didi 吱声 🔔
评论 坪论 pinglun 楼下说 🗨
链接 琏接 lianjie 小尾巴 🖇
薇 崴 wei 小绿 💬
群 裠 qun 组织 👥
"""
"""A word, then its homophone, pinyin, nickname and emoji word."""

BOUND_HALVES = """
话讠舌 课讠果 找扌戈 给纟合 钱钅戋 说讠兑 请讠青 谈讠炎 扣扌口 拉扌立 接扌妾 体亻本 优亻尤 代亻弋 价亻介 位亻立 低亻氐
件亻牛 试讠式
评讠平 论讠仑 推扌隹 换扌奂 清氵青 读讠卖 约纟勺 订讠丁 到至刂 都者阝 教孝攵 收丩攵 们亻门 没氵殳 法氵去 流氵㐬 情忄青
性忄生 快忄夬
"""
FREE_HALVES = """
群君羊 好女子 聊耳卯 码石马 联耳关 预予页 期其月 稿禾高 秒禾少 职耳只 明日月 助且力 粉米分 费弗贝 货化贝 领令页 和禾口
功工力 动云力 效交攵 档木当 相木目 超走召 购贝勾 课言果 加カ口 私禾ム 信イ言 双又又 林木木 妈女马 如女口 知矢口 町田丁
"""
FORMAL_DIGITS = "〇壹贰叁肆伍陆柒捌玖"


def operators(train: str) -> dict[str, Operator]:
    """Disguise name → what it does to a span of text; `train` is the text of the whole training split."""
    lowercase, uppercase = string.ascii_lowercase, string.ascii_uppercase
    digits = {digit: chr(0x1D7EC + i) for i, digit in enumerate(string.digits)}
    script = _letters(lowercase, 0x1D4EA) | _letters(uppercase, 0x1D4D0) | digits
    squares = _letters(lowercase, 0x1F170) | _letters(uppercase, 0x1F170)
    words = [line.split() for line in WORDS.split("\n") if line]
    table: dict[str, Mapping[str, str]] = {
        "V02 script letters and digits": script,
        "V02 negative squared letters": squares,
        "V04 ✚": dict.fromkeys("加➕＋+", "✚"),
        "V04 ⊕": dict.fromkeys("加➕＋+", "⊕"),
        **{
            name: {word: forms[i] for word, *forms in words}
            for i, name in enumerate(("V05 homophones", "V06 pinyin", "V07 nicknames", "V08 emoji words"))
        },
        "V09 halves, one bound": _halves(BOUND_HALVES),
        "V09 halves, both free": _halves(FREE_HALVES),
        "V10 Cyrillic letters": dict(zip("aeopcyi", "аеорсуі", strict=True)),
        "V10 radicals": _radicals(),
        "V11 traditional": _traditional(train),
        "V12 digit words": dict(zip(string.digits, FORMAL_DIGITS, strict=True)),
    }
    found = {name: _replacing(name, mapping, train) for name, mapping in table.items()}
    found |= {
        "V01 invisible": _between("\u2060\u2064\u00ad\U000e0061", train),
        "V01 struck through": _between("\u0336", train),
        "V03 one sign": _between("◈", train),
        "V03 changing signs": _between("◈✿ღ¤", train),
    }
    return dict(sorted(found.items()))


def _between(signs: str, train: str) -> Operator:
    """Put a sign between any two neighbours, in turn."""
    if present := [sign for sign in signs if sign in train]:
        raise SystemExit(f"not held out, the training texts hold {present}")

    def insert(span: str) -> str:
        return "".join(char + sign for char, sign in zip(span, cycle(signs), strict=False))[:-1] if span else span

    return insert


def _replacing(name: str, mapping: Mapping[str, str], train: str) -> Operator:
    fresh = {source: target for source, target in mapping.items() if target not in train}
    if not fresh:
        raise SystemExit(f"{name}: not held out, the training texts hold every replacement")
    pattern = re.compile("|".join(map(re.escape, sorted(fresh, key=len, reverse=True))))
    return lambda span: pattern.sub(lambda match: fresh[match[0]], span)


def _letters(letters: str, first: int) -> dict[str, str]:
    return {letter: chr(first + i) for i, letter in enumerate(letters)}


def _halves(table: str) -> dict[str, str]:
    return {entry[0]: entry[1:] for entry in table.split()}


def _radicals() -> dict[str, str]:
    return {unicodedata.normalize("NFKC", chr(cp)): chr(cp) for cp in range(0x2F00, 0x2FD6)}


def _traditional(train: str) -> dict[str, str]:
    converter = opencc.OpenCC("s2t")
    return {char: converter.convert(char) for char in sorted(set(train)) if converter.convert(char) != char}

"""What disguises of classes V03 to V10 look like, and what they spell.

Every pattern stands behind gates: searches for single characters that are several times as fast, one of which
matches wherever the pattern does. The word lists are this project's own; chaizi (CC BY 3.0) gives the halves of
characters. Patterns know nothing of what a text means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from shudun.normalization_rules import HAN
from shudun.normalization_tables import tables

WORDS = """
加微信 微信号 微信 微号 加微 加我 加群 私我 私信 私聊 找我 联系 电话 手机 主页 简介 进群 拉群 群号 扣扣 企鹅
扣群 淘宝 闲鱼 抖音 二维码 小程序 公众号 链接 下单 返现 兼职 刷单 代写 代考 代做 代办 代发 包过 保过 接单 涨粉
互粉 点赞 好评 铺量 素人 滴我 戳我 扣我 薇信 薇芯 威信 维信 卫星
""".split()  # noqa: SIM905 (a list of sixty lines is harder to read)
"""Words that are joined again when signs stand between their characters."""

SIGNS = r"·.•・*_~^|丨¦°`'=#\\\-"
EMOJI = "\U0001f300-\U0001faff"
PLUS = "➕+✚✛✜╋"
HEARTS = "❤♥♡💗💕💖💓💞🧡💛💚💙💜🖤🩷🩵🤍"
WECHAT, RARE_WECHAT = "薇葳溦徽威卫维嶶崴", "薇葳溦嶶崴"
ACCOUNT = "[ :：，,号是]{0,3}(?=[A-Za-z.-]{0,20}[0-9_])[A-Za-z0-9_][A-Za-z0-9_.-]{3,}"
"""What follows the name of a way to be reached: an account, which has a digit or an underscore."""

LATIN = "АВЕЗНІЈКМОРЅТХѴУаеоргсухѵіјѕԁԛԝһΑΒΕΖΗΙΚΜΝΟΡΤΥΧνο", "ABE3HIJKMOPSTXVYaeoprcyxvijsdqwhABEZHIKMNOPTYXvo"
"""Cyrillic and Greek letters, and the Latin ones they are drawn like (Unicode's confusables)."""

SPLIT_WORDS = {"力口": "加", "禾厶": "私", "君羊": "群", "木目": "相", "走召": "超", "耳关": "联", "石马": "码"}
"""Halves that are characters themselves: joined only beside what makes a known word of them."""

FIRSTS, SECONDS = "绿某橙咸企飞卫威维徽微煮住进扣小", "泡色软宝鱼音多东信书aA🐟鹅机星⭐🌟芯心欣新页裙qQ黄群号扣"
"""First and second characters of what the patterns look for by name."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A disguise class, the gates one of which opens for it, how it looks, what it spells (`None`: report only)."""

    variant: str
    gates: frozenset[str]
    regex: re.Pattern[str]
    spelt: Callable[[re.Match[str]], str] | None = None


@cache
def gates() -> Mapping[str, re.Pattern[str]]:
    """By name; each begins with one set of characters, which is fast to find."""
    left, right = tables().bound
    in_words, halves = "".join(set("".join(WORDS))), "".join(word[0] for word in SPLIT_WORDS)
    seconds = SECONDS + "".join(word[1] for word in SPLIT_WORDS)
    near_hearts = "".join(heart for heart in HEARTS if heart <= "\uffff")
    return {
        "marks": re.compile(f"[{PLUS}{near_hearts}{left}{right}{LATIN[0]}{RARE_WECHAT}伽]"),
        "signs": re.compile(f"[ {_signs()}](?:(?<=[{in_words}].)|[{HAN}A-Za-z0-9][ {_signs()}]|(?<=[DdVvWw].)[DdXx])"),
        "names": re.compile(f"[{FIRSTS}{halves}][{seconds}]"),
        "letters": re.compile(
            "[dDsSjJtTkKvVwWqQ](?<![A-Za-z].)(?:[dDxXfFqQ]?(?![A-Za-z])|[iIaAeEuU][我信vV微宝oixna])"
        ),
        "emoji": re.compile(f"[{EMOJI}](?<=[🐧🛰🐟🍑👀💚🟢{HEARTS}])"),
    }


@cache
def patterns() -> tuple[Pattern, ...]:
    """All patterns."""
    return (*_signed(), *_added(), *_homophones(), *_initials(), *_names(), *_halves(), _lookalikes())


def _pattern(variant: str, opened_by: str, regex: str, spelt: Callable[[re.Match[str]], str] | None = None) -> Pattern:
    return Pattern(variant, frozenset(opened_by.split()), re.compile(regex), spelt)


def _signed() -> tuple[Pattern, ...]:
    """V03: signs, emoji or spaces between the characters of a known word, of any four, or of an account."""
    sign = f"[{_signs()}]"
    # A space before 我 mostly ends a sentence.
    apart = "|".join(_apart(word, sign if "我" in word else f"(?: |{sign})") for word in WORDS)
    return (
        _pattern("V03", "signs", apart, _without_signs),
        _pattern("V03", "signs", f"{sign}(?<=[{HAN}].)(?:[{HAN}]{sign}){{2,}}[{HAN}]", _without_signs),
        _pattern("V03", "signs", f" (?<=[{HAN}].)(?:[{HAN}] ){{2,}}[{HAN}](?![{HAN}])", _without_signs),
        _pattern("V03", "signs", f"[vVwW](?<![A-Za-z].){sign}{{1,2}}[xX](?![A-Za-z])", _without_signs),
        _pattern("V03", "signs", f"[dD](?<![A-Za-z].){sign}[dD]{sign}?我", _without_signs),
        _pattern(
            "V03",
            "signs",
            "[A-Za-z0-9](?<![A-Za-z0-9].)(?P<gap>[ .·*-])(?:[A-Za-z0-9](?P=gap)){3,}[A-Za-z0-9]+",
            _account,
        ),
    )


def _apart(word: str, sign: str) -> str:
    """A word with up to three signs between its characters, and at least one sign in all."""
    return "|".join(
        word[0] + "".join(f"{sign}{{{int(i == must)},3}}{char}" for i, char in enumerate(word[1:]))
        for must in range(len(word) - 1)
    )


def _added() -> tuple[Pattern, ...]:
    """V04: a plus sign that says "add", before somebody or something to be added."""
    wechat = f"[微伽{WECHAT}](?:[信芯心星{HEARTS}]|{ACCOUNT}|$)"
    reached = f"好友|群|裙|{wechat}|[vVwW][xX]?(?:{ACCOUNT}|[微薇信我群]|$)|[qQ]{{1,2}}(?:[群裙]|{ACCOUNT})"
    reached += "|扣扣|企鹅|绿泡|[🐧🛰💬]"
    # Somebody + me is company (妈妈➕我); after a pause or a request it is a call.
    pause = "(?:(?<=[\\s，。！？,.!?~～；;:：、的要想可请速来接友群买购详价者].)|(?<![\\s\\S]{2}))"
    return (
        _pattern("V04", "marks", f"[{PLUS}]{pause} ?(?=我(?!们)|{reached})", _add),
        _pattern("V04", "marks", f"➕ ?(?={reached})", _add),
    )


def _homophones() -> tuple[Pattern, ...]:
    """V05: characters that sound like those of a contact word, where an account or a call is near."""
    marks = "marks names emoji"
    return (
        _pattern("V05", marks, f"[{WECHAT}][信芯心欣新](?=号|{ACCOUNT})"),
        _pattern("V05", marks, f"[加伽{PLUS}] ?(?:[{RARE_WECHAT}]|[{WECHAT}][信芯])|伽[微薇vV]"),
        _pattern("V05", marks, f"[{RARE_WECHAT}](?={ACCOUNT})|[薇威卫徽维][{HEARTS}⭐🌟]|[葳薇]芯|薇信"),
        _pattern("V05", "names letters emoji", "[进qQ扣🐧]裙|[煮住]页"),
    )


def _initials() -> tuple[Pattern, ...]:
    """V06: pinyin and initials of a way to be reached."""
    alone = "(?<![A-Za-z@].)"
    return (
        _pattern("V06", "letters", f"[vVwW]{alone}[xX]?(?![A-Za-z])(?={ACCOUNT}|我(?!50)|[信群裙薇])"),
        _pattern("V06", "letters", f"[qQkKdD]{alone}[qQfFxX]?(?![A-Za-z])(?={ACCOUNT}|[群裙])"),
        _pattern("V06", "letters", f"[加{PLUS}] ?(?:[vVwW][xX]?|[qQ]{{1,2}})(?![A-Za-z领])"),
        _pattern("V06", "letters", f"[dD](?<![A-Za-z0-9].)[dD]?(?:我|$)|[sS]{alone}i[我信]|[jJ]{alone}ia[我vV微]"),
        _pattern("V06", "letters", f"[wW]{alone}ei(?:信|[xX]in)|[tT]{alone}ao宝|[qQ]{alone}un(?![A-Za-z])"),
        _pattern("V06", "names", f"扣(?:扣(?=[群裙号]|{ACCOUNT})|qun)"),
    )


def _names() -> tuple[Pattern, ...]:
    """V07 and V08: nicknames and emoji of other platforms, where they are searched, joined or added."""
    return (
        _pattern("V07", "names", "绿泡泡?|绿色(?:那个)?(?:聊天)?软件|某[宝鱼音多东信书]|橙(?:色)?(?:软件|[Aa][Pp]{2})"),
        _pattern("V07", "names", "[去上来在搜我]小黄鱼|小黄鱼(?=搜|上|店)|咸鱼(?=搜|号)"),
        _pattern("V07", "names", f"(?:企鹅|飞机)(?=[群裙号🐧]|{ACCOUNT})|卫星(?=号|{ACCOUNT})"),
        _pattern(
            "V08",
            "emoji",
            f"[🐧🛰](?=[群裙号]|{ACCOUNT})|[🐧🛰💚🟢](?<=[加{PLUS}].)|[咸闲]🐟|🍑宝|[去搜]🍑|🍑里搜|👀主页",
        ),
        _pattern("V08", "marks emoji", f"[微薇威卫葳][{HEARTS}]"),
    )


def _halves() -> tuple[Pattern, ...]:
    """V09: characters written as their two halves."""
    left, right = tables().bound
    free = (
        "力口(?=[我微薇威vVqQ群好])|禾厶(?=[我信聊])|(?<=[进加拉qQ扣])君羊|木目(?=机)|走召|耳关(?=系)|(?<=[扫维])石马"
    )
    return (
        _pattern(
            "V09", "marks", f"[{left}][{HAN}]|[{HAN}][{right}]", lambda match: tables().split.get(match[0], match[0])
        ),
        _pattern("V09", "names", free, lambda match: SPLIT_WORDS[match[0]]),
    )


def _lookalikes() -> Pattern:
    """V10: Cyrillic or Greek letters in a Latin word."""
    word = f"[A-Za-z{LATIN[0]}]*"
    return _pattern("V10", "marks", f"(?<![\u0370-\u052f]){word}[{LATIN[0]}]{word}(?![\u0370-\u052f])", _latin)


def _add(match: re.Match[str]) -> str:
    del match
    return "加"


def _without_signs(match: re.Match[str]) -> str:
    return re.sub(f"[ {_signs()}]", "", match[0])


def _account(match: re.Match[str]) -> str:
    """Letters and digits that stand apart are joined where both occur, as in an account name."""
    joined = _without_signs(match)
    return joined if re.search("[A-Za-z]", joined) and re.search("[0-9]", joined) else match[0]


def _latin(match: re.Match[str]) -> str:
    word = match[0].translate(str.maketrans(*LATIN))
    mixed = re.search("[A-Za-z]", match[0]) or word.casefold() in ("v", "vx", "wx", "q", "qq")
    return word if mixed else match[0]


@cache
def _signs() -> str:
    """Signs that split words, as the inside of a regular-expression set; pluses have a meaning of their own."""
    symbols = re.sub(f"[{PLUS}]", "", "".join(map(chr, range(0x2500, 0x27C0))))
    return f"{SIGNS}{symbols}\u200d{EMOJI}"

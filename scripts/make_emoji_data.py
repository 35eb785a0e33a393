"""Generate the emoji of pre-training vocabularies, training/shudun_training/pretraining/emoji.json.

python scripts/make_emoji_data.py

Sources: the property Emoji_Presentation of the Unicode character database by way of the `regex` package (Unicode
License v3); COMMON is this project's own choice of faces, hands, hearts, animals, food, things and signs that Chinese
social notes are full of.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import regex

TARGET = Path(__file__).parents[1] / "training" / "shudun_training" / "pretraining" / "emoji.json"

COMMON = """
😀😁😂🤣😃😄😅😆😉😊😋😎😍😘🥰😗😙😚🙂🤗🤩🤔🤨😐😑😶🙄😏😣😥😮🤐😯😪😫🥱😴😌😛😜😝🤤😒😓😔😕🙃🤑😲🙁
😖😞😟😤😢😭😦😧😨😩🤯😬😰😱🥵🥶😳🤪😵🥴😠😡🤬😷🤒🤕🤢🤮🤧😇🥳🥺🤠🤡🤥🤫🤭🧐🤓😈👿👹👺💀👻👽🤖💩😺😸
😹😻😼😽🙀😿😾🙈🙉🙊💋💌💘💝💖💗💓💞💕💟💔🧡💛💚💙💜🤎🖤🤍💯💢💥💫💦💨💬💭💤👋🤚🖐✋🖖👌🤏🤞🤟🤘🤙👈
👉👆🖕👇👍👎✊👊🤛🤜👏🙌👐🤲🤝🙏💅🤳💪👀👂👃👄👅🧠👶👧👦👩👨👵👴👮👷💂👸🤴👼🎅🙇💁🙅🙆🙋🤦🤷💃🕺🏃👫
👪🐶🐱🐭🐹🐰🦊🐻🐼🐨🐯🦁🐮🐷🐸🐵🐔🐧🐦🐤🦆🦅🦉🐺🐗🐴🦄🐝🐛🦋🐌🐞🐜🦗🐢🐍🐙🦑🦐🦀🐡🐠🐟🐬🐳🐋🦈🌸🌹🌺
🌻🌼🌷🌱🌿🍀🍁🍂🍃🌵🌴🌲🌳🍇🍈🍉🍊🍋🍌🍍🥭🍎🍏🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🥕🌽🌶🥒🍄🥜🍞🥐🍔🍟🍕🌭🥪🌮🍳🥘🍲
🥗🍿🍱🍘🍙🍚🍛🍜🍝🍣🍤🍥🍡🥟🍦🍧🍨🍩🍪🎂🍰🧁🍫🍬🍭🍮🍯🍼🥛☕🍵🍶🍾🍷🍸🍹🍺🍻🥂🥤🧋🎃🎄🎆🎇🧨✨🎈🎉🎊
🎋🎍🎀🎁🏆🥇🥈🥉⚽🏀🎯🎮🎲🎨🎵🎶🎤🎧📱💻📷📸🎥📺⏰⌛🔋🔌💡🔦📖📚📝📅📌📍📎🔑🔒🔓🔔📢📣💰💴💵💸💳💎🧧
📈📉📊✅❌❓❗⭐🌟🔥💧🌈☀🌙⚡❄🌊🚗🚌🚀✈🏠🏥🏫🆓🆗🆕🔝💊💉🩺👗👚👕👖👔👙👠👟👜👛🎒💄💍👑🔞⚠🚫⛔♥
❤☎📞📧📩📮🛒🛍🉐㊙㊗🈶🈚🉑➕✖💲🔗🔍📦🏷🧴🧼🧽🪞💆💇🛀🧘🏋⚕🍠
"""


def presented_as_emoji() -> list[tuple[int, int]]:
    """First and last code point of each run of characters that are shown as emoji by themselves."""
    shown = regex.compile(r"\p{Emoji_Presentation}")
    points = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF and shown.match(chr(code))]
    first = [code for code in points if code - 1 not in points]
    last = [code for code in points if code + 1 not in points]
    return list(zip(first, last, strict=True))


def main() -> None:
    data = {
        "origin": "Written by scripts/make_emoji_data.py. emoji_presentation: runs of code points with that property "
        f"in the Unicode character database, by way of regex {version('regex')} (Unicode License v3). common: chosen "
        "for this project.",
        "emoji_presentation": presented_as_emoji(),
        "common": "".join(COMMON.split()),
    }
    TARGET.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

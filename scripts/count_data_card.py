"""Write the counts of data_cards/shudun-xhs into its card, or check that they are true.

python scripts/count_data_card.py          rewrites the blocks between the markers
python scripts/count_data_card.py --check  exits 1 when a block is out of date
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CARD = ROOT / "data_cards" / "shudun-xhs" / "README.md"
SPLITS = ("train", "validation", "test")
Splits = dict[str, list[dict[str, Any]]]

ALIASES = {
    "V05": "薇 威信 维信 微伩 卫❤ 威❤ 喂❤ 薇❤ 微❤ 嶶 葳 薇星 薇辛 薇信 伽我 伽薇 裙 q裙 🐧裙 公主号 二卫码 思我",
    "V06": "vx wx v信 加v q群 扣扣 weixin 群v dd我 d我 s我 dx wp pdd xhs",
    "V07": "绿泡泡 绿泡 绿色软件 橙色软件 卫星号 小绿书 大绿 小黄鱼 某鱼 某宝 某书 某音 某盘 拼夕夕 企鹅 小飞机 小红薯",
    "V08": "🛰 🐧 🍑 小黄🐟 纸✈ 🟢💬 二维🐴 ➕🛰 👀主页 🔗",
    "V09": "力口 亻言 禾厶 木目 讠舌 讠正 扌丁 扌巴 言平",
    "V10": "ѵх ѵ ѡ 伩",
    "V12": "幺三 幺叁 零零零零",
    "V13": "滴滴 踢我 戳我 敲我 小窗 扣1 扣2 留个 报需求",
    "V16": "捡漏窝 进窝 后台滴滴 铺量 陪跑 上车",
}
"""Other ways to write contact wording that the rows hold, by disguise class; upper and lower case are one."""


def counts_block(rows: Splits) -> str:
    """Counts of rows and labels."""
    taxonomy = yaml.safe_load((ROOT / "configs" / "taxonomy" / "xhs.yaml").read_text(encoding="utf-8"))
    lines = [f"| | {' | '.join(SPLITS)} | all |", "| --- | ---: | ---: | ---: | ---: |"]

    def add(name: str, count: Any) -> None:
        values = [count(rows[split]) for split in SPLITS]
        lines.append(f"| {name} | {' | '.join(map(str, values))} | {sum(values)} |")

    add("rows", len)
    for kind in ("note", "comment"):
        add(f"{kind}s", lambda split, kind=kind: sum(row["kind"] == kind for row in split))
    add("clean rows", lambda split: sum(not row["labels"] for row in split))
    add("clean rows that look like a violation", lambda split: sum(bool(row["hard_negative_for"]) for row in split))
    add("rows with two or more labels", lambda split: sum(len(row["labels"]) > 1 for row in split))
    add("positive rows with disguised wording", lambda split: sum(bool(r["labels"] and r["variant"]) for r in split))
    add("clean rows with disguised wording", lambda split: sum(not r["labels"] and bool(r["variant"]) for r in split))
    add("groups", lambda split: len({row["group"] for row in split}))
    for label in taxonomy["labels"]:
        add(f"`{label['id']}`", lambda split, label=label: Counter(x for r in split for x in r["labels"])[label["id"]])
    return "\n".join(lines)


def only_in_test_block(rows: Splits) -> str:
    """Aliases in rows of the test split that no other split holds."""
    texts = {split: [_folded(row["title"] + "\n" + row["text"]) for row in rows[split]] for split in SPLITS}
    lines = ["| class | alias | test rows |", "| --- | --- | ---: |"]
    for variant, aliases in ALIASES.items():
        for alias in dict.fromkeys(aliases.split()):
            train, validation, test = (sum(_folded(alias) in text for text in texts[split]) for split in SPLITS)
            if test and not train + validation:
                lines.append(f"| {variant} | {alias} | {test} |")
    return "\n".join(lines)


def main(check: bool) -> int:
    rows = {split: _rows(split) for split in SPLITS}
    text = updated = CARD.read_text(encoding="utf-8")
    for name, block in (("counts", counts_block(rows)), ("only in test", only_in_test_block(rows))):
        before, rest = updated.split(f"<!-- {name}: start -->")
        _, after = rest.split(f"<!-- {name}: end -->")
        updated = f"{before}<!-- {name}: start -->\n{block}\n<!-- {name}: end -->{after}"
    if check:
        return int(updated != text)
    CARD.write_text(updated, encoding="utf-8")
    return 0


def _folded(text: str) -> str:
    # ❤ with and without its variation selector, and the card suit, are one heart to a reader.
    return text.casefold().replace("\ufe0f", "").replace("♥", "❤")


def _rows(split: str) -> list[dict[str, Any]]:
    lines = (CARD.parent / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

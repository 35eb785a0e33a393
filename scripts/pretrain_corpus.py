"""Gather the texts that the shipped encoder is pre-trained on: texts.jsonl and counts.md in a folder.

python scripts/pretrain_corpus.py FOLDER OUT

FOLDER holds public data sets, one folder each, as their authors publish them:

    cold/train.csv dev.csv test.csv                              COLDataset (Apache-2.0)
    swsr/SexComment.csv SexWeibo.csv                             SWSR (MIT)
    reviews/ChnSentiCorp_htl_all.csv waimai_10k.csv
            online_shopping_10_cats.zip taobao_ham.txt           reviews of hotels, food delivery and shops
    weibo2018/train.txt test.txt                                 Weibo posts
    fewclue_unlabeled/eprstmt.json tnews.json                    FewCLUE, unlabelled
    mlm/ced_reposts.txt.gz                                       CED reposts, one a line

The project's own training rows follow, each OWN_COPIES times. Mentions, forwarding marks and links are taken out; a
text stands once. The texts of COLD's dev and test splits never enter, so that what is measured there is not known.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OWN = Path(__file__).parents[1] / "data_cards" / "shudun-xhs" / "train.jsonl"
OWN_COPIES = 4
LEAST_CHARACTERS = 4
NOISE = re.compile(r"//@[^:：]{0,30}[:：]?|@[\w\-·]{1,30}|https?://\S+|\u200b")


def clean(text: str) -> str:
    """A text without mentions, forwarding marks and links, on one line."""
    return re.sub(r"\s+", " ", NOISE.sub(" ", text)).strip()


def cold(folder: Path) -> Iterator[str]:
    yield from _column(folder / "cold" / "train.csv", "TEXT")


def cold_held_out(folder: Path) -> Iterator[str]:
    for split in ("dev", "test"):
        yield from _column(folder / "cold" / f"{split}.csv", "TEXT")


def swsr(folder: Path) -> Iterator[str]:
    yield from _column(folder / "swsr" / "SexComment.csv", "comment_text")
    yield from _column(folder / "swsr" / "SexWeibo.csv", "weibo_text")


def hotels(folder: Path) -> Iterator[str]:
    yield from _column(folder / "reviews" / "ChnSentiCorp_htl_all.csv", "review")


def food_delivery(folder: Path) -> Iterator[str]:
    yield from _column(folder / "reviews" / "waimai_10k.csv", "review")


def shopping(folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(folder / "reviews" / "online_shopping_10_cats.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".csv"))
        with archive.open(name) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
            yield from (row["review"] for row in csv.DictReader(text))


def marketplace(folder: Path) -> Iterator[str]:
    yield from _lines(folder / "reviews" / "taobao_ham.txt")


def weibo(folder: Path) -> Iterator[str]:
    for split in ("train", "test"):
        for line in _lines(folder / "weibo2018" / f"{split}.txt"):
            fields = line.rstrip("\n").split(",", 2)
            if len(fields) == 3:
                yield fields[2].replace("{%", "").replace("%}", "")


def fewclue(folder: Path) -> Iterator[str]:
    for name in ("eprstmt", "tnews"):
        for line in _lines(folder / "fewclue_unlabeled" / f"{name}.json"):
            yield json.loads(line)["sentence"]


def reposts(folder: Path) -> Iterator[str]:
    with gzip.open(folder / "mlm" / "ced_reposts.txt.gz", "rt", encoding="utf-8") as file:
        yield from file


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "cold": cold,
    "swsr": swsr,
    "reviews: hotels": hotels,
    "reviews: food delivery": food_delivery,
    "reviews: shops": shopping,
    "reviews: marketplace": marketplace,
    "weibo2018": weibo,
    "fewclue_unlabeled": fewclue,
    "mlm: CED reposts": reposts,
}


@dataclass
class Counts:
    """Rows of a source: `rows == short + repeated + texts`; copies are not counted."""

    rows: int = 0
    short: int = 0
    repeated: int = 0
    texts: int = 0
    characters: int = 0


def gather(folder: Path, target: IO[str]) -> dict[str, Counts]:
    """Write all texts and count them."""
    seen = {_digest(clean(text)) for text in cold_held_out(folder)}
    counts = {name: Counts() for name in (*SOURCES, "shudun-xhs")}
    for name, read in SOURCES.items():
        for raw in read(folder):
            _add(clean(raw), counts[name], seen, target)
    for line in _lines(OWN):
        row = _item_fields(json.loads(line))
        own = counts["shudun-xhs"]
        own.rows += 1
        own.texts += 1
        own.characters += len(row["text"])
        target.write(OWN_COPIES * (json.dumps(row, ensure_ascii=False) + "\n"))
    return counts


def _add(text: str, counts: Counts, seen: set[bytes], target: IO[str]) -> None:
    counts.rows += 1
    if len(text) < LEAST_CHARACTERS:
        counts.short += 1
    elif (digest := _digest(text)) in seen:
        counts.repeated += 1
    else:
        seen.add(digest)
        counts.texts += 1
        counts.characters += len(text)
        target.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def _item_fields(row: dict[str, Any]) -> dict[str, str]:
    if row.get("kind") == "note":
        return {"text": row["text"], "kind": "note", "title": row.get("title", "")}
    if row.get("parent_text"):
        return {"text": row["text"], "parent_text": row["parent_text"]}
    return {"text": row["text"]}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _column(path: Path, name: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline=None) as file:
        yield from (row[name] for row in csv.DictReader(file))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


def table(counts: dict[str, Counts], sha256: str) -> str:
    """The counts in Markdown."""
    lines = ["| source | rows | too short | repeated or held out | texts | characters |", "|---|" + "---:|" * 5]
    total = Counts()
    for name, count in counts.items():
        values = vars(count)
        lines.append(f"| {name} | {' | '.join(f'{value:,}' for value in values.values())} |")
        for field, value in values.items():
            setattr(total, field, getattr(total, field) + value)
    lines.append(f"| all | {' | '.join(f'{value:,}' for value in vars(total).values())} |")
    return "\n".join(
        [*lines, "", f"texts.jsonl: sha256 {sha256}; rows of shudun-xhs stand {OWN_COPIES} times in it.", ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    part, texts = arguments.out / "texts.jsonl.part", arguments.out / "texts.jsonl"
    with part.open("w", encoding="utf-8", newline="\n") as target:
        counts = gather(arguments.folder, target)
    with part.open("rb") as file:
        report = table(counts, hashlib.file_digest(file, "sha256").hexdigest())
    part.replace(texts)
    (arguments.out / "counts.md").write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()

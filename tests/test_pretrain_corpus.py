"""The corpus script: what it takes, what it leaves out, and counts that add up."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "pretrain_corpus.py"
DATA = ROOT.parent / "shared" / "data"
OWN = (ROOT / "data_cards" / "shudun-xhs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
SHA256 = "e8cb41c84651f9b8fb23d22d37a09d78f25808fb79602f30f7738dbd2aeaa7a4"
"""Of the public texts that the shipped encoder learnt from; the project's own rows may grow."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Public data sets of a few rows."""
    made = tmp_path / "public"
    files = {
        "cold/train.csv": (
            "\ufeff,topic,label,TEXT\n0,a,0,路上的晚霞很温柔\n1,a,0,测试里的句子\n2,a,0,路上的晚霞很温柔\n"
        ),
        "cold/dev.csv": "\ufeffTEXT\n验证里的句子\n",
        "cold/test.csv": "\ufeffTEXT\n测试里的句子\n",
        "swsr/SexComment.csv": "\ufeffcomment_text\n回复@某人:这家面馆好吃\n",
        "swsr/SexWeibo.csv": "\ufeffweibo_text\n好\n",
        "reviews/ChnSentiCorp_htl_all.csv": "\ufefflabel,review\n1,房间干净安静\n",
        "reviews/waimai_10k.csv": "\ufefflabel,review\n1,送餐很快 https://example.com/a 汤没洒\n",
        "reviews/taobao_ham.txt": "包装完好无损\n验证里的句子\n",
        "weibo2018/train.txt": "1,0,{%今天下班早%}\n坏行\n",
        "weibo2018/test.txt": "2,1,今天下班早\n",
        "fewclue_unlabeled/eprstmt.json": '{"sentence": "屏幕显示清晰"}\n',
        "fewclue_unlabeled/tnews.json": '{"sentence": "周末去哪里玩"}\n',
    }
    for name, text in files.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with zipfile.ZipFile(made / "reviews" / "online_shopping_10_cats.zip", "w") as archive:
        archive.writestr("online_shopping_10_cats.csv", "\ufeffcat,label,review\n书籍,1,纸张很厚实\n")
    (made / "mlm").mkdir()
    (made / "mlm" / "ced_reposts.txt.gz").write_bytes(gzip.compress("转发了这条//@某人：原来如此啊\n".encode()))
    return made


def gather(source: Path, out: Path) -> tuple[list[dict[str, str]], str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, (out / "counts.md").read_text(encoding="utf-8")


def test_texts_are_cleaned_stand_once_and_never_come_from_cold_dev_or_test(folder: Path, tmp_path: Path) -> None:
    rows, _ = gather(folder, tmp_path / "out")
    texts = [row["text"] for row in rows[: -4 * len(OWN)]]
    assert texts == [
        "路上的晚霞很温柔",
        "回复 :这家面馆好吃",
        "房间干净安静",
        "送餐很快 汤没洒",
        "纸张很厚实",
        "包装完好无损",
        "今天下班早",
        "屏幕显示清晰",
        "周末去哪里玩",
        "转发了这条 原来如此啊",
    ]


def test_own_rows_stand_four_times_with_their_context(folder: Path, tmp_path: Path) -> None:
    rows, _ = gather(folder, tmp_path / "out")
    own, source = rows[-4 * len(OWN) :], [json.loads(line) for line in OWN]
    assert own[::4] == own[3::4]
    for row, original in zip(own[::4], source, strict=True):
        assert row["text"] == original["text"]
        if original["kind"] == "note":
            assert (row["kind"], row["title"]) == ("note", original["title"])
        else:
            assert row.get("parent_text", "") == (original.get("parent_text") or "")


def test_counts_add_up(folder: Path, tmp_path: Path) -> None:
    rows, report = gather(folder, tmp_path / "out")
    cells = [[cell.strip().replace(",", "") for cell in line.split("|")[1:-1]] for line in report.splitlines()]
    table = [line for line in cells if len(line) == 6 and line[1].isdigit()]
    for _, read, short, repeated, texts, _ in table:
        assert int(read) == int(short) + int(repeated) + int(texts)
    assert table[-1][0] == "all"
    assert int(table[-1][4]) == len(rows) - 3 * len(OWN)
    assert [int(cell) for cell in table[0][1:5]] == [3, 0, 2, 1]


@pytest.mark.slow
def test_the_corpus_of_the_shipped_encoder_comes_out_again(tmp_path: Path) -> None:
    if not (DATA / "mlm").is_dir():
        pytest.skip(f"needs the public data sets in {DATA}")
    gather(DATA, tmp_path / "out")
    lines = (tmp_path / "out" / "texts.jsonl").read_bytes().splitlines(keepends=True)
    assert hashlib.sha256(b"".join(lines[: -4 * len(OWN)])).hexdigest() == SHA256

"""The data we ship: every row is valid, evidence fits, nothing leaks between splits, nothing is anybody's contact."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from shudun.rendering import plain_text
from shudun.rows import RowReader
from shudun_training.checkpoint import build_tokenizer, item_tokenizer
from shudun_training.config import CompactConfig, ModelConfig, load_run_config, load_taxonomy
from shudun_training.examples import Example, ExampleParser
from shudun_training.splitting import near_duplicate_clusters

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "data_cards"
XHS = CARDS / "shudun-xhs"
SPLITS = ("train", "validation", "test")
TAXONOMY = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
FIELDS = ("title", "text", "parent_text")

# Limits of the product whose texts these imitate: characters of a title, of a note's body and of a comment.
TITLE, BODY, COMMENT = 20, 1000, 300

URL = re.compile(r"(?:https?://|www\.)[^\s一-鿿]+|[a-z0-9-]+\.(?:com|cn|net|org|cc|top|xyz|io|me)\b", re.IGNORECASE)
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w+")
DIGIT_RUN = re.compile(r"\d(?:[\s\-.]?\d){7,}")
"""Eight digits or more, spaces and dashes between them or not: what could be dialled, added or charged."""


@pytest.fixture(scope="module")
def examples() -> dict[str, list[Example]]:
    """Every row through the parser that training uses: one wrong row fails all tests of this file."""
    return {split: list(RowReader(XHS / f"{split}.jsonl", ExampleParser(TAXONOMY))) for split in SPLITS}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [
        json.loads(line) | {"split": split}
        for split in SPLITS
        for line in (XHS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def shown(found: list[Any]) -> str:
    return f"{len(found)} found, e.g. {found[:5]}"


def test_every_row_parses_and_every_label_is_reviewed(examples: dict[str, list[Example]]) -> None:
    assert sum(map(len, examples.values())) >= 600
    assert not any(example.unknown_labels for split in ("train", "validation") for example in examples[split])
    # Labels of which two labellers differ are unknown in the test split; they stay rare.
    unknown = sum(len(example.unknown_labels) for example in examples["test"])
    assert unknown / (16 * len(examples["test"])) < 0.02


def test_ids_are_unique_over_all_splits(rows: list[dict[str, Any]]) -> None:
    repeated = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    assert not repeated, shown(repeated)


def test_every_positive_label_has_evidence_inside_its_field_and_nothing_else_has(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert {span["label"] for span in row["evidence"]} == set(row["labels"]), row["id"]
        for span in row["evidence"]:
            assert set(span) == {"label", "field", "start", "end"}, row["id"]
            assert span["field"] in FIELDS, row["id"]
            assert 0 <= span["start"] < span["end"] <= len(row[span["field"]]), row["id"]
            assert row[span["field"]][span["start"] : span["end"]].strip(), row["id"]


def test_exclusive_labels_never_stand_together(rows: list[dict[str, Any]]) -> None:
    for pair in TAXONOMY.exclusive:
        both = [row["id"] for row in rows if set(pair) <= set(row["labels"])]
        assert not both, (pair, shown(both))


def test_hard_negatives_do_not_carry_the_label_they_resemble(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert set(row["hard_negative_for"]) <= set(TAXONOMY.label_ids), row["id"]
        assert not set(row["hard_negative_for"]) & set(row["labels"]), row["id"]


def test_no_group_stands_in_two_splits(rows: list[dict[str, Any]]) -> None:
    splits = defaultdict(set)
    for row in rows:
        assert row["group"], row["id"]
        splits[row["group"]].add(row["split"])
    shared = [group for group, found in splits.items() if len(found) > 1]
    assert not shared, shown(shared)


def test_no_text_has_a_near_duplicate_in_another_split(examples: dict[str, list[Example]]) -> None:
    everything = [(split, example) for split in SPLITS for example in examples[split]]
    clusters = near_duplicate_clusters([plain_text(example.item) for _, example in everything])
    members = defaultdict(list)
    for cluster, (split, example) in zip(clusters.tolist(), everything, strict=True):
        members[cluster].append((split, example.id))
    leaks = [found for found in members.values() if len({split for split, _ in found}) > 1]
    assert not leaks, shown(leaks)


def test_no_judged_text_stands_in_two_splits(rows: list[dict[str, Any]]) -> None:
    """The same words under another parent or title would pass for a different row."""
    splits = defaultdict(set)
    for row in rows:
        splits[re.sub(r"\W", "", row["text"]).casefold()].add((row["split"], row["id"]))
    leaks = [found for text, found in splits.items() if len(text) > 6 and len({split for split, _ in found}) > 1]
    assert not leaks, shown(leaks)


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_has_positives_and_clean_rows_are_many(split: str, examples: dict[str, list[Example]]) -> None:
    positives = Counter(label for example in examples[split] for label in example.labels)
    assert set(positives) == set(TAXONOMY.label_ids)
    assert min(positives.values()) >= 5
    assert sum(not example.labels for example in examples[split]) > len(examples[split]) / 4


def test_contacts_are_dummies(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for field in FIELDS:
            text = row[field]
            for url in URL.findall(text):
                assert "example.com" in url, (row["id"], url)
            assert not MAIL.search(text), (row["id"], field)
            assert not DIGIT_RUN.search(text), (row["id"], field)


def test_texts_are_of_the_length_that_the_product_allows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert len(row["title"]) <= TITLE, row["id"]
        assert 0 < len(row["text"]) <= (BODY if row["kind"] == "note" else COMMENT), row["id"]
        assert len(row["parent_text"]) <= COMMENT, row["id"]
        assert (row["kind"] == "note") == bool(row["title"]), row["id"]


def test_hardly_any_text_is_cut_by_the_shipped_configuration(examples: dict[str, list[Example]]) -> None:
    max_length = load_run_config(ROOT / "configs" / "train" / "xhs-compact.yaml").model.max_length
    config = ModelConfig(compact=CompactConfig(), max_length=max_length)
    items = [example.item for split in SPLITS for example in examples[split]]
    tokenizer = build_tokenizer(config, map(plain_text, items))
    truncated = item_tokenizer(tokenizer, max_length=max_length).encode(items).truncated
    cut = [item.id for item, was_cut in zip(items, truncated, strict=True) if was_cut]
    assert len(cut) < len(items) / 100, shown(cut)


@pytest.mark.parametrize("card", sorted(CARDS.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_every_card_has_front_matter_with_a_licence(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"]
    assert front["language"]
    for entry in front.get("configs", []):
        assert all((card.parent / file["path"]).is_file() for file in entry["data_files"])


def test_the_card_gives_the_counts_of_the_files(examples: dict[str, list[Example]]) -> None:
    table = (XHS / "README.md").read_text(encoding="utf-8").partition("<!-- counts: start -->")[2]
    table = table.partition("<!-- counts: end -->")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    counts = {row[0]: row[1:] for row in cells}
    columns = [examples[split] for split in SPLITS]
    columns.append([example for split in SPLITS for example in examples[split]])
    assert counts["rows"] == [str(len(column)) for column in columns]
    assert counts["clean rows"] == [str(sum(not x.labels and not x.unknown_labels for x in c)) for c in columns]
    for label in TAXONOMY.label_ids:
        assert counts[label] == [str(sum(label in example.labels for example in column)) for column in columns]


def test_splits_do_not_share_a_writer_of_the_test_rows(rows: list[dict[str, Any]]) -> None:
    """The letter of an id names the writer: the test split was written by two who wrote no other row."""
    writers = {split: {row["id"].split("-")[1] for row in rows if row["split"] == split} for split in SPLITS}
    assert writers["test"] == {"t", "l"}
    for split, other in combinations(SPLITS, 2):
        assert "test" not in (split, other) or not writers[split] & writers[other]


def generated(name: str) -> list[list[str]]:
    """Cells of a table between the markers of a generated block."""
    block = (XHS / "README.md").read_text(encoding="utf-8").partition(f"<!-- {name}: start -->")[2]
    lines = [line for line in block.partition(f"<!-- {name}: end -->")[0].splitlines() if "|" in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_generated_blocks_of_the_card_are_up_to_date() -> None:
    script = ROOT / "scripts" / "count_data_card.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_aliases_that_the_card_calls_unseen_stand_in_test_rows_only(rows: list[dict[str, Any]]) -> None:
    aliases = {alias: int(count) for _, alias, count in generated("only in test")[2:]}
    assert len(aliases) >= 10
    for alias, count in aliases.items():
        spelled = re.compile("\ufe0f?".join(map(re.escape, alias)).replace("❤", "[❤♥]"), re.IGNORECASE)
        holders = Counter(row["split"] for row in rows if spelled.search(row["title"] + "\n" + row["text"]))
        assert holders == {"test": count}, alias

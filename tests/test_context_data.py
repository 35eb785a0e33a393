"""The threads and account histories of shudun-xhs: whole, consistent, as many and as mixed as the card says."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from shudun_training.config import load_taxonomy
from shudun_training.splitting import near_duplicate_clusters

ROOT = Path(__file__).parents[1]
CARD = ROOT / "data_cards" / "shudun-xhs"
TAXONOMY = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
APPLIES = {label.id: label.applies_to for label in TAXONOMY.labels}


def read(name):
    return [json.loads(line) for line in (CARD / name).read_text(encoding="utf-8").splitlines()]


THREADS, ACCOUNTS = read("threads.jsonl"), read("accounts.jsonl")


def signals(entry):
    return {signal["signal"] for signal in entry["signals"]}


def by_id(entry):
    return entry["id"]


def unique(ids):
    return len(ids) == len(set(ids))


def check_labels(labels, kind):
    assert unique(labels)
    assert all(kind in APPLIES[label] for label in labels)
    assert not any(a in labels and b in labels for a, b in TAXONOMY.exclusive)


@pytest.mark.parametrize("thread", THREADS, ids=by_id)
def test_a_thread_is_consistent(thread):
    assert 40 <= len(thread["note"]["text"]) <= 300
    comments = thread["comments"]
    assert 5 <= len(comments) <= 12
    ids = [comment["id"] for comment in comments]
    assert all(id_.startswith(thread["id"]) for id_ in ids)
    minutes = [comment["minutes"] for comment in comments]
    assert minutes == sorted(minutes)
    assert set(thread["accounts"]) == {thread["note"]["account"], *(comment["account"] for comment in comments)}
    for place, comment in enumerate(comments):
        assert comment["reply_to"] is None or comment["reply_to"] in ids[:place]
        assert 2 <= len(comment["text"]) <= 80
        check_labels(comment["labels"], "comment")
    for signal in thread["signals"]:
        assert len(signal["comments"]) >= 2
        assert set(signal["comments"]) <= set(ids)


@pytest.mark.parametrize("account", ACCOUNTS, ids=by_id)
def test_an_account_history_is_consistent(account):
    items = account["items"]
    ids = [item["id"] for item in items]
    times = [(item["day"], item["hour"]) for item in items]
    assert times == sorted(times)
    assert -account["profile"]["registered_days_ago"] <= times[0][0] <= times[-1][0] <= 0
    assert 8 <= len(items) <= 14
    for item in items:
        check_labels(item["labels"], item["kind"])
        low, high = (40, 250) if item["kind"] == "note" else (2, 80)
        assert low <= len(item["text"]) <= high
    series = account["engagement_series"]
    if series is not None:
        (note,) = (item for item in items if item["id"] == series["item"])
        assert sum(series["hourly_likes"]) <= note["engagement"]["likes"]
    assert {order["item"] for order in account["orders"]} <= set(ids)
    known = {other["id"] for other in ACCOUNTS} - {account["id"]}
    for signal in account["signals"]:
        assert set(signal["items"]) <= set(ids)
        assert signal["items"]
        assert set(signal.get("with", [])) <= known


def test_signals_between_accounts_are_listed_on_every_side():
    listed = {
        (account["id"], other, signal["signal"])
        for account in ACCOUNTS
        for signal in account["signals"]
        for other in signal.get("with", [])
    }
    assert listed
    assert {(b, a, signal) for a, b, signal in listed} == listed


def test_there_are_as_many_and_as_mixed_as_the_card_says():
    kinds = Counter("duet" if "S1_comment_duet" in signals(thread) else "other" for thread in THREADS)
    assert (len(THREADS), kinds["duet"]) == (156, 78)
    assert sum("S2_near_duplicate_cluster" in signals(thread) for thread in THREADS) == 44
    assert sum(not signals(t) and not any(c["labels"] for c in t["comments"]) for t in THREADS) >= 40
    assert len(ACCOUNTS) == 32
    held = Counter(signal for account in ACCOUNTS for signal in signals(account))
    assert min(held[f"S{n}" + name] for n, name in ((3, "_coordinated_accounts"), (4, "_missing_credential"))) >= 3
    assert min(held["S5_undeclared_cooperation"], held["S6_abnormal_engagement"]) >= 3
    assert sum(not account["signals"] for account in ACCOUNTS) >= 12
    assert unique([entry["id"] for entry in (*THREADS, *ACCOUNTS)])
    assert len({thread["vertical"] for thread in THREADS}) >= 15


def test_planted_near_duplicates_resemble_each_other_more_than_other_comments_do():
    def overlap(a, b):
        grams = [{text[i : i + 2] for i in range(len(text) - 1)} for text in (a, b)]
        return len(grams[0] & grams[1]) / max(len(grams[0] | grams[1]), 1)

    planted, other = [], []
    for thread in THREADS:
        texts = {comment["id"]: comment["text"] for comment in thread["comments"]}
        clusters = [s["comments"] for s in thread["signals"] if s["signal"] == "S2_near_duplicate_cluster"]
        planted += [overlap(texts[a], texts[b]) for cluster in clusters for a, b in itertools.combinations(cluster, 2)]
        if not clusters:
            other += [overlap(a, b) for a, b in itertools.combinations(texts.values(), 2)]
    assert sum(planted) / len(planted) > 0.3 > 10 * sum(other) / len(other)


def test_contacts_are_dummies_and_nothing_is_copied_from_the_splits():
    raw = "".join((CARD / name).read_text(encoding="utf-8") for name in ("threads.jsonl", "accounts.jsonl"))
    assert not re.search(r"1[3-9]\d{9}|https?://|\d{17}[\dXx]|[\w.]+@[\w.]+\.\w+", raw)
    handles = set(re.findall(r"[A-Za-z][A-Za-z_]*_?\d{4,}", raw))
    assert all(re.fullmatch(r"(demo_|sample_?|id_demo)\d{4}", handle) for handle in handles), handles
    rows = [row["text"] for split in ("train", "validation", "test") for row in read(f"{split}.jsonl")]
    own = [comment["text"] for thread in THREADS for comment in thread["comments"] if len(comment["text"]) >= 12]
    clusters = near_duplicate_clusters([*rows, *own])
    assert not set(clusters[: len(rows)]) & set(clusters[len(rows) :])

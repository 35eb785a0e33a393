"""SWSR (Jiang et al. 2022): comments of `SexComment.csv` under the posts of `SexWeibo.csv`.

Label `sexist` and, for sexist comments, one of four categories and one of two targets. The post is the comment's
parent text; all comments under one post stay in one split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import RowError
from shudun.records import BadRecord, read_records
from shudun.rows import Row
from shudun_training.importers.checks import ORIGINAL, choice, required
from shudun_training.importers.contract import SHARES, ImportOptions, Part, Plan, published_taxonomy

CATEGORIES = {
    "SA": "appearance_stereotype",
    "SCB": "cultural_stereotype",
    "MA": "microaggression",
    "SO": "sexual_offence",
}
TARGETS = {"I": "individual_target", "G": "generic_target"}


def plan(folder: Path, options: ImportOptions) -> Plan:  # noqa: ARG001  its own columns and labels
    """Read posts, then comments; there is no official split."""
    posts = _posts(folder / "SexWeibo.csv")
    path = folder / "SexComment.csv"
    part = Part(path, partial(read_records, path), partial(_convert, posts=posts))
    labels = ["sexist", *CATEGORIES.values(), *TARGETS.values()]
    return Plan([part], published_taxonomy("swsr", labels), shares=SHARES)


def _posts(path: Path) -> dict[str, str]:
    posts = {}
    for record in read_records(path):
        if isinstance(record, BadRecord):
            raise RowError(record.problem)
        row = Row(str(path), record)
        posts[required(row, "weibo_id")] = row.text("weibo_text")
    return posts


def _convert(row: Row, *, posts: Mapping[str, str]) -> dict[str, Any]:
    sexist = choice(row, "label", ("0", "1")) == "1"
    # A comment that is not sexist has neither category nor target.
    category = choice(row, "category", tuple(CATEGORIES) if sexist else ("",))
    target = choice(row, "target", tuple(TARGETS) if sexist else ("",))
    post = required(row, "weibo_id")
    if post not in posts:
        raise row.problem("weibo_id", "a post of SexWeibo.csv", post, ORIGINAL)
    return {
        "id": f"swsr-{required(row, 'index')}",
        "text": required(row, "comment_text"),
        "parent_text": posts[post],
        "labels": ["sexist", CATEGORIES[category], TARGETS[target]] if sexist else [],
        "group": post,
    }

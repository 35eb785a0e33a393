"""A tiny corpus, its tokenizer and its token store."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer

from shudun import Comment, Note
from shudun.items import Item
from shudun.tokenization import ItemTokenizer
from shudun_training.pretraining.batches import Vocabulary
from shudun_training.pretraining.token_store import StoreWriter, TokenStore, read_store
from shudun_training.vocabulary import train_tokenizer

PARTS = [
    "今天",
    "下班",
    "路上",
    "看到",
    "晚霞",
    "面馆",
    "好吃",
    "排队",
    "番茄",
    "牛腩",
    "土豆",
    "色号",
    "显白",
    "请问",
    "哪里",
    "可以",
]


def _sentence(draw: random.Random, parts: int) -> str:
    return "".join(draw.choice(PARTS) for _ in range(parts)) + draw.choice("。！")


@pytest.fixture(scope="session")
def corpus() -> list[Item]:
    """Comments, replies and notes of two to a hundred tokens."""
    draw = random.Random(0)  # noqa: S311
    items: list[Item] = []
    for number in range(120):
        text = _sentence(draw, draw.choice([1, 3, 6, 12, 24]))
        if number % 5 == 0:
            items.append(Note(_sentence(draw, 2), text))
        else:
            items.append(Comment(text, parent_text=_sentence(draw, 2) if number % 3 == 0 else ""))
    return items


def row(item: Item) -> dict[str, Any]:
    if isinstance(item, Note):
        return {"kind": "note", "title": item.title, "text": item.text}
    return {"text": item.text, "parent_text": item.parent_text}


@pytest.fixture(scope="session")
def vocabulary_file(corpus: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer((item.text for item in corpus), vocab_size=200)
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="session")
def tokenizer(vocabulary_file: Path) -> ItemTokenizer:
    return ItemTokenizer(vocabulary_file.read_text(encoding="utf-8"), max_length=62)


@pytest.fixture(scope="session")
def vocabulary(vocabulary_file: Path) -> Vocabulary:
    ids = Tokenizer.from_file(str(vocabulary_file)).get_vocab()
    special = np.zeros(len(ids), np.bool_)
    special[:5] = True
    return Vocabulary(special, ids["[MASK]"], ids["[CLS]"])


@pytest.fixture(scope="session")
def store(corpus: list[Item], tokenizer: ItemTokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    with StoreWriter(folder, "corpus", vocab_size=tokenizer.vocab_size, words=False) as writer:
        writer.add(tokenizer.encode(corpus), np.arange(len(corpus)))
    read = read_store(folder, "corpus")
    assert read is not None
    return read


@pytest.fixture(scope="session")
def base_config(corpus: list[Item], vocabulary_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Values of a configuration that learns from the corpus in seconds."""
    texts = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    texts.write_text("".join(json.dumps(row(item)) + "\n" for item in corpus), encoding="utf-8")
    return {
        "name": "tiny",
        "output_dir": "run",
        "texts": [str(texts)],
        "compact": {
            "tokenizer": str(vocabulary_file.parent),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "dropout": 0,
            "max_position_embeddings": 64,
        },
        "max_length": 62,
        "held_out": {"share": 0},
        "training": {
            "steps": 12,
            "warmup_steps": 2,
            "decay_steps": 4,
            "row_tokens": 32,
            "rows_per_step": 4,
            "learning_rate": 1e-2,
            "matrix_learning_rate": 3e-2,
            "save_steps": 3,
            "logging_steps": 1,
        },
    }


@pytest.fixture
def write_config(base_config: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration into the test's folder; arguments replace values, those of sections one by one."""

    def write(file: str = "run.yaml", **changes: Any) -> Path:
        values = dict(base_config)
        for name, value in changes.items():
            merged = {**values[name], **value} if isinstance(value, dict) and name in values else value
            values[name] = merged
        path = tmp_path / file
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return path

    return write

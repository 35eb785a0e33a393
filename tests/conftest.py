"""Shared fixtures: a tiny model with random weights, exported and bundled by the real code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shudun import Comment, Note, Taxonomy
from shudun.bundle import write_bundle
from shudun.calibration import Calibration, OperatingPoint
from shudun.items import Item
from shudun.policy import Policy
from shudun.tokenization import ItemTokenizer
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer
from shudun_training.config import CompactConfig, ModelConfig, load_policy
from shudun_training.onnx_export import export_stock_graph

# The same examples in every run: a failure in CI can be seen again at once.
settings.register_profile("offline", deadline=None, derandomize=True, database=None)
settings.load_profile("offline")

# Models this small gain nothing from threads, which wait for each other at every step on busy cores.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]

TAXONOMY = {
    "id": "test",
    "version": "1",
    "labels": [
        {"id": "diversion", "name_zh": "导流", "family": "a", "tier": "T3", "applies_to": ["note", "comment"]},
        {"id": "note_only", "name_zh": "软广", "family": "b", "tier": "T2", "applies_to": ["note"]},
        {"id": "shill", "name_zh": "水军", "family": "b", "tier": "T1", "applies_to": ["comment"]},
        {"id": "hard_sell", "name_zh": "叫卖", "family": "c", "tier": "T1", "applies_to": ["note", "comment"]},
    ],
    "exclusive": [["note_only", "hard_sell"]],
}

TEXTS = [
    "加我微信 demo_0000 发你链接",
    "这家面馆真的好吃，排队二十分钟也值",
    "➕V demo_0000，前十名半价🎁",
    "请问这个色号黄皮能用吗",
    "姐妹们冲啊！！！最后三天",
    "今天下班路上看到的晚霞 🌇 好温柔",
    "求链接求链接",
    "昨晚做了番茄炖牛腩，土豆要最后放",
]


@dataclass(frozen=True)
class Trained:
    """A tiny classifier and its tokenizer; weights are random but fixed."""

    config: ModelConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: ItemTokenizer
    graph: bytes


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return Taxonomy.from_dict(TAXONOMY)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(ROOT / "configs" / "policy" / "default.yaml")


@pytest.fixture(scope="session")
def trained(taxonomy: Taxonomy) -> Trained:
    torch.manual_seed(7)
    compact = CompactConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    config = ModelConfig(compact=compact, max_length=32)
    tokenizer = build_tokenizer(config, TEXTS * 2)
    model = build_model(config, taxonomy, tokenizer).eval()
    # Fresh weights give nearly the same logits for every text, and equal biases: noise makes both differ.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Trained(
        config, model, tokenizer, item_tokenizer(tokenizer, max_length=config.max_length), export_stock_graph(model)
    )


@pytest.fixture(scope="session")
def points(taxonomy: Taxonomy) -> tuple[OperatingPoint, ...]:
    return tuple(
        OperatingPoint(
            threshold=0.5,
            automatic=0.9 if label.tier == "T3" else None,
            method="best F1",
            positives=10,
            precision=0.8,
            precision_low=0.5,
            precision_high=0.9,
            recall=0.7,
        )
        for label in taxonomy.labels
    )


@pytest.fixture(scope="session")
def make_bundle(
    trained: Trained, taxonomy: Taxonomy, policy: Policy, points: tuple[OperatingPoint, ...]
) -> Callable[..., Path]:
    """Write a bundle of the tiny model into a folder; keyword arguments replace its parts."""

    def make(folder: Path, **parts: object) -> Path:
        values: dict[str, object] = {
            "name": "tiny",
            "created": "2026-11-20T00:00:00+00:00",
            "shudun_version": "0",
            "precision": "fp32",
            "provenance": {},
            "graph": trained.graph,
            "tokenizer": trained.encoder,
            "taxonomy": taxonomy,
            "calibration": Calibration.identity(len(taxonomy.labels)),
            "points": points,
            "policy": policy,
            "metrics": {},
        }
        write_bundle(folder, **(values | parts))  # type: ignore[arg-type]
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows into a JSONL file of the test's own folder."""

    def write(rows: list[object], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """Texts of many shapes: both kinds, parents, empty, emoji only, too long, control characters."""
    rng = np.random.default_rng(0)
    mixed: list[Item] = [Comment(text) for text in TEXTS]
    mixed += [Comment(text, parent_text="这个怎么买") for text in TEXTS]
    mixed += [Note(title=text[:6], text=text * 3) for text in TEXTS]
    mixed += [
        Comment(""),
        Note("", ""),
        Note("", "只有正文"),
        Comment("😀" * 12),
        Comment("\u200b\x00\ud800"),
        Comment("长" * 500),
    ]
    return [mixed[i] for i in rng.permutation(len(mixed))]

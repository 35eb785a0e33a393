"""What ships inside the packages: small enough, verified, ready to score and to fine-tune from."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from shudun import Comment, Note, Scorer, read_bundle
from shudun.builtin import BUILTIN_BUNDLE
from shudun.bundle import MANIFEST
from shudun_training.builtin import BUILTIN_ENCODER, NAME
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer
from shudun_training.config import ModelConfig, load_taxonomy

ROOT = Path(__file__).parents[1]
XHS = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")


def test_the_builtin_bundle_scores_what_it_is_for() -> None:
    diverting, plain = Scorer.builtin("cpu", threads=1).score(
        [Comment("想要的加我薇 demo_0000，备注面霜", parent_text="求链接"), Comment("今天的银杏真好看，人也不多")]
    )
    assert "off_platform_diversion" in diverting.labels
    assert diverting.suggestion != "pass"
    assert (plain.labels, plain.suggestion) == ((), "pass")


def test_the_builtin_bundle_is_small_and_names_no_machine() -> None:
    bundle = read_bundle(BUILTIN_BUNDLE)
    assert bundle.manifest.precision == "int8"
    assert bundle.taxonomy.label_ids == XHS.label_ids
    assert sum(path.stat().st_size for path in BUILTIN_BUNDLE.iterdir()) <= 16_000_000
    sources = json.loads((BUILTIN_BUNDLE / MANIFEST).read_text(encoding="utf-8"))["provenance"]["sources"]
    assert {record["path"] for records in sources.values() for record in records} == {"data_cards/shudun-xhs"}


def test_the_builtin_encoder_is_what_fine_tuning_starts_from() -> None:
    config = ModelConfig(encoder=NAME, max_length=64)
    tokenizer = build_tokenizer(config, ())
    model = build_model(config, XHS, tokenizer)
    assert sum(p.numel() for p in model.parameters()) <= 14_000_000
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.bert.pooler.dense.weight, torch.eye(model.config.hidden_size))
    encoded = item_tokenizer(tokenizer, max_length=64).encode([Note("今天😂", "这家店的面🔥")])
    assert tokenizer.unk_token_id not in encoded.ids.tolist()
    assert (BUILTIN_ENCODER / "README.md").is_file()

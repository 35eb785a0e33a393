"""A pre-trained encoder goes into fine-tuning as any encoder does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel

from shudun import Comment, Taxonomy
from shudun_training import finetune
from shudun_training.checkpoint import load_checkpoint
from shudun_training.config import BceConfig, ModelConfig, TrainingConfig
from shudun_training.examples import Example
from shudun_training.pretraining.command import pretrain

SENTENCES = ["加我主页领取", "今天的晚霞很温柔", "最后三天冲", "面馆好吃不用排队"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "texts.txt").write_text(
        "".join(f"{text}{n}\n" for n in range(30) for text in SENTENCES), encoding="utf-8"
    )
    compact = {"vocab_size": 700, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    values = {
        "name": "tiny",
        "output_dir": "run",
        "texts": ["texts.txt"],
        "held_out": {"share": 0.002},  # one text or none: then there is nothing to measure
        "compact": {**compact, "intermediate_size": 32, "max_position_embeddings": 64},
        "max_length": 64,
        "training": {"steps": 3, "warmup_steps": 1, "decay_steps": 1, "row_tokens": 32, "rows_per_step": 4},
        "weights": "fp16",
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    pretrain(folder / "run.yaml")
    return folder / "run" / "encoder"


def test_fine_tuning_begins_at_the_pre_trained_weights(encoder: Path, taxonomy: Taxonomy, tmp_path: Path) -> None:
    rows = [
        Example(Comment(text, id=f"{n}-{text}"), frozenset({"diversion"} if "领取" in text else ()), frozenset())
        for n in range(6)
        for text in SENTENCES
    ]
    result = finetune.fit(
        rows,
        rows[:8],
        taxonomy=taxonomy,
        model_config=ModelConfig(encoder=str(encoder), max_length=32),
        training_config=TrainingConfig(num_train_epochs=1, learning_rate=1e-9, weight_decay=0, report_to="none"),
        loss_config=BceConfig(),
        output_dir=tmp_path,
    )
    model, tokenizer = load_checkpoint(result.checkpoint)
    assert model.dtype == torch.float32
    pretrained = AutoModel.from_pretrained(encoder).state_dict()
    for name, value in model.base_model.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(value, pretrained[name], atol=1e-6, rtol=0)
    made = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert tokenizer.get_vocab() == made

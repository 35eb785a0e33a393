"""Pre-training configurations: all problems at once, paths relative to the file, and back from YAML unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from shudun_training.config import ConfigError
from shudun_training.pretraining.config import load_pretrain_config, save_pretrain_config

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_shows_its_command(path):
    config = load_pretrain_config(path)
    assert config.name == path.stem
    assert config.output_dir == ROOT / "runs" / f"pretrain-{path.stem}"
    assert f"shudun pretrain --config configs/pretrain/{path.name}" in path.read_text(encoding="utf-8")
    assert all(ROOT in source.path.parents for source in config.texts)


def test_a_configuration_comes_back_from_yaml_unchanged(write_config, tmp_path):
    config = load_pretrain_config(write_config())
    assert config.output_dir == tmp_path / "run"
    save_pretrain_config(config, tmp_path / "again.yaml")
    assert load_pretrain_config(tmp_path / "again.yaml") == config
    assert load_pretrain_config(tmp_path / "again.yaml", output_dir=tmp_path / "b").output_dir == tmp_path / "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "somewhere"}, "give exactly one of 'encoder'"),
        ({"compact": None}, "give exactly one of 'encoder'"),
        ({"revision": "main"}, "'revision' is for 'encoder'"),
        ({"texts": [{"path": "a.txt", "columns": {"text": "x"}}]}, "a .txt file has one text a line"),
        ({"texts": []}, "texts: List should have at least 1 item"),
        ({"masking": {"unit": "letter"}}, "masking.unit"),
        ({"training": {"decay_steps": 11}}, "warmup_steps and decay_steps together are more than steps"),
        ({"training": {"gradient_accumulation_steps": 5}}, "a part would have no row"),
        ({"training": {"rows": 5}}, "training.rows: Extra inputs are not permitted"),
    ],
)
def test_unusable_values_are_refused(write_config, changes, message):
    with pytest.raises(ConfigError) as refused:
        load_pretrain_config(write_config(**changes))
    assert message in str(refused.value)


def test_all_problems_are_told_at_once(write_config):
    with pytest.raises(ConfigError, match=r"3 problem\(s\)"):
        load_pretrain_config(write_config(masking={"share": 2}, bag_weight=-1, weights="int8"))

"""Run configurations: every mistake at once, unknown keys refused, paths relative to the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shudun_training.config import (
    ConfigError,
    RunConfig,
    SourceConfig,
    load_label_map,
    load_policy,
    load_run_config,
    load_taxonomy,
    save_run_config,
    with_values,
)
from shudun_training.loss_config import LOSS_NAMES, BceConfig, FocalConfig

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a small valid configuration into `tmp_path/configs`; dotted keyword arguments change it."""

    def write(changes: dict[str, Any] | None = None, *, folder: str = "configs") -> Path:
        values: dict[str, Any] = {
            "name": "run",
            "output_dir": "../runs/run",
            "taxonomy": "taxonomy.yaml",
            "policy": "policy.yaml",
            "data": {"train": [{"path": "train.jsonl"}], "validation": [{"path": "validation.jsonl"}]},
            "model": {"compact": {"hidden_size": 32}},
            "training": {},
            "loss": {},
            "thresholds": {},
            "regularisation": {},
            "search": {},
        }
        for dotted, value in (changes or {}).items():
            *parents, last = dotted.split(".")
            section = values
            for key in parents:
                section = section[int(key)] if isinstance(section, list) else section[key]  # type: ignore[assignment]
            section[last] = value
        path = tmp_path / folder / "run.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return path

    return write


def test_every_mistake_is_reported_together_with_its_place(write: Write) -> None:
    path = write(
        {
            "name": "../evil",
            "data.train": [],
            "data.on_bad_row": "ignore",
            "model.max_length": 4096,
            "training.learning_rate": -1,
            "training.lerning_rate": 1,
            "thresholds.precision": 1.5,
        }
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}: 7 problem(s):"
    assert [line.split(":")[0].strip() for line in lines] == [
        "name",
        "data.train",
        "data.on_bad_row",
        "model.max_length",
        "training.learning_rate",
        "training.lerning_rate",
        "thresholds.precision",
    ]


@pytest.mark.parametrize(
    "key",
    [
        "epochs",
        "data.dev",
        "data.train.0.file",
        "model.hidden_size",
        "model.compact.layers",
        "training.batch_size",
        "loss.class_weight",
        "thresholds.recall",
        "regularisation.mixup",
        "search.trials",
    ],
)
def test_unknown_keys_are_refused_in_every_section(write: Write, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\n  {key}: Extra inputs are not permitted"):
        load_run_config(write({key: 1}))


@pytest.mark.parametrize("model", [{}, {"encoder": "a/b", "compact": {}}], ids=["none", "both"])
def test_exactly_one_of_encoder_and_compact_is_needed(write: Write, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give exactly one of 'encoder'"):
        load_run_config(write({"model": model}))


def test_heads_must_divide_the_width(write: Write) -> None:
    compact = {"hidden_size": 30, "num_attention_heads": 4}
    with pytest.raises(ConfigError, match="hidden_size must be a multiple of num_attention_heads"):
        load_run_config(write({"model.compact": compact}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b\n", "expected a mapping of keys, got list"),
        ("", "expected a mapping of keys, got NoneType"),
        ("name: [", "cannot be read as YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
    ],
    ids=["list", "empty", "broken", "python-object"],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    for load in (load_run_config, load_taxonomy, load_policy):
        with pytest.raises(ConfigError, match=reason):
            load(path)


def test_bytes_that_are_not_utf8_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes("name: 薯盾".encode("gb18030"))
    for name in ("run.yaml", "none.yaml"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read as YAML"):
            load_run_config(tmp_path / name)


def test_paths_are_relative_to_the_file_and_not_to_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, tmp_path / "configs" / "rows", tmp_path / "configs" / "encoder"):
        folder.mkdir(parents=True)
    # The working folder holds a file of the same name: it must not be picked up.
    (elsewhere / "train.jsonl").write_text("", encoding="utf-8")
    (elsewhere / "rows").mkdir()
    path = write(
        {
            "data.test": [{"path": "rows", "split": "test"}, {"path": "../absent"}, {"path": "absent.CSV.gz"}],
            "model": {"encoder": "encoder"},
        }
    )
    monkeypatch.chdir(elsewhere)
    config = load_run_config(path)
    base = tmp_path / "configs"
    assert (config.output_dir, config.taxonomy, config.policy) == (
        tmp_path / "runs" / "run",
        base / "taxonomy.yaml",
        base / "policy.yaml",
    )
    assert config.data.train[0].path == str(base / "train.jsonl")
    assert [source.path for source in config.data.test] == [
        str(base / "rows"),
        str(tmp_path / "absent"),
        str(base / "absent.CSV.gz"),
    ]
    assert config.model.encoder == str(base / "encoder")


def test_hub_ids_stay_as_they_are(write: Write) -> None:
    changes = {"data.test": [{"path": "owner/data", "split": "test"}, {"path": "data"}], "model": {"encoder": "o/bert"}}
    config = load_run_config(write(changes))
    assert [source.path for source in config.data.test] == ["owner/data", "data"]
    assert config.model.encoder == "o/bert"


def test_a_source_may_be_written_as_a_plain_path(write: Write, tmp_path: Path) -> None:
    config = load_run_config(write({"data.train": ["train.jsonl", {"path": "more.csv"}]}))
    base = tmp_path / "configs"
    assert list(config.data.train) == [
        SourceConfig(path=str(base / "train.jsonl")),
        SourceConfig(path=str(base / "more.csv")),
    ]


def test_an_output_folder_given_by_hand_is_relative_to_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    monkeypatch.chdir(tmp_path)
    assert load_run_config(path, output_dir=Path("mine")).output_dir == tmp_path / "mine"


def test_a_saved_configuration_reads_back_unchanged_from_any_folder(write: Write, tmp_path: Path) -> None:
    path = write(
        {
            "data.train": ["train.jsonl", {"path": "owner/data", "split": "训练", "annotated_labels": ["a"]}],
            "data.test": [{"path": "test.csv", "columns": {"text": "评论"}}],
            "loss": {"pos_weight": {"a": 2.5}},
            "thresholds.precision": 0.9,
            "training.bf16": False,
            "model.compact.dropout": 0.25,
        }
    )
    config = load_run_config(path)
    saved = tmp_path / "elsewhere" / "config.yaml"
    saved.parent.mkdir()
    save_run_config(config, saved)
    assert load_run_config(saved) == config
    assert RunConfig.model_validate(yaml.safe_load(saved.read_text(encoding="utf-8"))) == config


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"families": ["homophones"]}, "unknown disguise families: homophones"),
        ({"held_out": ["绿泡沫"]}, "neither a family nor an alias word"),
        ({"probability": 1.5}, "augmentation.probability"),
    ],
)
def test_names_of_an_augmentation_are_checked(section: dict[str, Any], message: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config(write({"augmentation": section}))


def test_augmentation_is_off_by_default_and_kept_in_the_run_folder(write: Write, tmp_path: Path) -> None:
    assert load_run_config(write()).augmentation.probability == 0
    section = {"probability": 0.5, "families": ["nickname", "initials"], "held_out": ["绿泡泡"], "seed": 7}
    config = load_run_config(write({"augmentation": section}))
    save_run_config(config, tmp_path / "config.yaml")
    assert load_run_config(tmp_path / "config.yaml") == config
    assert config.augmentation.held_out == ["绿泡泡"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data.validation": [{"path": "v.jsonl", "repeat": 2}]}, "'repeat' is for sources of 'train'"),
        ({"data.test": [{"path": "t.jsonl", "repeat": 2}]}, "'repeat' is for sources of 'train'"),
        ({"data.train": [{"path": "t.jsonl", "repeat": 0}]}, "greater than or equal to 1"),
        ({"data.train": [{"path": "t.jsonl", "share": 0}]}, "greater than 0"),
        ({"data.train": [{"path": "t.jsonl", "share": 1.5}]}, "less than or equal to 1"),
    ],
)
def test_shares_and_repeats_that_make_no_sense_are_refused(write: Write, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_run_config(write(changes))


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_loss_is_chosen_by_name_and_kept_in_the_run_folder(name: str, write: Write, tmp_path: Path) -> None:
    config = load_run_config(write({"loss": {"name": name}}))
    assert config.loss.name == name
    save_run_config(config, tmp_path / "config.yaml")
    assert load_run_config(tmp_path / "config.yaml") == config


def test_a_loss_without_a_name_is_binary_cross_entropy(write: Write) -> None:
    assert load_run_config(write()).loss == BceConfig()
    assert load_run_config(write({"loss.max_pos_weight": 3})).loss == BceConfig(max_pos_weight=3)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"name": "dice"}, "\n  loss: expected a mapping with a 'name' of bce, focal, asymmetric, zlpr, distribution_"),
        ({"name": "zlpr", "gamma": 1}, "\n  loss.gamma: Extra inputs are not permitted"),
        ({"name": "focal", "pos_weight": "balanced"}, "\n  loss.pos_weight: Extra inputs are not permitted"),
        ({"name": "focal", "gamma": -1}, "\n  loss.gamma: Input should be greater than or equal to 0"),
        ({"name": "focal", "alpha": 1}, "\n  loss.alpha: Input should be less than 1"),
        ({"name": "asymmetric", "shift": 1.0}, "\n  loss.shift: Input should be less than 1"),
        ({"name": "asymmetric", "gamma_negative": float("inf")}, "\n  loss.gamma_negative: Input should be a finite"),
        ({"name": "distribution_balanced", "negative_scale": 0}, "\n  loss.negative_scale: Input should be greater"),
        ("focal", "\n  loss: expected a mapping with a 'name'"),
    ],
)
def test_each_loss_knows_its_own_parameters_alone(write: Write, section: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(write({"loss": section}))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r_drop_alpha", -1),
        ("fgm_epsilon", float("nan")),
        ("layer_decay", 0),
        ("layer_decay", 1.1),
        ("head_lr_factor", 0.5),
        ("ema_decay", 1),
    ],
)
def test_options_of_the_regularisation_have_limits(write: Write, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\n  regularisation\.{key}: Input should be"):
        load_run_config(write({"regularisation": {key: value}}))


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"training.learning_rte": {"low": 1, "high": 2}}, "training.learning_rte = 1: training.learning_rte: Extra"),
        ({"training.learning_rate": {"low": 0, "high": 1}}, "= 0: training.learning_rate: Input should be greater"),
        ({"training.num_train_epochs": {"choices": [1, -1]}}, "= -1: training.num_train_epochs: Input should be gr"),
        ({"model.compact.num_attention_heads": {"choices": [4, 3]}}, "must be a multiple of num_attention_heads"),
        ({"loss.gamma": {"low": 0, "high": 2}}, "loss.gamma: Extra inputs are not permitted"),
        ({"model.encoder.size": {"choices": [1, 2]}}, "model.encoder: Input should be a valid string"),
        ({"training.seed": {"choices": [1, 2]}}, "training.seed cannot be searched"),
        ({"training.metric_for_best_model": {"choices": ["loss", "macro_ap"]}}, "cannot be searched"),
        ({"data.test": {"choices": [1, 2]}}, "data.test cannot be searched"),
        ({"name": {"choices": ["a", "b"]}}, "name cannot be searched"),
        ({"training.learning_rate": {"low": 2, "high": 1}}, "learning_rate: Value error, low must be less than high"),
        ({"training.weight_decay": {"low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
        ({"training.weight_decay": {"choices": [0, 0.0]}}, "each choice must stand once"),
        ({"training.weight_decay": {"choices": [0]}}, "at least 2 items"),
        ({"training.weight_decay": [0, 1]}, "expected a mapping of 'low' and 'high', or of 'choices'"),
        ({"training.weight_decay": {"low": 0}}, "weight_decay.high: Field required"),
    ],
)
def test_a_search_space_holds_usable_values_of_keys_that_exist(
    write: Write, space: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(write({"search": {"space": space}}))
    assert problem in str(caught.value)


def test_trials_cannot_be_compared_by_a_loss_that_varies(write: Write) -> None:
    space = {"loss.max_pos_weight": {"low": 1, "high": 9}}
    load_run_config(write({"search": {"space": space}}))
    with pytest.raises(ConfigError, match="changes the loss by which trials are compared"):
        load_run_config(write({"search": {"space": space}, "training.metric_for_best_model": "loss"}))


def test_values_of_a_trial_replace_those_of_the_configuration(write: Write) -> None:
    space = {"loss.name": {"choices": list(LOSS_NAMES)}, "training.learning_rate": {"low": 1e-5, "high": 1e-3}}
    changes = {"search": {"space": space, "seed": 3}, "loss.pos_weight": "balanced"}
    config = load_run_config(write(changes))
    trial = with_values(config, {"training.learning_rate": 2e-4, "loss.name": "focal", "loss.gamma": 1.5})
    assert trial.loss == FocalConfig(name="focal", gamma=1.5)
    assert trial.training == config.training.model_copy(update={"learning_rate": 2e-4})
    assert trial.search is None
    assert (trial.data, trial.model, trial.output_dir) == (config.data, config.model, config.output_dir)
    assert with_values(config, {"loss.name": "bce"}).loss == config.loss


@pytest.mark.parametrize(
    ("text", "expected"), [("正常:\n水军: shill\n'1': ad\n", {"正常": "", "水军": "shill", "1": "ad"}), ("{}", {})]
)
def test_a_label_map_is_read(text: str, expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text, encoding="utf-8")
    assert load_label_map(tmp_path / "map.yaml") == expected


@pytest.mark.parametrize("text", ["1: ad", "ad: 1", "a: [b]", "- a"])
def test_a_label_map_of_anything_but_names_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"map\.yaml: expected"):
        load_label_map(tmp_path / "map.yaml")

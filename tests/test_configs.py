"""The configurations we ship: each loads, and its parts fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.fsdp import StateDictType

from shudun.policy import Decider
from shudun_training.config import RegularisationConfig, load_policy, load_run_config, load_taxonomy

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
RUNS = sorted((CONFIGS / "train").glob("*.yaml"))
TAXONOMIES = sorted((CONFIGS / "taxonomy").glob("*.yaml"))
POLICIES = sorted((CONFIGS / "policy").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_configuration_loads_and_names_existing_files(path: Path) -> None:
    config = load_run_config(path)
    assert config.name == path.stem
    assert config.output_dir == ROOT / "runs" / path.stem
    assert config.taxonomy in TAXONOMIES
    assert config.policy in POLICIES
    labels = load_taxonomy(config.taxonomy).label_ids
    sources = [*config.data.train, *config.data.validation, *config.data.test]
    assert {label for source in sources for label in source.annotated_labels or []} <= set(labels)
    # Splits of one configuration never read the same rows.
    assert len({(source.path, source.split) for source in sources}) == len(sources)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_configuration_shows_its_own_launch_command(path: Path) -> None:
    assert f"shudun train --config configs/train/{path.name}" in path.read_text(encoding="utf-8")


def test_the_options_that_a_configuration_shows_as_comments_are_valid(tmp_path: Path) -> None:
    path = CONFIGS / "train" / "xhs-macbert-base.yaml"
    active, _, shown = path.read_text(encoding="utf-8").partition("# Options, all off")
    options = yaml.safe_load("\n".join(line.removeprefix("#").removeprefix(" ") for line in shown.splitlines()[1:]))
    assert set(options) == {"loss", "regularisation", "search"}
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(yaml.safe_load(active) | options), encoding="utf-8")
    config = load_run_config(tmp_path / "options.yaml")
    assert config.loss.name == "asymmetric"
    off = RegularisationConfig()
    assert all(getattr(config.regularisation, name) != getattr(off, name) for name in RegularisationConfig.model_fields)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("taxonomy", TAXONOMIES, ids=lambda path: path.stem)
def test_every_policy_has_a_rule_for_every_tier(taxonomy: Path, policy: Path) -> None:
    Decider(load_policy(policy), load_taxonomy(taxonomy), [])


@pytest.mark.parametrize("path", TAXONOMIES, ids=lambda path: path.stem)
def test_every_taxonomy_is_named_as_its_file_and_defines_each_label(path: Path) -> None:
    taxonomy = load_taxonomy(path)
    assert taxonomy.id == path.stem
    assert all(label.definition_en and label.name_zh for label in taxonomy.labels)
    assert type(taxonomy).from_dict(taxonomy.to_dict()) == taxonomy


def launched(name: str) -> tuple[Any, dict[str, str]]:
    """What `accelerate launch` makes of a file: its arguments, and the environment of each process."""
    file = CONFIGS / "accelerate" / f"{name}.yaml"
    command = f"--config_file {file} --num_processes 4 -m shudun train --config RUN.yaml"
    assert f"accelerate launch {command.replace(str(ROOT) + '/', '')}" in file.read_text(encoding="utf-8")
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command.split()))
    return arguments, prepare_multi_gpu_env(arguments)


def test_ddp_starts_as_many_processes_as_asked_for_and_leaves_precision_to_the_run() -> None:
    arguments, environment = launched("ddp")
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.num_processes) == (True, False, 4)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert environment["ACCELERATE_DYNAMO_BACKEND"] == "NO"
    assert "ACCELERATE_USE_FSDP" not in environment


def test_fsdp_shards_by_layers_and_saves_full_states(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, environment = launched("fsdp")
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.num_processes) == (False, True, 4)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer"]
    assert not plugin.cpu_ram_efficient_loading


def test_xhs_has_sixteen_labels_with_rules() -> None:
    taxonomy = load_taxonomy(CONFIGS / "taxonomy" / "xhs.yaml")
    assert len(taxonomy.labels) == 16
    assert all(label.definition_zh and label.decision_rule_zh for label in taxonomy.labels)
    assert {label.tier for label in taxonomy.labels} == {"T1", "T2*", "T2", "T3", "T4"}
    assert taxonomy.exclusive == (("covert_ad", "hard_sell_template"), ("covert_ad", "shill_comment"))


def test_no_policy_acts_on_its_own_below_the_automatic_threshold() -> None:
    for path in POLICIES:
        for tier, rule in load_policy(path).tiers.items():
            assert rule.above_threshold != "block", tier
            assert tier not in {"T1", "T2*"} or rule.above_automatic != "block"


def test_the_joined_labels_are_those_of_their_sources_word_for_word() -> None:
    taxonomies = {name: load_taxonomy(CONFIGS / "taxonomy" / f"{name}.yaml") for name in ("xhs", "cold", "tg_spam")}
    joined = load_taxonomy(CONFIGS / "taxonomy" / "joined.yaml")
    assert joined.labels == tuple(label for taxonomy in taxonomies.values() for label in taxonomy.labels)
    assert joined.exclusive == taxonomies["xhs"].exclusive


def test_every_joined_label_is_annotated_by_a_source_of_every_split() -> None:
    config = load_run_config(CONFIGS / "train" / "joined-compact.yaml")
    labels = load_taxonomy(config.taxonomy).label_ids
    for sources in (config.data.train, config.data.validation, config.data.test):
        assert [label for source in sources for label in source.annotated_labels or ()] == [
            *labels[:16],
            "spam",
            "offensive",
        ]

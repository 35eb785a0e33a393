"""`shudun pretrain` as a whole: the recipe's numbers, resuming to the same bytes, what is refused, what comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from shudun.errors import ShudunError
from shudun.items import Comment
from shudun_training.checkpoint import item_tokenizer
from shudun_training.pretraining import command, loop, models
from shudun_training.pretraining.batches import Batches, StepRows
from shudun_training.pretraining.config import MaskingConfig, load_pretrain_config
from shudun_training.pretraining.loop import Learner
from shudun_training.pretraining.reporting import read_curve
from shudun_training.pretraining.token_store import StoreWriter, read_store

ROWS_DIGEST = "ac300df41d867e7f1326b77b7d63af304eeec921521bd56ca8d59a7b508dd160"
"""Of the rows and masks of twelve steps, as the recipe of the shipped encoder draws them."""

LOSSES = {
    "muon": [
        *[(4.728238, 4.747051), (4.74432, 4.678059), (4.660477, 4.64393), (4.527771, 4.562044), (4.512869, 4.459411)],
        *[(4.550132, 4.384361), (4.286181, 4.301703), (4.2133, 4.128556), (4.106235, 4.06889), (4.032337, 3.983673)],
        *[(3.943426, 3.908232), (3.963784, 3.837616)],
    ],
    "adamw": [
        *[(4.728238, 4.747051), (4.744452, 4.678412), (4.6624, 4.64504), (4.525326, 4.561298), (4.511554, 4.458804)],
        *[(4.547056, 4.384425), (4.286916, 4.302194), (4.210719, 4.12774), (4.105827, 4.065632), (4.027558, 3.979888)],
        *[(3.942678, 3.908068), (3.963171, 3.835268)],
    ],
}
"""Masked and bag-of-words losses of twelve steps, as the recipe of the shipped encoder gave them."""

WEIGHTS = ("model.safetensors", "optimizer.pt")


def losses(folder):
    entries = [entry for entry in read_curve(folder / "curve.jsonl") if "masked" in entry]
    return [entry["step"] for entry in entries], [(entry["masked"], entry["bag"]) for entry in entries]


def last(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def same_bytes(a, b):
    assert (a / "encoder" / "model.safetensors").read_bytes() == (b / "encoder" / "model.safetensors").read_bytes()
    for name in WEIGHTS:
        assert (last(a) / name).read_bytes() == (last(b) / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(base_config, tmp_path_factory):
    import yaml

    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "run.yaml").write_text(yaml.safe_dump(base_config), encoding="utf-8")
    command.pretrain(folder / "run.yaml")
    return folder / "run"


class Killed(BaseException):
    pass


def killed_after(config, monkeypatch, steps):
    """Start a run whose loop dies in the step after so many."""
    done, step = [], Learner.step

    def dying(self, *arguments):
        if len(done) == steps:
            raise Killed
        done.append(1)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        with pytest.raises(Killed):
            command.pretrain(config)


def test_rows_and_masks_are_those_of_the_recipe(store, vocabulary):
    rows = StepRows(store, row_tokens=32, rows_per_step=4, seed=42)
    make = Batches(rows, MaskingConfig(share=0.2), vocabulary, seed=42, parts=1, rank=0, world=1)
    digest = hashlib.sha256()
    for step in range(12):
        (batch,) = make(step).parts
        chosen = np.zeros(batch.piece.shape, np.bool_)
        chosen[batch.chosen_rows, batch.chosen_columns] = True
        parts = (batch.input_ids, batch.position_ids, batch.token_type_ids, batch.piece, chosen, batch.bag_token)
        for part in parts:
            digest.update(np.asarray(part).tobytes())
    assert digest.hexdigest() == ROWS_DIGEST


def test_losses_are_those_of_the_recipe(undisturbed):
    steps, found = losses(undisturbed)
    assert steps == list(range(1, 13))
    # Other processors round bf16 otherwise; another mask or another rule would be much further off.
    np.testing.assert_allclose(found, LOSSES["muon"], atol=4e-3)


def test_losses_with_adamw_are_those_of_the_recipe(write_config, tmp_path):
    command.pretrain(write_config(training={"optimizer": "adamw"}))
    np.testing.assert_allclose(losses(tmp_path / "run")[1], LOSSES["adamw"], atol=4e-3)


@pytest.mark.parametrize("steps", [1, 7])
def test_a_killed_run_goes_on_to_the_same_bytes(undisturbed, write_config, tmp_path, monkeypatch, steps):
    config = write_config()
    killed_after(config, monkeypatch, steps)
    assert not (tmp_path / "run" / "run.json").exists()
    command.pretrain(config, resume=True)
    same_bytes(tmp_path / "run", undisturbed)
    assert losses(tmp_path / "run") == losses(undisturbed)


def test_dropout_and_parts_go_on_to_the_same_bytes(write_config, base_config, tmp_path, monkeypatch):
    changes = {
        "compact": {"dropout": 0.2},
        "training": {"steps": 6, "gradient_accumulation_steps": 2},
        "held_out": {"share": 0.2, "every_steps": 2},
    }
    command.pretrain(write_config(output_dir="whole", **changes))
    config = write_config(**changes)
    killed_after(config, monkeypatch, 4)
    command.pretrain(config, resume=True)
    same_bytes(tmp_path / "run", tmp_path / "whole")
    curves = [read_curve(tmp_path / name / "curve.jsonl") for name in ("run", "whole")]
    figures = [[entry["held_out"] for entry in curve if "held_out" in entry] for curve in curves]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 3
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["held_out"]["held_out"] == figures[0][-1]
    assert record["held_out"]["perplexity"] == pytest.approx(np.exp(figures[0][-1]))
    assert record["sources"][0]["held_out"] > 0


@pytest.fixture
def stopped(write_config, tmp_path, monkeypatch):
    """A run that was killed in its eighth step, and has a checkpoint of the sixth."""
    killed_after(write_config(), monkeypatch, 7)
    return tmp_path / "run"


def test_an_unfinished_run_is_not_overwritten(stopped, write_config):
    with pytest.raises(ShudunError, match="did not finish; go on with --resume"):
        command.pretrain(write_config())
    assert last(stopped).name == "step-00000006"


def test_changed_settings_texts_or_vocabulary_are_named_and_refused(stopped, write_config, base_config, tmp_path):
    with pytest.raises(ShudunError, match=r"changed since the run started: config\.masking\.share, config\.tr.*seed"):
        command.pretrain(write_config(masking={"share": 0.3}, training={"seed": 7}), resume=True)
    texts = tmp_path / "texts.jsonl"
    shutil.copy(base_config["texts"][0], texts)
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"text": "晚霞"}\n')
    with pytest.raises(ShudunError, match=r"sources\[0\]\.sha256"):
        command.pretrain(write_config(texts=[str(texts)]), resume=True)
    tokenizer = json.loads(Path(base_config["compact"]["tokenizer"], "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["霓"] = len(tokenizer["model"]["vocab"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ShudunError, match=r": vocabulary, config\.compact\.tokenizer"):
        command.pretrain(write_config(compact={"tokenizer": str(tmp_path / "other")}), resume=True)
    with pytest.raises(ShudunError, match=r"no run to resume .*start without --resume"):
        command.pretrain(write_config(output_dir="nowhere"), resume=True)


def test_a_run_may_be_prolonged_until_the_rate_falls_and_is_then_branched(stopped, write_config, tmp_path):
    longer = {"steps": 15, "decay_steps": 3, "save_steps": 4, "logging_steps": 1}
    command.pretrain(write_config(output_dir="whole", training=longer))
    command.pretrain(write_config(training=longer), resume=True)
    same_bytes(tmp_path / "run", tmp_path / "whole")
    # Now the rate has fallen.
    with pytest.raises(ShudunError, match=r"cannot resume at step 15 with training\.steps.*--branch"):
        command.pretrain(write_config(training={"steps": 30}), resume=True)
    trunk = tmp_path / "run" / "checkpoints" / "step-00000012"
    longest = write_config(output_dir="branch", training={"steps": 16, "decay_steps": 4, "save_steps": 100})
    command.pretrain(longest, branch=trunk)
    command.pretrain(write_config(output_dir="whole16", training={"steps": 16, "save_steps": 100}))
    same_bytes(tmp_path / "branch", tmp_path / "whole16")
    record = json.loads((tmp_path / "branch" / "run.json").read_text(encoding="utf-8"))
    assert record["branched_from"]["path"] == str(trunk)
    whole = json.loads((tmp_path / "whole16" / "run.json").read_text(encoding="utf-8"))
    assert record["tokens"] == whole["tokens"]
    with pytest.raises(ShudunError, match="not both"):
        command.pretrain(longest, branch=trunk, resume=True)


def test_a_branch_of_another_vocabulary_is_refused(stopped, write_config, tmp_path):
    with pytest.raises(ShudunError, match="learnt with another vocabulary"):
        command.pretrain(
            write_config(output_dir="b", compact={"tokenizer": None, "vocab_size": 700}), branch=last(stopped)
        )


def test_a_run_that_diverges_stops_and_names_the_last_good_checkpoint(write_config, tmp_path, monkeypatch):
    step = Learner.step

    def poisoned(self, batches, factor, meter):
        if batches.step == 7:
            with torch.no_grad():
                next(self.objective.parameters())[5] = torch.nan
        return step(self, batches, factor, meter)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(ShudunError) as stopped:
        command.pretrain(write_config())
    good = tmp_path / "run" / "checkpoints" / "step-00000006"
    assert (
        f"step 8: the gradients are not finite (norm nan), training diverged; the last good checkpoint is {good}"
        in (str(stopped.value))
    )
    assert last(tmp_path / "run") == good


def test_weights_that_are_not_finite_are_not_saved(write_config, tmp_path):
    config = write_config(training={"learning_rate": 1e38, "save_steps": 1, "warmup_steps": 0})
    with pytest.raises(ShudunError, match=r"step 1: the weights are not finite.*no checkpoint was written yet"):
        command.pretrain(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_encoder_is_a_stock_folder_with_its_tokenizer(undisturbed):
    encoder = undisturbed / "encoder"
    model = AutoModelForMaskedLM.from_pretrained(encoder)
    state, saved = model.state_dict(), BertForMaskedLM.from_pretrained(last(undisturbed)).state_dict()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    tokenizer = item_tokenizer(models.read_tokenizer(encoder), max_length=32)
    assert tokenizer.encode([Comment("晚霞好吃")]).ids.tolist()[0] == 2
    names = {path.name for path in encoder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_half_weights_are_half_the_file_and_load_as_fp32(undisturbed, tmp_path):
    whole = AutoModelForMaskedLM.from_pretrained(undisturbed / "encoder")
    tokenizer = models.read_tokenizer(undisturbed / "encoder")
    models.save_encoder(whole, tokenizer, tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (undisturbed / "encoder", tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    half = AutoModel.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.float32
    exact = whole.base_model.state_dict()
    for name, value in half.state_dict().items():
        if "pooler" not in name:
            assert torch.equal(value, exact[name].half().float()), name


def test_the_record_says_where_the_encoder_comes_from(undisturbed, base_config):
    record = json.loads((undisturbed / "run.json").read_text(encoding="utf-8"))
    (source,) = record["sources"]
    assert source["sha256"] == hashlib.sha256(Path(base_config["texts"][0]).read_bytes()).hexdigest()
    assert (source["read"], source["trained"], source["held_out"]) == (120, 120, 0)
    assert record["steps"] == 12
    assert record["tokens"] == read_curve(undisturbed / "curve.jsonl")[-1]["tokens"] <= 12 * 4 * 32
    assert record["tokens"] > 0.9 * 12 * 4 * 32
    assert record["hours"] > 0
    assert record["environment"]["git_revision"]
    digest = hashlib.sha256((undisturbed / "encoder" / "model.safetensors").read_bytes()).hexdigest()
    assert record["encoder_sha256"] == digest


def test_an_encoder_goes_on_learning_with_its_own_vocabulary(undisturbed, write_config, tmp_path, base_config):
    changes = {"compact": None, "encoder": str(undisturbed / "encoder"), "bag_weight": 0}
    command.pretrain(write_config(**changes, training={"steps": 3, "decay_steps": 1, "learning_rate": 1e-4}))
    _, found = losses(tmp_path / "run")
    # A model that begins anew is near ln(111) = 4.71.
    assert all(masked < 4.2 and bag == 0 for masked, bag in found)
    vocabulary = models.vocabulary_digest(models.read_tokenizer(undisturbed / "encoder"))
    assert models.vocabulary_digest(models.read_tokenizer(tmp_path / "run" / "encoder")) == vocabulary


def test_texts_longer_than_the_encoder_has_positions_are_refused(undisturbed, write_config, tmp_path):
    values = AutoModel.from_pretrained(undisturbed / "encoder").config.to_dict()
    BertForMaskedLM(BertConfig(**values | {"max_position_embeddings": 32})).save_pretrained(tmp_path / "short")
    models.read_tokenizer(undisturbed / "encoder").save_pretrained(tmp_path / "short")
    config = write_config(compact=None, encoder=str(tmp_path / "short"))
    with pytest.raises(ShudunError, match="max_length is 62, but the encoder has positions for 32 tokens"):
        command.pretrain(config)


def test_a_classifier_without_an_output_layer_is_no_encoder(undisturbed, write_config, tmp_path):
    AutoModel.from_pretrained(undisturbed / "encoder").save_pretrained(tmp_path / "bare")
    models.read_tokenizer(undisturbed / "encoder").save_pretrained(tmp_path / "bare")
    with pytest.raises(ShudunError, match=r"no whole masked language model, it lacks cls\.predictions"):
        command.pretrain(write_config(compact=None, encoder=str(tmp_path / "bare")))


class EveryTwo:
    """A segmenter whose words have two characters."""

    name = "every two"

    def borders(self, text):
        return list(range(0, len(text), 2))


def test_whole_words_with_a_vocabulary_of_the_texts(write_config, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "Jieba", EveryTwo)
    config = write_config(
        masking={"unit": "word", "share": 0.3},
        compact={"tokenizer": None, "vocab_size": 700, "min_frequency": 1},
        training={"steps": 2, "warmup_steps": 0, "decay_steps": 0},
        weights="fp16",
    )
    command.pretrain(config)
    run = tmp_path / "run"
    assert "😂" in models.read_tokenizer(run / "encoder").get_vocab()
    meta = json.loads((run / "store" / "train" / "store.json").read_text(encoding="utf-8"))
    assert meta["words"]
    store = read_store(run / "store" / "train", meta["fingerprint"])
    assert 0.4 < store.begins_word.mean() < 0.75
    # A finished run is replaced; its store is used again.
    written = (run / "store" / "train" / "ids.bin").stat().st_mtime_ns
    command.pretrain(config)
    assert (run / "store" / "train" / "ids.bin").stat().st_mtime_ns == written


def test_fewer_rows_than_processes_need_is_refused(write_config, monkeypatch):
    config = load_pretrain_config(write_config())

    class Many(command.Accelerator):
        num_processes = 5

    monkeypatch.setattr(command, "Accelerator", Many)
    with pytest.raises(ShudunError, match="rows_per_step is 4, less than 5 processes"):
        command._accelerator(config)


def test_steps_that_are_kept_for_good():
    config = load_pretrain_config(Path(__file__).parents[3] / "configs" / "pretrain" / "compact.yaml")
    assert loop.kept_step(config.training) == config.training.steps - config.training.decay_steps


def test_held_out_figures_do_not_depend_on_how_many_measure(corpus, tokenizer, vocabulary, undisturbed, tmp_path):
    from shudun_training.pretraining.held_out import HeldOut
    from shudun_training.pretraining.objective import Objective

    with StoreWriter(tmp_path, "x", vocab_size=200, words=False) as writer:
        writer.add(tokenizer.encode(corpus), np.arange(len(corpus)))
    store = read_store(tmp_path, "x")
    objective = Objective(AutoModelForMaskedLM.from_pretrained(undisturbed / "encoder"), dtype=torch.float32, bag=True)
    place = {"row_tokens": 32, "seed": 1}
    one = HeldOut(store, MaskingConfig(), vocabulary, **place, rank=0, world=1)
    device, sums = torch.device("cpu"), []

    def keep(value):
        sums.append(value)
        return sum(sums)

    whole = one.measure(objective, device, lambda value: value)
    for rank in range(2):
        part = HeldOut(store, MaskingConfig(), vocabulary, **place, rank=rank, world=2)
        figures = part.measure(objective, device, keep)
    assert figures["held_out"] == pytest.approx(whole["held_out"], rel=1e-9)
    assert objective.training
    again = one.measure(objective, device, lambda value: value)
    assert again == whole

"""Teachers and students: who may teach what, by name; what a fit learns from them; what a model keeps of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification, BertForSequenceClassification

from shudun import Comment, Note, ShudunError, Taxonomy
from shudun.items import Item
from shudun_training import finetune
from shudun_training.baseline import LinearBaseline
from shudun_training.checkpoint import build_model, build_tokenizer, item_tokenizer, load_checkpoint, save_checkpoint
from shudun_training.config import BceConfig, CompactConfig, ModelConfig, TrainingConfig
from shudun_training.distillation import student
from shudun_training.distillation.config import DistillConfig, TeacherConfig
from shudun_training.distillation.hidden_states import PROJECTIONS, InnerTeacher, Lesson
from shudun_training.distillation.packed_rows import PackedRows, pack
from shudun_training.distillation.soft_targets import HIDDEN_LOSS, TEACHER_LOGITS
from shudun_training.distillation.student import keep_layers, require_same_tokenizer
from shudun_training.distillation.teachers import CheckpointTeacher, LinearTeacher, taught_columns
from shudun_training.distillation.teaching import Teaching, applicable_only
from shudun_training.distillation.texts import as_chunk
from shudun_training.examples import Example, label_matrix
from shudun_training.finetune import FitResult, fit, predict_logits
from shudun_training.unseen_probabilities import out_of_fold

CPU = torch.device("cpu")
Teach = Callable[..., CheckpointTeacher]


@pytest.fixture(scope="module")
def folder(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "big"
    save_checkpoint(trained.model, trained.tokenizer, path)
    return path


@pytest.fixture
def teach(folder: Path) -> Teach:
    def make(path: Path = folder, **options: Any) -> CheckpointTeacher:
        config = TeacherConfig(checkpoint=path)
        return CheckpointTeacher(config, **({"max_length": 32, "bf16": False, "device": CPU} | options))

    return make


def altered(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with another config.json."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return target


def test_a_checkpoint_gives_its_own_logits_whatever_the_batches(teach: Teach, trained: Any, items: list[Item]) -> None:
    chunk = as_chunk(items)
    expected, _ = predict_logits(trained.model, trained.encoder, items)
    for options in ({}, {"batch_tokens": 1}, {"batch_tokens": 100000}):
        found = teach(**options).logits(chunk)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bf16_is_close_and_memory_errors_halve_batches(
    teach: Teach, items: list[Item], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chunk = as_chunk(items)
    exact = teach().logits(chunk)
    coarse = teach(bf16=True).logits(chunk)
    assert 0 < np.abs(coarse - exact).max() < 0.2
    teacher = teach(batch_tokens=512)
    model = teacher.loaded[0]
    forward = model.forward

    def small_only(**feeds: Any) -> Any:
        if feeds["input_ids"].numel() > 64:
            raise torch.cuda.OutOfMemoryError("no room")
        return forward(**feeds)

    monkeypatch.setattr(model, "forward", small_only)
    np.testing.assert_allclose(teacher.logits(chunk), exact, atol=1e-5)
    assert "exhausted memory" in caplog.text


def test_a_teacher_that_gives_nan_is_named(teach: Teach, items: list[Item]) -> None:
    teacher = teach()
    with torch.no_grad():
        teacher.loaded[0].classifier.bias[1] = torch.nan  # type: ignore[union-attr,index]
    with pytest.raises(ShudunError, match="teacher big: no finite logits"):
        teacher.logits(as_chunk(items))


def test_identity_follows_weights_and_length_but_not_the_place(teach: Teach, folder: Path, tmp_path: Path) -> None:
    copy = altered(folder, tmp_path / "moved")
    (copy / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert teach(copy).identity == teach().identity != teach(max_length=16).identity
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    assert teach(copy).identity != teach().identity


def test_columns_go_by_name_in_any_order(teach: Teach, folder: Path, taxonomy: Taxonomy, tmp_path: Path) -> None:
    config = TeacherConfig(checkpoint=folder)
    assert taught_columns(teach(), config, taxonomy) == [0, 1, 2, 3]
    turned = Taxonomy(taxonomy.id, "1", taxonomy.labels[::-1])
    assert taught_columns(teach(), config, turned) == [3, 2, 1, 0]
    some = TeacherConfig(checkpoint=folder, labels=["shill"])
    assert taught_columns(teach(), some, taxonomy) == [None, None, 2, None]


@pytest.mark.parametrize(
    ("known", "labels", "message"),
    [
        (["diversion", "note_only", "shill", "other"], None, "does not know hard_sell"),
        (["diversion", "note_only", "shill", "hard_sell", "x"], None, "its labels x are not in taxonomy test"),
        (["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], None, "does not know diversion, note_only, shill, hard_sell"),
        (["diversion"], ["diversion", "typo"], "not in taxonomy test: typo"),
        (["diversion"], ["diversion", "shill"], "does not know shill"),
    ],
)
def test_other_labels_are_refused(
    known: list[str],
    labels: list[str] | None,
    message: str,
    teach: Teach,
    folder: Path,
    taxonomy: Taxonomy,
    tmp_path: Path,
) -> None:
    path = altered(
        folder, tmp_path / "other", id2label=dict(enumerate(known)), label2id={x: i for i, x in enumerate(known)}
    )
    with pytest.raises(ShudunError, match=message):
        taught_columns(teach(path), TeacherConfig(checkpoint=path, labels=labels), taxonomy)


def test_what_is_no_multi_label_checkpoint_is_refused(teach: Teach, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="no teacher here"):
        teach(tmp_path)
    single = altered(folder, tmp_path / "single", problem_type="single_label_classification")
    with pytest.raises(ShudunError, match="expected a multi-label head"):
        teach(single)
    with pytest.raises(ShudunError, match="has positions for 32 tokens"):
        teach(max_length=64)
    run = tmp_path / "run"
    altered(folder, run / "checkpoint")
    assert teach(run).folder == run / "checkpoint"


@pytest.fixture(scope="module")
def labelled(texts: list[str], taxonomy: Taxonomy) -> list[Example]:
    """Sixty distinct rows; 'diversion' stands with 加, 'shill' is never negative, 'note_only' without any row."""
    rng = np.random.default_rng(0)
    alphabet = [chr(0x4E00 + 17 * i) for i in range(200)]
    rows = []
    for i in range(60):
        text = "".join(rng.choice(alphabet, size=12)) + ("加我" if i % 3 == 0 else "吃饭")
        labels = {"shill", *({"diversion"} if i % 3 == 0 else ())}
        rows.append(Example(Comment(text, id=str(i)), frozenset(labels), frozenset()))
    return rows


def test_the_linear_teacher_has_not_seen_its_training_rows(labelled: list[Example], taxonomy: Taxonomy) -> None:
    teacher = LinearTeacher(TeacherConfig(linear=True), labelled, taxonomy)
    # 'shill' has no negatives, 'note_only' no rows, 'hard_sell' no positives: of those it knows nothing.
    assert teacher.label_ids == ("diversion",)
    assert taught_columns(teacher, TeacherConfig(linear=True), taxonomy) == [0, None, None, None]
    items = [row.item for row in labelled]
    labels = label_matrix(labelled, taxonomy)[:, :1]
    own = teacher.training_logits()
    np.testing.assert_allclose(1 / (1 + np.exp(-own)), out_of_fold(items, labels, None, seed=0), rtol=1e-4)
    fresh = [Comment("今天吃饭"), Comment("加我")]
    expected = LinearBaseline().fit(items, labels).predict_proba(fresh)
    np.testing.assert_allclose(1 / (1 + np.exp(-teacher.logits(as_chunk(fresh)))), expected, rtol=1e-4)
    known_by_heart = teacher.logits(as_chunk(items))
    truth = labels[:, 0] == 1
    assert (
        np.where(truth, known_by_heart[:, 0], -known_by_heart[:, 0]).mean()
        > np.where(truth, own[:, 0], -own[:, 0]).mean()
    )


def test_the_linear_teachers_identity_follows_rows_and_labels(labelled: list[Example], taxonomy: Taxonomy) -> None:
    def identity(rows: list[Example]) -> Any:
        return dict(LinearTeacher(TeacherConfig(linear=True), rows, taxonomy).identity)

    turned = [Example(labelled[0].item, frozenset({"shill"}), frozenset()), *labelled[1:]]
    other_text = [Example(Comment("别的"), labelled[0].labels, frozenset()), *labelled[1:]]
    grouped = [Example(row.item, row.labels, frozenset(), {"group": "g"}) for row in labelled]
    seen = [json.dumps(identity(rows)) for rows in (labelled, labelled[1:], turned, other_text, grouped)]
    assert len(set(seen)) == 5
    assert identity(labelled) == identity(list(labelled))


def test_a_linear_teacher_must_know_what_it_is_asked_for(labelled: list[Example], taxonomy: Taxonomy) -> None:
    config = TeacherConfig(linear=True, labels=["diversion", "shill"])
    teacher = LinearTeacher(config, labelled, taxonomy)
    with pytest.raises(ShudunError, match="teacher linear: does not know shill"):
        taught_columns(teacher, config, taxonomy)


def compact(hidden: int, layers: int, dropout: float = 0.1) -> ModelConfig:
    shape = CompactConfig(
        vocab_size=300,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        dropout=dropout,
    )
    return ModelConfig(compact=shape, max_length=32)


def test_kept_layers_are_the_teachers(trained: Any, folder: Path) -> None:
    whole, _ = load_checkpoint(folder)
    feeds = {"input_ids": torch.tensor([[2, 9, 11, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    expected = trained.model(**feeds, output_hidden_states=True)
    keep_layers(whole, 2)
    torch.testing.assert_close(whole(**feeds).logits, expected.logits)
    first, _ = load_checkpoint(folder)
    keep_layers(first, [1])
    assert first.config.num_hidden_layers == 1
    torch.testing.assert_close(first.bert(**feeds).last_hidden_state, expected.hidden_states[1])  # type: ignore[operator]
    last, _ = load_checkpoint(folder)
    keep_layers(last, 1)
    kept = last.bert.encoder.layer[0].state_dict()  # type: ignore[union-attr,index]
    for name, value in trained.model.bert.encoder.layer[1].state_dict().items():
        torch.testing.assert_close(kept[name], value)
    with pytest.raises(ShudunError, match="the teacher has 2 layers"):
        keep_layers(load_checkpoint(folder)[0], [1, 3])
    with pytest.raises(ShudunError, match="has no list of layers"):
        keep_layers(AlbertForSequenceClassification(AlbertConfig(hidden_size=16, num_attention_heads=2)), 1)


def test_tokenizers_are_one_or_refused(trained: Any, folder: Path) -> None:
    require_same_tokenizer(trained.tokenizer, load_checkpoint(folder)[1], "big")
    other = build_tokenizer(compact(16, 1), ["完全不同的文字完全不同的文字"])
    with pytest.raises(ShudunError, match=r"teacher big; they differ in model.*hidden_weight: 0"):
        require_same_tokenizer(other, trained.tokenizer, "big")


@pytest.fixture(scope="module")
def small(trained: Any, taxonomy: Taxonomy) -> BertForSequenceClassification:
    torch.manual_seed(1)
    model = build_model(compact(16, 1, dropout=0.0), taxonomy, trained.tokenizer)
    assert isinstance(model, BertForSequenceClassification)
    return model


def test_a_lesson_leaves_a_stock_model(small: Any, trained: Any) -> None:
    before = set(small.state_dict())
    batch = trained.encoder.encode([Comment("加我微信"), Comment("好")]).batch(np.arange(2))
    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds().items()}
    plain = small(**feeds)
    lesson = Lesson(InnerTeacher(trained.model, None, "mse", bf16=False))
    lesson.attach(small)
    assert {name.split(".")[0] for name in set(small.state_dict()) - before} == {PROJECTIONS}
    teacher_logits = torch.randn(2, 4)
    output = small(**feeds, **{TEACHER_LOGITS: teacher_logits})
    torch.testing.assert_close(output["logits"], plain.logits)
    assert output[TEACHER_LOGITS] is teacher_logits
    assert output[HIDDEN_LOSS].shape == (2,)
    assert set(small(**feeds)) == set(plain), "an evaluation is none of the teachers' business"
    output[HIDDEN_LOSS].sum().backward()
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert all(parameter.grad is not None for parameter in getattr(small, PROJECTIONS).parameters())
    lesson.detach(small)
    assert set(small.state_dict()) == before
    assert set(small(**feeds)) == set(plain)


def test_the_hidden_loss_is_of_the_mapped_layers(small: Any, trained: Any) -> None:
    """Student layer 1 against teacher layer 2, and against 1: two figures, each of its own states."""
    batch = trained.encoder.encode([Comment("加我微信")]).batch(np.arange(1))
    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds().items()}
    theirs = trained.model(**feeds, output_hidden_states=True).hidden_states
    ours = small(**feeds, output_hidden_states=True).hidden_states
    for layer in (1, 2):
        lesson = Lesson(InnerTeacher(trained.model, {1: layer}, "mse", bf16=False))
        lesson.attach(small)
        (projection,) = getattr(small, PROJECTIONS)
        found = small(**feeds, **{TEACHER_LOGITS: torch.zeros(1, 4)})[HIDDEN_LOSS]
        expected = ((projection(ours[1]) - theirs[layer]) ** 2).mean()
        lesson.detach(small)
        torch.testing.assert_close(found[0], expected)


@pytest.fixture(scope="module")
def run(trained: Any, labelled: list[Example], taxonomy: Taxonomy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Fit a tiny student of the tiny teacher; keyword arguments change training or teaching."""
    base = tmp_path_factory.mktemp("packed")
    rng = np.random.default_rng(1)
    alphabet = [chr(0x4E00 + 17 * i) for i in range(200)]
    further: list[Item] = [Comment("".join(rng.choice(alphabet, size=3 + i % 9)) + "加我") for i in range(40)]
    further += [Note("题", "".join(rng.choice(alphabet, size=8))) for _ in range(8)]
    for dropout in (0.0, 0.1):
        torch.manual_seed(3)
        initial = build_model(compact(16, 1, dropout), taxonomy, trained.tokenizer)
        save_checkpoint(initial, trained.tokenizer, base / f"student-{dropout}")

    def logits(items: list[Item]) -> Any:
        found, _ = predict_logits(trained.model, trained.encoder, items)
        return applicable_only(found, taxonomy.applicable([item.kind for item in items]))

    pack(
        base / "rows",
        "k",
        [(trained.encoder.encode(further), logits(further))],
        vocab_size=trained.encoder.vocab_size,
        num_labels=4,
    )
    train, validation = labelled[:40], labelled[40:]

    def run(
        folder: Path, *, hidden: float = 0.0, resume: bool = False, dropout: float = 0.1, **training: Any
    ) -> FitResult:
        teaching = Teaching(
            logits=logits([row.item for row in train]),
            unlabelled=PackedRows(base / "rows"),
            temperature=2.0,
            alpha=0.3,
            hidden_weight=hidden,
            inner=InnerTeacher(trained.model, None, "mse", bf16=False) if hidden else None,
        )
        values = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
        config = TrainingConfig(**(values | {"report_to": "none", "metric_for_best_model": "loss"} | training))
        return fit(
            train,
            validation,
            taxonomy=taxonomy,
            model_config=ModelConfig(encoder=str(base / f"student-{dropout}"), max_length=32),
            training_config=config,
            loss_config=BceConfig(),
            output_dir=folder,
            teaching=teaching,
            resume=resume,
        )

    return run


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def test_logits_of_labels_that_do_not_apply_are_none(taxonomy: Taxonomy) -> None:
    kept = applicable_only(np.ones((2, 4), dtype=np.float32), taxonomy.applicable(["note", "comment"]))
    assert np.isnan(kept).tolist() == [[False, False, True, False], [False, True, False, False]]


@pytest.mark.parametrize("hidden", [0.0, 0.5], ids=["logits", "hidden-states"])
def test_a_resumed_lesson_ends_with_the_weights_of_an_undisturbed_one(
    hidden: float, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tmp_path / "whole", hidden=hidden)
    assert undisturbed.steps == 3 * (40 + 48) // 8

    class Interrupted(finetune.EpochLines):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 14:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "EpochLines", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", hidden=hidden)
    resumed = run(tmp_path / "cut", hidden=hidden, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    losses = [[entry["loss"] for entry in result.log_history if "loss" in entry] for result in (undisturbed, resumed)]
    assert losses[0] == losses[1]
    model, _ = load_checkpoint(tmp_path / "whole" / "checkpoint")
    assert not hasattr(model, PROJECTIONS)
    assert PROJECTIONS not in (tmp_path / "whole" / "checkpoint" / "model.safetensors").read_bytes()[:20000].decode(
        "latin-1"
    )


def test_accumulated_lessons_equal_one_big_batch(run: Any, tmp_path: Path) -> None:
    """Micro-batches differ in cells: labelled comments, unlabelled notes and comments with other labels."""
    figures = []
    for size, steps in ((88, 1), (8, 11)):
        result = run(
            tmp_path / str(size),
            hidden=0.5,
            dropout=0.0,
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        assert result.steps == 1
        figures.append((result.log_history[0]["loss"], result.log_history[0]["grad_norm"]))
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_the_initial_student_is_the_same_for_the_same_key(
    trained: Any, taxonomy: Taxonomy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DistillConfig.model_validate(
        {
            "name": "x",
            "output_dir": tmp_path,
            "taxonomy": "t.yaml",
            "policy": "p.yaml",
            "data": {"train": ["a.jsonl"], "validation": ["b.jsonl"]},
            "model": {"max_length": 32, "compact": {"vocab_size": 100, "hidden_size": 16, "num_attention_heads": 2}},
            "teachers": [{"linear": True}],
        }
    )
    built = []
    real = student._build
    monkeypatch.setattr(student, "_build", lambda *parts: (built.append(1), real(*parts)))

    def prepare(key: str) -> Any:
        return student.prepare_student(config, taxonomy, texts=lambda: ["加我微信加我微信"] * 3, inner=None, key=key)

    tokenizer = prepare("one")
    first = (tmp_path / "student" / "model.safetensors").read_bytes()
    prepare("one")
    assert len(built) == 1
    prepare("two")
    assert len(built) == 2
    assert (tmp_path / "student" / "model.safetensors").read_bytes() == first
    known = item_tokenizer(tokenizer, max_length=32).encode([Comment("加我微信")]).ids
    assert tokenizer.unk_token_id not in known.tolist()

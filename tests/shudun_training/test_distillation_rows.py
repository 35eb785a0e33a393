"""From files of texts to the rows a student sees: nothing lost, nothing twice, each beside its own scores."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shudun import Comment, Note, ShudunError, Taxonomy
from shudun.items import Item
from shudun.rendering import plain_text
from shudun_training.distillation import scoring, texts
from shudun_training.distillation.config import UnlabelledConfig
from shudun_training.distillation.ensemble import mean_logits, voice
from shudun_training.distillation.packed_rows import PackedRows, is_packed, pack
from shudun_training.distillation.score_cache import ScoreCache
from shudun_training.distillation.scoring import CachedTeacher, score_chunks, score_items, score_training_rows
from shudun_training.distillation.soft_targets import TAUGHT, TEACHER_LOGITS
from shudun_training.distillation.taught_rows import TaughtCollator, TaughtRows
from shudun_training.distillation.texts import Chunk, UnlabelledTexts, as_chunk, chunks_of
from shudun_training.examples import UNKNOWN, Example
from shudun_training.finetune import Collator
from shudun_training.training_rows import to_dataset


@dataclass
class CountingTeacher:
    """Logits are a function of the text alone; `calls` counts the rows that were asked for."""

    name: str = "counting"
    weight: float = 1.0
    label_ids: tuple[str, ...] = ("a", "b")
    identity: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    fitted_here: bool = False
    calls: int = 0

    def logits(self, chunk: Chunk) -> NDArray[np.float32]:
        self.calls += len(chunk.items)
        return expected(chunk.items)

    def training_logits(self) -> NDArray[np.float32]:
        return np.full((2, 2), 7.0, dtype=np.float32)


def expected(items: Iterable[Item]) -> NDArray[np.float32]:
    rows = [plain_text(item) for item in items]
    return np.array([[len(row), sum(map(ord, row)) % 97] for row in rows], dtype=np.float32).reshape(-1, 2)


def read(folder: Path, *paths: Any, labelled: Iterable[Item] = (), rows: int = 3) -> UnlabelledTexts:
    sources = [path if isinstance(path, UnlabelledConfig) else UnlabelledConfig(path=path) for path in paths]
    return UnlabelledTexts(sources, labelled=labelled, rejected_dir=folder / "rejected", rows=rows)


def flat(chunks: Iterable[Chunk]) -> list[Item]:
    return [item for chunk in chunks for item in chunk.items]


def text_file(folder: Path, lines: Iterable[str], name: str = "texts.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_every_kind_of_file_gives_the_same_items(tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    lines = ["今天吃了面", "", "  ", "求链接 demo_0000", "\u3000好\u3000"]
    plain = text_file(tmp_path, lines)
    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    rows = write_jsonl([{"body": line, "id": 1} for line in lines if line.strip()])
    wanted = [Comment("今天吃了面"), Comment("求链接 demo_0000"), Comment("\u3000好\u3000")]
    columns = UnlabelledConfig(path=rows, columns={"text": "body"})
    for path in (plain, packed, columns):
        assert flat(read(tmp_path, path)) == wanted
    notes = write_jsonl([{"kind": "note", "title": "题", "text": "文"}, {"text": "答", "parent_text": "问"}], "n.jsonl")
    assert flat(read(tmp_path, notes)) == [Note("题", "文"), Comment("答", parent_text="问")]


def test_bad_rows_go_to_a_side_file_and_labelled_texts_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = ["一", "二", "测试集里的话", "三", "四", "五"]
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in good]
    lines[2:2] = [b'{"text": 5}', b"{", b'{"text": " "}', b'{"text": "\xff"}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    reader = read(tmp_path, path, labelled=[Comment("测试集里的话", id="x"), Comment("别的")])
    for _ in range(2):
        chunks = list(reader)
        assert [len(chunk.items) for chunk in chunks] == [3, 2]
        assert [item.text for item in flat(chunks)] == ["一", "二", "三", "四", "五"]
        (counts,) = reader.counts
        assert (counts.read, counts.used, counts.left_out, counts.rejected) == (10, 5, 1, 4)
        side = (tmp_path / "rejected" / "0-rows.jsonl.rejected.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["line"] for line in side] == [3, 4, 5, 6]


def test_a_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match=r"gone\.txt: no such file"):
        read(tmp_path, tmp_path / "gone.txt")


def test_a_digest_stands_for_texts_and_order() -> None:
    a, b = Comment("甲"), Comment("乙")
    assert as_chunk([a, b]).digest == as_chunk([Comment("甲", id="9"), b]).digest
    others = [[b, a], [a], [a, b, b], [Comment("甲乙")], [Comment("甲", parent_text="乙")], [Note("甲", "乙")]]
    assert len({as_chunk(items).digest for items in ([a, b], *others)}) == 1 + len(others)


def cached(root: Path, teacher: CountingTeacher) -> CachedTeacher:
    return CachedTeacher.at(teacher, root)


def test_a_second_pass_computes_only_what_is_new(tmp_path: Path) -> None:
    lines = [f"第{i}条" for i in range(8)]
    path = text_file(tmp_path, lines)
    teacher = CountingTeacher()
    first = score_chunks([cached(tmp_path, teacher)], read(tmp_path, path))
    assert teacher.calls == 8
    again = cached(tmp_path, teacher)
    assert score_chunks([again], read(tmp_path, path)) == first
    assert (teacher.calls, again.counts.reused, again.counts.computed) == (8, 8, 0)
    # Chunks of three: what is appended touches the last one, a changed line its own, another file in front nothing.
    text_file(tmp_path, [*lines, "新的"])
    score_chunks([cached(tmp_path, teacher)], read(tmp_path, path))
    assert teacher.calls == 8 + 3
    text_file(tmp_path, ["改了", *lines[1:], "新的"])
    other = text_file(tmp_path, ["别的文件"], "other.txt")
    score_chunks([cached(tmp_path, teacher)], read(tmp_path, other, path))
    assert teacher.calls == 8 + 3 + 3 + 1


def test_another_teacher_finds_nothing(tmp_path: Path) -> None:
    chunks = [as_chunk([Comment("甲")])]
    for version in (1, 2, 1):
        teacher = CountingTeacher(identity={"version": version})
        score_chunks([cached(tmp_path, teacher)], chunks)
        assert teacher.calls == (0 if (tmp_path / "seen").exists() and version == 1 else 1)
        (tmp_path / "seen").touch()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_computed_again(damage: str, tmp_path: Path) -> None:
    teacher, chunk = CountingTeacher(), as_chunk([Comment("甲"), Comment("乙丙")])
    one = cached(tmp_path, teacher)
    score_chunks([one], [chunk])
    (path,) = one.cache.folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-4]), "empty": b""}[damage])
    assert one.cache.read(chunk.digest) is None
    score_chunks([one], [chunk])
    assert teacher.calls == 4
    np.testing.assert_array_equal(one.wait(chunk.digest), expected(chunk.items))


def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path, [f"第{i}条" for i in range(10)])
    teacher = CountingTeacher()
    real = teacher.logits

    def failing(chunk: Chunk) -> NDArray[np.float32]:
        if teacher.calls >= 6:
            raise KeyboardInterrupt
        return real(chunk)

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "logits", failing)
        with pytest.raises(KeyboardInterrupt):
            score_chunks([cached(tmp_path, teacher)], read(tmp_path, path))
    assert teacher.calls == 6
    one = cached(tmp_path, teacher)
    digests = score_chunks([one], read(tmp_path, path))
    assert teacher.calls == 10
    items = flat(read(tmp_path, path))
    np.testing.assert_array_equal(np.concatenate([one.wait(digest) for digest in digests]), expected(items))


def test_processes_share_the_chunks_and_find_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of one launch, played one after the other; the second waits for what the first left to it."""
    path = text_file(tmp_path, [f"第{i}条" for i in range(10)])
    teachers = [CountingTeacher(), CountingTeacher()]
    monkeypatch.setattr(scoring, "world_size", lambda: 2)
    digests = []
    for number, teacher in enumerate(teachers):
        monkeypatch.setattr(scoring, "rank", lambda number=number: number)
        digests.append(score_chunks([cached(tmp_path, teacher)], read(tmp_path, path)))
    assert [teacher.calls for teacher in teachers] == [6, 4]
    assert digests[0] == digests[1]
    one = cached(tmp_path, CountingTeacher())
    got = np.concatenate([one.wait(digest) for digest in digests[0]])
    np.testing.assert_array_equal(got, expected(flat(read(tmp_path, path))))


def test_waiting_ends_when_the_file_is_there(tmp_path: Path) -> None:
    one, chunk = cached(tmp_path, CountingTeacher()), as_chunk([Comment("甲")])
    later = threading.Timer(0.3, lambda: one.keep(chunk.digest, expected(chunk.items)))
    started = time.monotonic()
    later.start()
    np.testing.assert_array_equal(one.wait(chunk.digest), expected(chunk.items))
    assert time.monotonic() - started >= 0.25
    later.join()


def test_items_in_memory_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "CHUNK_ROWS", 4)
    items = [Comment("字" * (i % 5 + 1) + str(i)) for i in range(11)]
    assert [len(chunk.items) for chunk in chunks_of(items)] == [4, 4, 3]
    np.testing.assert_array_equal(score_items(cached(tmp_path, CountingTeacher()), items), expected(items))
    assert score_items(cached(tmp_path, CountingTeacher()), []).shape == (0, 2)


def test_a_teacher_fitted_on_the_training_rows_has_logits_of_its_own_for_them(tmp_path: Path) -> None:
    items = [Comment("甲"), Comment("乙")]
    own = cached(tmp_path, CountingTeacher(fitted_here=True))
    assert (score_training_rows(own, items) == 7.0).all()
    np.testing.assert_array_equal(score_items(own, items), expected(items))
    other = cached(tmp_path, CountingTeacher())
    np.testing.assert_array_equal(score_training_rows(other, items), expected(items))


def test_the_mean_is_over_those_who_know_the_label() -> None:
    one = np.array([[1.0, np.nan, 2.0]], dtype=np.float32)
    two = np.array([[4.0, np.nan, np.nan]], dtype=np.float32)
    np.testing.assert_allclose(mean_logits([one, two], [1.0, 2.0]), [[3.0, np.nan, 2.0]])
    np.testing.assert_allclose(mean_logits([one], [5.0]), one)


def test_calibration_brings_teachers_to_one_scale(taxonomy: Taxonomy) -> None:
    """One teacher shouts: its logits are ten times too large. Calibrated, it weighs as much as the other."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4000, 2)).astype(np.float32)
    truth = (rng.random((4000, 2)) < 1 / (1 + np.exp(-honest))).astype(np.int64)
    labels = np.column_stack([truth, np.full((4000, 1), UNKNOWN)])
    columns = [1, 0, None]
    loud = voice(1.0, columns, 10 * honest[:, ::-1], labels, calibrate=True)
    spoken = loud.speak(10 * honest[:, ::-1])
    np.testing.assert_allclose(spoken[:, :2], honest, atol=0.35)
    assert np.isnan(spoken[:, 2]).all()
    raw = voice(1.0, columns, 10 * honest[:, ::-1], labels, calibrate=False)
    np.testing.assert_allclose(raw.speak(10 * honest[:, ::-1])[:, :2], 10 * honest, rtol=1e-6)
    assert json.dumps(loud.to_dict())


def test_packed_rows_are_the_tokens_and_logits_of_their_texts(trained: Any, items: list[Item], tmp_path: Path) -> None:
    encoder = trained.encoder
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(items), 3)).astype(np.float32)
    logits[::4, 1] = np.nan
    parts = [slice(0, 7), slice(7, 8), slice(8, len(items))]
    pack(
        tmp_path / "packed",
        "k",
        ((encoder.encode(items[part]), logits[part]) for part in parts),
        vocab_size=encoder.vocab_size,
        num_labels=3,
    )
    rows = PackedRows(tmp_path / "packed")
    assert len(rows) == len(items)
    batch = encoder.encode(items).batch(np.arange(len(items)))
    for i in (*range(len(items)), 3):
        ids, first, own = rows[i]
        length = int(batch.attention_mask[i].sum())
        np.testing.assert_array_equal(ids, batch.input_ids[i, :length])
        np.testing.assert_array_equal((np.arange(length) >= first).astype(int), batch.token_type_ids[i, :length])
        np.testing.assert_array_equal(own, logits[i])


def test_unfinished_changed_or_cut_packs_are_none(tmp_path: Path, trained: Any) -> None:
    folder = tmp_path / "packed"
    encoded = trained.encoder.encode([Comment("甲"), Comment("乙")])

    def write(broken: bool = False) -> None:
        def batches() -> Any:
            yield encoded, np.zeros((2, 1), dtype=np.float32)
            if broken:
                raise OSError("disk full")

        pack(folder, "k", batches(), vocab_size=300, num_labels=1)

    assert not is_packed(folder, "k")
    write()
    assert is_packed(folder, "k")
    assert not is_packed(folder, "other")
    with pytest.raises(OSError, match="disk full"):
        write(broken=True)
    assert not is_packed(folder, "k")
    write()
    path = folder / "ids.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_packed(folder, "k")


def test_a_batch_holds_labelled_and_unlabelled_rows_with_their_own_logits(
    trained: Any, taxonomy: Taxonomy, tmp_path: Path
) -> None:
    encoder = trained.encoder
    everything = frozenset(taxonomy.label_ids)
    examples = [
        Example(Comment("加我", id="0"), frozenset({"diversion"}), frozenset({"shill"})),
        Example(Note("题", "文", id="1"), frozenset(), everything),
    ]
    logits = np.arange(8, dtype=np.float32).reshape(2, 4)
    logits[0, 1] = logits[1, 2] = np.nan
    further = [Comment("没有标注的话"), Comment("又一句")]
    spoken = 10 + np.arange(8, dtype=np.float32).reshape(2, 4)
    pack(tmp_path / "p", "k", [(encoder.encode(further), spoken)], vocab_size=encoder.vocab_size, num_labels=4)
    rows = TaughtRows(to_dataset(examples, encoder, taxonomy), logits, PackedRows(tmp_path / "p"))
    order = [3, 0, 2, 1]
    batch = TaughtCollator(Collator(encoder.pad_id))(rows.__getitems__(order))
    wanted = encoder.encode([[*(row.item for row in examples), *further][i] for i in order]).batch(np.arange(4))
    for name, array in wanted.feeds().items():
        np.testing.assert_array_equal(batch[name].numpy(), array)
    np.testing.assert_array_equal(batch[TEACHER_LOGITS].numpy(), np.concatenate([logits, spoken])[order])
    taught = [TAUGHT] * 4
    assert batch["labels"].tolist() == [taught, [1, UNKNOWN, TAUGHT, 0], taught, [TAUGHT, TAUGHT, UNKNOWN, TAUGHT]]
    assert [len(row["input_ids"]) for row in rows] == [len(rows[i]["input_ids"]) for i in range(4)]
    assert len(rows) == 4
    with pytest.raises(ValueError, match="teachers' logits of 2 rows"):
        TaughtRows(to_dataset(examples, encoder, taxonomy), logits[:1], None)


def test_rows_of_an_evaluation_pass_the_collator_untouched(trained: Any, taxonomy: Taxonomy) -> None:
    rows = list(to_dataset([Example(Comment("甲"), frozenset(), frozenset({"shill"}))], trained.encoder, taxonomy))
    collate = Collator(trained.encoder.pad_id)
    plain, taught = collate(rows), TaughtCollator(collate)(rows)
    assert plain.keys() == taught.keys()
    assert plain["labels"].tolist() == taught["labels"].tolist()


def test_the_cache_says_what_it_is_of(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, {"kind": "checkpoint", "files": {"a": "0"}}, 2)
    manifest = json.loads((cache.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {"kind": "checkpoint", "files": {"a": "0"}}
    assert not list(cache.folder.glob("*.partial"))

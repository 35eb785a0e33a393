"""Everything before the student's first step: teachers' scores of all texts, the student, its rows on disk.

RUN/distill.yaml             the configuration as it ran, paths absolute
RUN/distillation/inputs.json what a resumed run is held against: settings, teachers, checksums of the texts
RUN/distillation/scores/     teachers' logits, unless `cache_dir` says otherwise
RUN/distillation/packed/     the student's tokens of unlabelled rows, and what the teachers say of them
RUN/student/                 the student before training, unless it is a ready encoder
RUN/rejected/unlabelled/     bad rows of the unlabelled files

Every process of a launch runs this; chunks of texts are shared out, the rest is written by the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from shudun import terminal
from shudun.errors import ShudunError
from shudun.normalization import NORMALIZER_VERSION
from shudun.rendering import plain_text
from shudun.taxonomy import Taxonomy
from shudun.tokenization import Encoded, ItemTokenizer
from shudun_training.bootstrap import Predictions
from shudun_training.checkpoint import build_tokenizer, item_tokenizer
from shudun_training.config import ThresholdConfig, load_taxonomy, save_run_config
from shudun_training.distillation.comparison import teacher_predictions
from shudun_training.distillation.config import DistillConfig
from shudun_training.distillation.hidden_states import InnerTeacher
from shudun_training.distillation.packed_rows import PackedRows, is_packed, pack
from shudun_training.distillation.panel import Panel, Rows, check_unseen, teacher_bf16
from shudun_training.distillation.ranks import rank, wait_until, world_size
from shudun_training.distillation.score_cache import write_whole
from shudun_training.distillation.student import prepare_student, require_same_tokenizer
from shudun_training.distillation.teachers import CheckpointTeacher
from shudun_training.distillation.teaching import Teaching, applicable_only
from shudun_training.distillation.texts import UnlabelledTexts, chunks_of
from shudun_training.finetune import vocabulary_texts
from shudun_training.row_progress import row_progress
from shudun_training.sources import SourceRecord, file_sha256, repeated
from shudun_training.training_rows import build_augmenter

TOGETHER = "teachers together"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What teaches the student, what is recorded of it, and the teachers' logits of the splits that are reported.

    `logits`: name → split → `(n, num_labels)`, NaN in columns of labels that the teacher does not know.
    """

    teaching: Teaching
    record: Mapping[str, Any]
    logits: Mapping[str, Mapping[str, NDArray[np.float32]]]
    rows: Rows
    taxonomy: Taxonomy
    thresholds: ThresholdConfig

    def predictions(self, split: str) -> dict[str, Predictions]:
        """What each teacher, and all together, decide on the rows of a split."""
        return {
            name: teacher_predictions(logits, split, self.rows, self.taxonomy, self.thresholds)
            for name, logits in self.logits.items()
        }


def prepare(
    config: DistillConfig, rows: Rows, sources: Mapping[str, Sequence[SourceRecord]], *, resume: bool
) -> Prepared:
    """Have teachers, student and rows ready; what the cache holds is not computed again.

    Raises:
        ShudunError: a teacher, a file or the student is not usable, or something changed since the run that is to
            go on was started.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    check_unseen(config.teachers, sources)
    texts = UnlabelledTexts(
        config.unlabelled,
        labelled=(example.item for examples in rows.values() for example in examples),
        rejected_dir=config.output_dir / "rejected" / "unlabelled",
    )
    panel = Panel(config, rows, taxonomy)
    _check_student(config, panel)
    _hold(config, panel, resume=resume)
    with row_progress() as step:
        digests = panel.score(texts, lambda done: step("teachers: unlabelled texts", done))
        step("teachers: labelled rows", sum(map(len, rows.values())))
        panel.hear()
    counts = [count.to_dict() for count in texts.counts]
    tokenizer = _student_tokenizer(config, rows, texts, panel, taxonomy, digests)
    encoder = item_tokenizer(tokenizer, max_length=config.model.max_length)
    unlabelled = _packed(config, panel, texts, digests, encoder, taxonomy) if digests else None
    kinds = [example.item.kind for example in rows["train"]]
    train = applicable_only(panel.said_of("train"), taxonomy.applicable(kinds))
    teaching = Teaching(
        logits=train[repeated(range(len(train)), sources["train"])],
        unlabelled=unlabelled,
        temperature=config.distillation.temperature,
        alpha=config.distillation.alpha,
        hidden_weight=config.distillation.hidden_weight,
        inner=_inner(config, panel.inner) if config.distillation.hidden_weight else None,
    )
    record = _record(config, panel, counts)
    panel.release()
    if rank() == 0:
        _print(record)
    return Prepared(teaching, record, _reported(panel, rows), rows, taxonomy, config.thresholds)


def _check_student(config: DistillConfig, panel: Panel) -> None:
    """Refuse at once what would fail after hours of scoring."""
    if not config.distillation.hidden_weight or panel.inner is None:
        return
    if torch.cuda.device_count() > 1 and world_size() == 1:
        raise ShudunError(
            "hidden states on several GPUs need one process for each: start with "
            "`accelerate launch -m shudun distill`, or choose one GPU with CUDA_VISIBLE_DEVICES"
        )
    longest = panel.inner.loaded[0].config.max_position_embeddings
    if config.model.max_length > longest:
        raise ShudunError(f"model.max_length: teacher {panel.inner.name} has positions for {longest} tokens only")
    if config.model.encoder is not None:
        tokenizer = build_tokenizer(config.run_config().model, ())
        require_same_tokenizer(tokenizer, panel.inner.loaded[1], panel.inner.name)


def _hold(config: DistillConfig, panel: Panel, *, resume: bool) -> None:
    """Write down what the run depends on, or check it against what was written when the run began."""
    folder = config.output_dir / "distillation"
    inputs = {
        "settings": config.distillation.model_dump(mode="json", exclude={"cache_dir", "batch_tokens"}),
        "student": config.model.model_dump(mode="json"),
        "teachers": panel.identity(),
        "unlabelled": [
            {"path": str(source.path), "columns": source.columns, "sha256": file_sha256(source.path)}
            for source in config.unlabelled
        ],
    }
    text = json.dumps(inputs, ensure_ascii=False, indent=2) + "\n"
    if resume:
        before = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        now = json.loads(text)
        if changed := [name for name in now if now[name] != before.get(name)]:
            raise ShudunError(
                f"{config.output_dir}: cannot resume, changed since the run started: {', '.join(changed)}. "
                "Undo the change, or start again in another folder"
            )
    elif rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "inputs.json", text.encode("utf-8"))
    if rank() == 0:
        save_run_config(config, config.output_dir / "distill.yaml")


def _student_tokenizer(
    config: DistillConfig,
    rows: Rows,
    texts: UnlabelledTexts,
    panel: Panel,
    taxonomy: Taxonomy,
    digests: Sequence[str],
) -> PreTrainedTokenizerBase:
    """Put the student into its folder where it needs one; returns its tokenizer."""

    def every_text() -> Iterator[str]:
        yield from vocabulary_texts(rows["train"], build_augmenter(config.augmentation, rows["train"]))
        for chunk in texts:
            yield from (plain_text(item) for item in chunk.items)

    key = _sha256(
        {
            "student": config.model.model_dump(mode="json"),
            "seed": config.training.seed,
            "labels": taxonomy.label_ids,
            "augmentation": config.augmentation.model_dump(mode="json"),
            "texts": [*(chunk.digest for chunk in chunks_of([row.item for row in rows["train"]])), *digests],
            "inner": None if panel.inner is None else panel.inner.identity,
            "normalizer": NORMALIZER_VERSION,
        }
    )
    return prepare_student(config, taxonomy, texts=every_text, inner=panel.inner, key=key)


def _packed(
    config: DistillConfig,
    panel: Panel,
    texts: UnlabelledTexts,
    digests: Sequence[str],
    encoder: ItemTokenizer,
    taxonomy: Taxonomy,
) -> PackedRows:
    """Unlabelled rows as the student's tokens beside what the teachers say, written by the first process."""
    folder = config.output_dir / "distillation" / "packed"
    key = _sha256(
        {
            "texts": digests,
            "tokenizer": encoder.to_json(),
            "max_length": encoder.max_length,
            "labels": taxonomy.to_dict(),
            "teachers": [member.cache.folder.name for member in panel.members],
            "voices": [voice.to_dict() for voice in panel.voices],
        }
    )

    def batches() -> Iterator[tuple[Encoded, NDArray[np.float32]]]:
        for chunk in texts:
            applicable = taxonomy.applicable([item.kind for item in chunk.items])
            yield encoder.encode_rendered(chunk.rendered), applicable_only(panel.said(chunk.digest), applicable)

    if rank() == 0 and not is_packed(folder, key):
        pack(folder, key, batches(), vocab_size=encoder.vocab_size, num_labels=len(taxonomy.labels))
    wait_until(lambda: is_packed(folder, key))
    return PackedRows(folder)


def _inner(config: DistillConfig, teacher: CheckpointTeacher | None) -> InnerTeacher:
    if teacher is None:
        raise ValueError("hidden states without an inner teacher")
    settings = config.distillation
    return InnerTeacher(teacher.loaded[0], settings.layer_map, settings.hidden_loss, teacher_bf16(config))


def _reported(panel: Panel, rows: Rows) -> dict[str, dict[str, NDArray[np.float32]]]:
    splits = [split for split in ("validation", "test") if rows[split]]
    alone = {split: panel.each_of(split) for split in splits}
    names = [member.teacher.name for member in panel.members]
    logits = {f"teacher {name}": {split: alone[split][name] for split in splits} for name in names}
    return logits | ({TOGETHER: {split: panel.said_of(split) for split in splits}} if len(names) > 1 else {})


def _record(config: DistillConfig, panel: Panel, counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    teachers = [
        {
            "name": member.teacher.name,
            "source": str(section.checkpoint) if section.checkpoint else "training rows",
            "identity": member.cache.folder.name,
            **voice.to_dict(),
            "rows_computed": member.counts.computed,
            "rows_reused": member.counts.reused,
        }
        for member, section, voice in zip(panel.members, config.teachers, panel.voices, strict=True)
    ]
    return {
        "settings": config.distillation.model_dump(mode="json"),
        "student": config.model.model_dump(mode="json"),
        "teachers": teachers,
        "unlabelled": list(counts),
    }


def _print(record: Mapping[str, Any]) -> None:
    console = terminal.console()
    share = f" by the first of {world_size()} processes" if world_size() > 1 else ""
    for text in record["unlabelled"]:
        console.print(
            f"{text['path']}: {text['read']:,} rows read, {text['used']:,} used, {text['rejected']:,} bad, "
            f"{text['left_out']:,} left out (their text stands in a labelled split)",
            soft_wrap=True,
        )
    for teacher in record["teachers"]:
        console.print(
            f"teacher {teacher['name']}: {teacher['rows_computed']:,} rows scored, "
            f"{teacher['rows_reused']:,} found in the cache{share}",
            soft_wrap=True,
        )


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=True, sort_keys=True).encode("ascii")).hexdigest()

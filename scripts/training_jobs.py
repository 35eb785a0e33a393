"""What bench_training.py fine-tunes: an encoder folder, and rows from files or generated ones of known lengths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from training_recipes import Job
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase, set_seed

from shudun import Comment
from shudun.normalization import normalize_text
from shudun.taxonomy import Taxonomy
from shudun_training.checkpoint import build_tokenizer, item_tokenizer
from shudun_training.config import CompactConfig, ModelConfig, SourceConfig, TrainingConfig, load_taxonomy
from shudun_training.examples import Example
from shudun_training.sources import load_examples

ROOT = Path(__file__).parents[1]
CARD = ROOT / "data_cards" / "shudun-xhs"
HEADS = {768: 12, 312: 12, 288: 8}
VOCABULARY = 21128
LENGTHS = {"short": (22, 0.55), "long": (300, 0.45)}
"""Median and spread (log-normal) of the tokens of generated texts: 27 on average as in comments, and long notes."""


def make_jobs(options: argparse.Namespace, folder: Path) -> Iterator[Job]:
    """A job for each kind of texts and batch size."""
    for texts in options.texts.split(","):
        taxonomy = load_taxonomy(options.taxonomy or ROOT / "configs" / "taxonomy" / "xhs.yaml")
        max_length = 512 if texts == "long" else options.max_length
        train, validation = _rows(texts, taxonomy, options, max_length)
        encoder_folder = options.encoder or _random_encoder(options.shape, train, folder / f"encoder-{texts}")
        tokenizer = _tokenizer(encoder_folder)
        for size in map(int, options.batch_size.split(",")):
            yield Job(
                name=f"{texts} {options.encoder.name if options.encoder else options.shape} batch {size}",
                encoder_folder=encoder_folder,
                tokenizer=tokenizer,
                encoder=item_tokenizer(tokenizer, max_length=max_length),
                taxonomy=taxonomy,
                train=train,
                validation=validation,
                training=_training(options, size),
                max_length=max_length,
            )


def _training(options: argparse.Namespace, batch_size: int) -> TrainingConfig:
    """What all recipes share; no run stops early."""
    return TrainingConfig(
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=batch_size,
        early_stopping_patience=options.epochs,
        report_to="none",
    )


def _rows(
    texts: str, taxonomy: Taxonomy, options: argparse.Namespace, max_length: int
) -> tuple[list[Example], list[Example]]:
    if texts == "rows":
        paths = (options.train or CARD / "train.jsonl", options.validation or CARD / "validation.jsonl")
        loaded = [load_examples([SourceConfig(path=str(path))], taxonomy)[0] for path in paths]
    else:
        count = options.rows or 2000
        everything = _generated(texts, taxonomy, count + max(count // 10, 50), max_length)
        loaded = [everything[:count], everything[count:]]
    return _drawn(loaded[0], options.rows), _drawn(loaded[1], options.validation_rows)


def _drawn(rows: Sequence[Example], most: int | None) -> list[Example]:
    """As many rows as asked for, in a random order that is always the same: files are often sorted."""
    order = np.random.default_rng(0).permutation(len(rows))[:most]
    return [rows[i] for i in order]


def _generated(texts: str, taxonomy: Taxonomy, count: int, max_length: int) -> list[Example]:
    """Texts of single characters; a label holds where its own character stands, so that there is something to learn."""
    median, spread = LENGTHS[texts]
    rng = np.random.default_rng(0)
    letters = [letter for letter in map(chr, range(0x4E00, 0x4E00 + 3000)) if normalize_text(letter) == letter]
    labels = [label.id for label in taxonomy.labels if "comment" in label.applies_to]
    marks, letters = letters[: len(labels)], letters[len(labels) :]
    sizes = np.clip(np.round(rng.lognormal(np.log(median), spread, count)), 2, max_length - 2).astype(int)
    rows = []
    for number, size in enumerate(sizes):
        text, holds = rng.choice(letters, size), rng.random(len(labels)) < 0.15
        places = rng.permutation(size)[: holds.sum()]
        chosen = np.flatnonzero(holds)[: len(places)]
        text[places] = [marks[i] for i in chosen]
        rows.append(Example(Comment("".join(text), id=str(number)), frozenset(labels[i] for i in chosen), frozenset()))
    return rows


def _random_encoder(shape: str, train: Sequence[Example], folder: Path) -> Path:
    """An encoder folder with random weights and a vocabulary of the texts, padded to the size of BERT's."""
    layers, hidden = map(int, shape.split("x"))
    config = ModelConfig(compact=CompactConfig(vocab_size=VOCABULARY), max_length=512)
    tokenizer = build_tokenizer(config, [part for row in train for part in (row.item.text, *_titles(row))])
    set_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=HEADS.get(hidden, max(hidden // 64, 1)),
            intermediate_size=4 * hidden,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _titles(row: Example) -> list[str]:
    return [text for text in (getattr(row.item, "title", ""), getattr(row.item, "parent_text", "")) if text]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)

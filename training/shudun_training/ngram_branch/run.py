"""The branch of a training run: fitted when the encoder is, kept in its checkpoint folder, loaded for every export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shudun import terminal
from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer
from shudun_training.checkpoint import item_tokenizer, load_checkpoint
from shudun_training.config import RunConfig
from shudun_training.examples import Example, label_matrix
from shudun_training.finetune import predict_logits
from shudun_training.ngram_branch.branch import BlendWeights, NgramBranch
from shudun_training.ngram_branch.fitting import fit_blend, fit_branch
from shudun_training.ngram_branch.storage import BRANCH_FILE, load_branch, save_branch


def fit_run_branch(
    checkpoint: Path,
    config: RunConfig,
    taxonomy: Taxonomy,
    train: Sequence[Example],
    validation: Sequence[Example],
) -> dict[str, Any] | None:
    """Fit the branch that a configuration asks for and write it into the checkpoint folder; return its summary.

    Without one, a file that an earlier run left in the folder is removed.
    """
    section = config.ngram_branch
    if section is None:
        (checkpoint / BRANCH_FILE).unlink(missing_ok=True)
        return None
    model, tokenizer = load_checkpoint(checkpoint)
    encoder = item_tokenizer(tokenizer, max_length=config.model.max_length)
    branch = fit_branch(
        [example.item for example in train], label_matrix(train, taxonomy), encoder, **section.model_dump()
    )
    items = [example.item for example in validation]
    logits, _ = predict_logits(model, encoder, items)
    weights = fit_blend(logits, branch.logits(encoder.encode(items)), label_matrix(validation, taxonomy))
    branch = replace(branch, weights=weights)
    save_branch(branch, checkpoint, encoder, taxonomy)
    _say(branch.summary(), weights)
    return branch.summary()


def load_run_branch(
    checkpoint: Path, config: RunConfig, encoder: ItemTokenizer, taxonomy: Taxonomy
) -> NgramBranch | None:
    """The branch of a run's checkpoint, `None` where the run has none.

    Raises:
        ShudunError: it is missing, damaged, or of another model.
    """
    branch = load_branch(checkpoint, encoder, taxonomy)
    if branch is None and config.ngram_branch is not None:
        raise ShudunError(f"{checkpoint}: {BRANCH_FILE} is missing, which the configuration asks for; train again")
    return branch


def _say(summary: dict[str, Any], weights: BlendWeights) -> None:
    console = terminal.console()
    console.print("n-gram branch: " + "  ".join(f"{name} {value}" for name, value in summary.items()))
    for name, weight in (("encoder", weights.encoder), ("n-gram branch", weights.branch)):
        if weight == 0:
            console.print(f"the {name} got weight 0 on the validation rows: it has no say in the scores")

"""What pre-training minimises: masked tokens, and the words of a text from its [CLS] state alone.

The second term makes [CLS], which a classifier reads, a summary of the text: bag-of-word prediction (Ma et al. 2024,
arXiv:2401.11248). Both go through the same output layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step that are computed together.

    `input_ids`, `position_ids`, `token_type_ids`, `piece`: int64 `(rows, row_tokens)`. `chosen_rows`,
    `chosen_columns`, `target_ids`: int64 `(chosen,)`, what is to be guessed and where. `bag_rows`, `bag_columns`:
    int64 `(texts,)`, where the [CLS] of each text stands. `bag_text`, `bag_token`: int64 `(pairs,)`, the distinct
    ordinary tokens of each text. `chosen_in_step`, `texts_in_step`: how many there are in the whole step, over all
    its parts and processes; losses are means over those.
    """

    input_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor
    piece: Tensor
    chosen_rows: Tensor
    chosen_columns: Tensor
    target_ids: Tensor
    bag_rows: Tensor
    bag_columns: Tensor
    bag_text: Tensor
    bag_token: Tensor
    chosen_in_step: int
    texts_in_step: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Objective(nn.Module):
    """A masked language model with both losses as its output, so that it can be distributed as one module."""

    def __init__(self, model: Any, *, dtype: torch.dtype, bag: bool) -> None:
        """`dtype`: numbers of the attention mask, those that attention computes in; `bag`: compute the second loss."""
        super().__init__()
        self.model = model
        self._dtype, self._bag = dtype, bag

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """This part's shares of the step's losses; without the second one it is 0."""
        hidden = self.model.base_model(
            input_ids=batch.input_ids,
            attention_mask=attention_bias(batch.piece, self._dtype),
            position_ids=batch.position_ids,
            token_type_ids=batch.token_type_ids,
        ).last_hidden_state
        masked = self._masked(hidden, batch)
        return masked, self._bags(hidden, batch) if self._bag else masked.detach() * 0

    def _masked(self, hidden: Tensor, batch: Batch) -> Tensor:
        guessed = output_layer(self.model)(hidden[batch.chosen_rows, batch.chosen_columns]).float()
        total = functional.cross_entropy(guessed, batch.target_ids, reduction="sum")
        return total / max(batch.chosen_in_step, 1)

    def _bags(self, hidden: Tensor, batch: Batch) -> Tensor:
        logits = output_layer(self.model)(hidden[batch.bag_rows, batch.bag_columns]).float()
        pairs = functional.log_softmax(logits, dim=-1)[batch.bag_text, batch.bag_token]
        size = torch.bincount(batch.bag_text, minlength=len(batch.bag_rows)).clamp(min=1)
        return -(pairs / size[batch.bag_text]).sum() / max(batch.texts_in_step, 1)


def attention_bias(piece: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask `(rows, 1, row_tokens, row_tokens)` that keeps each position within its own piece."""
    same = piece[:, None, :, None] == piece[:, None, None, :]
    return torch.where(same, 0.0, torch.finfo(dtype).min).to(dtype)


def output_layer(model: Any) -> Any:
    """The part of a masked language model that turns hidden states into logits.

    Raises:
        AttributeError: the model has none in one piece.
    """
    found = [getattr(model, name) for name in ("cls", "lm_head", "predictions") if hasattr(model, name)]
    if not found:
        raise AttributeError("no output layer in one piece")
    return found[0]

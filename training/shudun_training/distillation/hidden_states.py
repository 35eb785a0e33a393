"""What the student's forward pass does beside its own while it is taught.

It hands on the teachers' logits, and compares hidden states with the inner teacher's, token by token through learned
projections (Sanh et al. 2019, Jiao et al. 2020). All in hooks of the model: so the projections are used inside the
forward pass, where data-parallel wrappers expect them, and Trainer sees a stock model. The teacher runs on the fly,
its states are too large for disk.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from shudun.errors import ShudunError
from shudun_training.distillation.soft_targets import HIDDEN_LOSS, TEACHER_LOGITS

HiddenLoss: TypeAlias = Literal["mse", "cosine"]

PROJECTIONS = "distillation_projections"
"""Name of the submodule that holds the projections while the student is taught."""


@dataclass(frozen=True, slots=True)
class InnerTeacher:
    """The teacher whose hidden states are learned, and how.

    `layers`: student layer → teacher layer (0: embeddings); evenly spaced where it is `None`.
    """

    model: PreTrainedModel
    layers: Mapping[int, int] | None
    loss: HiddenLoss
    bf16: bool


class Lesson:
    """Hooks on a student between `attach` and `detach`."""

    def __init__(self, inner: InnerTeacher | None = None) -> None:
        self._inner = inner
        self._layers: Mapping[int, int] = {}
        self._handles: list[Any] = []
        # DataParallel runs the hooks of one object on several threads.
        self._passing = threading.local()

    def attach(self, student: PreTrainedModel) -> None:
        """Add hooks, and projections where hidden states are learned; these are saved with the student's weights.

        Raises:
            ShudunError: a layer that is to be compared does not exist.
        """
        if self._inner is not None:
            teacher = self._inner.model.requires_grad_(False).train(mode=False)
            depths = int(student.config.num_hidden_layers), int(teacher.config.num_hidden_layers)
            self._layers = uniform_layers(*depths) if self._inner.layers is None else self._inner.layers
            check_layers(self._layers, *depths)
            widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
            student.add_module(PROJECTIONS, nn.ModuleList(nn.Linear(*widths, bias=False) for _ in self._layers))
        self._handles = [
            student.register_forward_pre_hook(self._before, with_kwargs=True),
            student.register_forward_hook(self._after, with_kwargs=True),
        ]

    def detach(self, student: PreTrainedModel) -> None:
        """Leave the student as any other model of its kind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._inner is not None:
            delattr(student, PROJECTIONS)

    def _before(self, student: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        kwargs = dict(kwargs)
        self._passing.teacher_logits = kwargs.pop(TEACHER_LOGITS, None)
        if self._passing.teacher_logits is not None and self._inner is not None:
            kwargs["output_hidden_states"] = True
        return args, kwargs

    def _after(self, student: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        if self._passing.teacher_logits is None:
            return output
        output[TEACHER_LOGITS] = self._passing.teacher_logits
        if self._inner is not None:
            projections = student.get_submodule(PROJECTIONS)
            output[HIDDEN_LOSS] = self._compare(self._inner, projections, output["hidden_states"], kwargs)
        return output

    def _compare(
        self, inner: InnerTeacher, projections: Any, states: Sequence[Tensor], inputs: Mapping[str, Any]
    ) -> Tensor:
        feeds = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        device = feeds["input_ids"].device
        teacher = inner.model.to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=inner.bf16):
            theirs = teacher.base_model(**feeds, output_hidden_states=True).hidden_states
        ours = [project(states[layer]) for project, layer in zip(projections, self._layers, strict=True)]
        wanted = [theirs[layer] for layer in self._layers.values()]
        return row_hidden_loss(ours, wanted, feeds["attention_mask"], inner.loss)


def uniform_layers(student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Student layer → teacher layer, embeddings included: evenly spaced, last to last (Jiao et al. 2020)."""
    return {layer: round(layer * teacher_layers / student_layers) for layer in range(student_layers + 1)}


def check_layers(layers: Mapping[int, int], student_layers: int, teacher_layers: int) -> None:
    """Check that the layers of a map exist.

    Raises:
        ShudunError: one does not.
    """
    for which, numbers, last in (
        ("student", layers.keys(), student_layers),
        ("teacher", layers.values(), teacher_layers),
    ):
        if bad := sorted(number for number in numbers if not 0 <= number <= last):
            raise ShudunError(f"distillation.layer_map: {which} layers are 0 (embeddings) to {last}, got {bad[0]}")


def row_hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, loss: HiddenLoss) -> Tensor:
    """Mean over layers and real tokens of each row, `(batch,)`.

    Args:
        student: projected states of each mapped layer, `(batch, seq_len, width)`.
        teacher: the teacher's, same shapes.
        mask: 1 for real tokens, `(batch, seq_len)`.
        loss: "mse": squared difference, mean over the width; "cosine": 1 - cosine of the angle.
    """
    weights = mask / mask.sum(dim=1, keepdim=True)
    losses = []
    for ours, theirs in zip(student, teacher, strict=True):
        if loss == "mse":
            distance = functional.mse_loss(ours.float(), theirs.float(), reduction="none").mean(dim=-1)
        else:
            distance = 1 - functional.cosine_similarity(ours.float(), theirs.float(), dim=-1)
        losses.append((distance * weights).sum(dim=1))
    return torch.stack(losses).mean(dim=0)

"""Parameter groups whose learning rate falls from the head down to the embeddings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from shudun.errors import ShudunError

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_LAYER = re.compile(r"\.layers?\.(\d+)\.")
_EMBEDDINGS = re.compile(r"\.\w*embeddings\w*\.")
_TOP = re.compile(r"\.(pooler|final_norm)\.")


def layer_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    base_prefix: str,
    num_layers: int,
    learning_rate: float,
    layer_decay: float,
    head_lr_factor: float,
    weight_decay: float,
    decayed: Collection[str],
) -> list[dict[str, Any]]:
    """Groups for an optimiser, the head first.

    With D = `layer_decay` the head and the pooler have `head_lr_factor` times the learning rate, the top layer D times
    it, each layer below D times that of the layer above, and the embeddings D times that of the lowest layer. Known as
    discriminative fine-tuning (Howard and Ruder 2018, arXiv:1801.06146) and used for encoders by Clark et al. 2020
    (arXiv:2003.10555).

    Args:
        parameters: names and parameters of the model; frozen ones are left out.
        base_prefix: `base_model_prefix` of the model, the name of its encoder.
        num_layers: layers of the encoder.
        learning_rate: what the factors are of.
        layer_decay: ratio between neighbours.
        head_lr_factor: of the head and the pooler.
        weight_decay: for the parameters named in `decayed`; 0 for others (biases, normalisation).
        decayed: names of parameters with weight decay.

    Raises:
        ShudunError: a parameter belongs to no layer by its name, or layers are missing (e.g. shared ones).
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    levels = set()
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        level = _level(name, base_prefix, num_layers)
        levels.add(level)
        steps, decays = num_layers + 1 - level, name in decayed
        group = groups.setdefault(
            (steps, not decays),
            {
                "params": [],
                "lr": learning_rate * (layer_decay**steps if steps else head_lr_factor),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    if missing := sorted(set(range(1, num_layers + 1)) - levels):
        raise _cannot(f"no parameters of layers {', '.join(str(level - 1) for level in missing)}")
    return [groups[key] for key in sorted(groups)]


def _level(name: str, base_prefix: str, num_layers: int) -> int:
    """0 for the embeddings, 1 to `num_layers` for the layers, one more for what stands on top of them."""
    plain = "." + ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    if not plain.startswith(f".{base_prefix}.") or _TOP.search(plain):
        return num_layers + 1
    if (layer := _LAYER.search(plain)) and int(layer[1]) < num_layers:
        return int(layer[1]) + 1
    if _EMBEDDINGS.search(plain):
        return 0
    raise _cannot(f"{name} belongs to no layer")


def _cannot(reason: str) -> ShudunError:
    return ShudunError(
        f"regularisation.layer_decay, head_lr_factor: the layers of this encoder cannot be told apart ({reason}); "
        "set both to 1"
    )

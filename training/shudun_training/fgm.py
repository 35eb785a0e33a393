"""FGM: the adversarial step on word embeddings. Knows nothing of losses, and changes no weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shudun.errors import ShudunError


class EmbeddingShift:
    """The step of Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification", eq. 5.

    r = epsilon g / |g| for each row, with g the gradient of the loss in the row's sequence of word embeddings and |g|
    its L2 norm over tokens and dimensions (arXiv:1605.07725). The paper writes -g, for the log-likelihood; the loss is
    its negative. The step does not depend on the scale of the loss, hence on how batches are accumulated. Rows without
    a gradient (no known label) are not moved. The paper normalises the embeddings; here they stay as the encoder has
    them, and epsilon is measured against their length.
    """

    def __init__(self, embeddings: nn.Module, epsilon: float) -> None:
        self._embeddings = embeddings
        self._epsilon = epsilon
        self._shift: Tensor | None = None

    @contextmanager
    def record(self) -> Iterator[None]:
        """Passes inside are unchanged; the gradient of their `backward` is kept."""

        def add_zero(embedded: Tensor) -> Tensor:
            self._shift = torch.zeros_like(embedded, requires_grad=True)
            return embedded + self._shift

        self._shift = None
        with self._hooked(add_zero):
            yield

    @contextmanager
    def apply(self) -> Iterator[None]:
        """Passes inside see embeddings shifted along the recorded gradient.

        Raises:
            ShudunError: there was no gradient, e.g. because the model was compiled without the hook.
        """
        gradient = None if self._shift is None else self._shift.grad
        if gradient is None:
            raise ShudunError("regularisation.fgm_epsilon: no gradient reached the word embeddings; set it to 0")
        shift = self._epsilon * unit_rows(gradient)
        with self._hooked(lambda embedded: embedded + shift.to(embedded.dtype)):
            yield
        self._shift = None

    @contextmanager
    def _hooked(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        handle = self._embeddings.register_forward_hook(lambda _module, _inputs, output: change(output))
        try:
            yield
        finally:
            handle.remove()


def unit_rows(gradient: Tensor) -> Tensor:
    """A gradient `(batch, seq_len, hidden)` with the L2 norm of each row 1; rows of zeros stay."""
    single = gradient.float()
    peak = single.abs().amax(dim=(1, 2), keepdim=True)
    # By the largest entry first: squares of small or large gradients leave single precision.
    scaled = single / torch.where(peak > 0, peak, 1.0)
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=(1, 2), keepdim=True)
    return scaled / norm.clamp_min(1.0)

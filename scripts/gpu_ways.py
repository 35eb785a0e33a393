"""The ways to score that bench_gpu.py compares: onnxruntime's fused graph, torch in three forms, two habits of users.

A way takes the first `n` texts of a workload and returns logits `(n, num_labels)` in input order. Ways on token ids
get them tokenised; ways on texts tokenise inside their time. Weights are random: only speed is compared, but all
ways compute the same model.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

from shudun.batching import Batching, plan_batches
from shudun.errors import ShudunError
from shudun.items import Item
from shudun.session import GraphSession
from shudun.tokenization import Encoded, ItemTokenizer
from shudun_training.fused_graph_cuda import build_cuda_graph

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
CHUNK = 4096
SMALL, LARGE = Batching(16384, 16), Batching(65536, 16)


@dataclass(frozen=True)
class Workload:
    """One model and the texts that it is measured on, raw and tokenised."""

    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerFast
    encoder: ItemTokenizer
    items: list[Item]
    encoded: Encoded

    def head(self, n: int) -> Encoded:
        """The first `n` texts, tokenised."""
        whole = self.encoded
        ids = whole.ids[: whole.starts[n]]
        return dataclasses.replace(
            whole,
            ids=ids,
            starts=whole.starts[: n + 1],
            first=whole.first[:n],
            truncated=whole.truncated[:n],
            windows=whole.windows[:n],
        )

    def copy(self, device: str, kind: torch.dtype) -> BertForSequenceClassification:
        return copy.deepcopy(self.model).to(device, kind).eval()


@dataclass(frozen=True)
class Way:
    """One way to score: `run` is `None` where it cannot run here, and `status` says why."""

    name: str
    precision: str
    tokenising: bool
    run: Callable[[int], np.ndarray] | None
    status: str = "measured"


def onnx_ways(work: Workload, device: str) -> Iterator[Way]:
    """Ours: the graph for CUDA in fp16 and fp32, with and without tokenising, small and large batches."""
    forms = (("fp16", 1, SMALL), ("fp16", 2, SMALL), ("fp16", 1, LARGE), ("fp32", 1, SMALL))
    for precision, threads, batching in forms:
        name = f"shudun, {batching.tokens} tokens, threads {threads}"
        try:
            graph = build_cuda_graph(work.model, half=precision == "fp16")
            session = GraphSession(graph, device=device, threads=threads)
        except ShudunError as error:
            yield Way(name, precision, False, None, f"not installed: {error}")
            continue
        yield Way(name, precision, False, partial(_run_encoded, work, session, batching))
        if precision == "fp16":
            yield Way(f"{name}, from texts", precision, True, partial(_run_items, work, session, batching))


def torch_ways(work: Workload, device: str, *, compiled: bool) -> Iterator[Way]:
    """The stock model under SDPA in batches of like length, and the same weights without any padding."""
    for precision, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        yield Way("torch SDPA, like lengths", precision, False, partial(_run_torch, work, work.copy(device, kind)))
    packed = PackedBert(work.copy(device, torch.bfloat16), packed_attention(device))
    yield Way("torch packed", "bf16", False, partial(_run_packed, work, packed))
    if compiled:
        faster = torch.compile(packed, dynamic=True)
        yield Way("torch packed, compiled", "bf16", False, partial(_run_packed, work, faster))


def habit_ways(work: Workload, device: str) -> Iterator[Way]:
    """What people run: a transformers pipeline, and batches sorted by length as in sentence-transformers."""
    half, single = work.copy(device, torch.float16), work.copy(device, torch.float32)
    for size in (32, 128, 256):
        classify = pipeline("text-classification", model=half, tokenizer=work.tokenizer, top_k=None, device=device)
        yield Way(f"transformers pipeline, batch {size}", "fp16", True, partial(_run_pipeline, work, classify, size))
    for precision, model in (("fp32", single), ("fp16", half)):
        for size in (32, 256):
            run = partial(_run_sorted, work, model, size)
            yield Way(f"sentence-transformers style, batch {size}", precision, True, run)


class PackedBert(nn.Module):
    """A BERT classifier over texts one after another in one row: no padding, and the last layer for `[CLS]` alone."""

    def __init__(self, model: BertForSequenceClassification, attend: Attend) -> None:
        super().__init__()
        self.model, self.attend = model, attend
        self.heads = model.config.num_attention_heads

    def forward(self, ids: Tensor, types: Tensor, positions: Tensor, starts: Tensor, longest: int) -> Tensor:
        """Logits `(texts, num_labels)`; `starts` `(texts + 1,)` says where each text of `ids` `(tokens,)` begins."""
        tables, layers = self.model.bert.embeddings, self.model.bert.encoder.layer
        x = tables.word_embeddings(ids) + tables.position_embeddings(positions) + tables.token_type_embeddings(types)
        x = tables.LayerNorm(x)
        for layer in layers[:-1]:
            x = self._layer(layer, x, x, starts, starts, longest, longest)
        ones = torch.arange(len(starts), dtype=starts.dtype, device=starts.device)
        first = self._layer(layers[-1], x, x[starts[:-1]], ones, starts, 1, longest)
        return self.model.classifier(torch.tanh(self.model.bert.pooler.dense(first)))

    def _layer(
        self,
        layer: nn.Module,
        x: Tensor,
        own: Tensor,
        own_starts: Tensor,
        starts: Tensor,
        longest_own: int,
        longest: int,
    ) -> Tensor:
        part, end = layer.attention.self, layer.attention.output
        query, key, value = (
            projection(source).unflatten(-1, (self.heads, -1))
            for projection, source in ((part.query, own), (part.key, x), (part.value, x))
        )
        context = self.attend(query, key, value, own_starts, starts, longest_own, longest).flatten(-2)
        attended = end.LayerNorm(end.dense(context) + own)
        wide = functional.gelu(layer.intermediate.dense(attended))
        return layer.output.LayerNorm(layer.output.dense(wide) + attended)


def packed_attention(device: str) -> Attend:
    """Flash attention over packed texts on CUDA; elsewhere one text at a time, to check the rest by."""
    if device == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn
    return _attend_one_by_one


def _attend_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, own_starts: Tensor, starts: Tensor, _longest_own: int, _longest: int
) -> Tensor:
    parts = []
    for (own_from, own_to), (start, end) in zip(
        itertools.pairwise(own_starts.tolist()), itertools.pairwise(starts.tolist()), strict=True
    ):
        q, k, v = (x.transpose(0, 1) for x in (query[own_from:own_to], key[start:end], value[start:end]))
        parts.append(functional.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


def _run_encoded(work: Workload, session: GraphSession, batching: Batching, n: int) -> np.ndarray:
    return session.start(work.head(n), batching)()[0]


def _run_items(work: Workload, session: GraphSession, batching: Batching, n: int) -> np.ndarray:
    """As Scorer.score_iter does: the next chunk is tokenised while one runs."""
    waiting: deque[Callable[[], Any]] = deque()
    logits = []
    for start in range(0, n, CHUNK):
        waiting.append(session.start(work.encoder.encode(work.items[start : min(start + CHUNK, n)]), batching))
        if len(waiting) > 1:
            logits.append(waiting.popleft()()[0])
    return np.concatenate(logits + [wait()[0] for wait in waiting])


@torch.inference_mode()
def _run_torch(work: Workload, model: BertForSequenceClassification, n: int) -> np.ndarray:
    encoded, parts, rows = work.head(n), [], []
    for planned in plan_batches(encoded.lengths, LARGE, max_length=encoded.max_length):
        feeds = encoded.batch(*planned).feeds()
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in feeds.items()}
        parts.append(model(**tensors).logits)
        rows.append(planned.rows)
    return _restore(parts, np.concatenate(rows))


@torch.inference_mode()
def _run_packed(work: Workload, packed: PackedBert, n: int) -> np.ndarray:
    """Batches of consecutive texts: without padding their lengths need not be alike."""
    encoded, device, parts, start = work.head(n), packed.model.device, [], 0
    while start < n:
        end = max(int(np.searchsorted(encoded.starts, encoded.starts[start] + LARGE.tokens, "right")) - 1, start + 1)
        starts = encoded.starts[start : end + 1] - encoded.starts[start]
        lengths = np.diff(starts)
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        types = (positions >= np.repeat(encoded.first[start:end], lengths)).astype(np.int64)
        ids = encoded.ids[encoded.starts[start] : encoded.starts[end]]
        arrays = (ids, types, positions, starts.astype(np.int32))
        parts.append(packed(*(torch.from_numpy(x).to(device) for x in arrays), int(lengths.max())))
        start = end
    return _restore(parts, np.arange(n))


@torch.inference_mode()
def _run_sorted(work: Workload, model: BertForSequenceClassification, size: int, n: int) -> np.ndarray:
    texts = [item.text for item in work.items[:n]]
    order, parts = np.argsort([-len(text) for text in texts], kind="stable"), []
    for start in range(0, n, size):
        batch = [texts[i] for i in order[start : start + size]]
        feeds = work.tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(model.device)
        parts.append(model(**feeds).logits)
    return _restore(parts, order)


def _run_pipeline(work: Workload, classify: Any, size: int, n: int) -> np.ndarray:
    texts = [item.text for item in work.items[:n]]
    # It returns labels by falling score; walking over them is part of what its users wait for.
    rows = classify(texts, batch_size=size, truncation=True)
    return np.array([[entry["score"] for entry in row] for row in rows])


def _restore(parts: list[Tensor], rows: np.ndarray) -> np.ndarray:
    """One copy off the device at the end, so that batches queue up there."""
    values = torch.cat(parts).float().cpu().numpy()
    logits = np.empty_like(values)
    logits[rows] = values
    return logits

"""The n-gram branch as nodes of an ONNX graph, added behind any exported encoder.

Standard operators, integers and float32 whatever the encoder's precision. Nothing is hashed and nothing is rounded by
the company a text has: n-grams are looked up in a double-array trie, repeats are counted by comparing a text's n-grams
with each other, and functions of the counts are read from tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from shudun.session import INPUTS, OUTPUTS
from shudun_training.fused_graph import GraphBuilder
from shudun_training.ngram_branch.branch import NgramBranch
from shudun_training.ngram_branch.dictionary import NOT_KEPT
from shudun_training.ngram_branch.double_array import build_double_array
from shudun_training.ngram_branch.features import term_frequency

LOGITS = OUTPUTS[0]
ENCODER_LOGITS, BRANCH_LOGITS = "encoder.logits", "ngram.logits"
"""Values inside a graph with a branch: the logits of its parts, each `(batch, num_labels)`."""


def add_branch(graph: bytes, branch: NgramBranch) -> bytes:
    """A graph whose logits are the weighted sum of those of `graph` and of the branch; all else is as before.

    Args:
        graph: inputs and outputs as in `onnx_export`, opset 13 or later.
        branch: of the same tokenizer and labels.
    """
    model = onnx.load_from_string(graph)
    _rename(model.graph, LOGITS, ENCODER_LOGITS)
    builder = GraphBuilder()
    _branch_logits(builder, branch)
    parts = [
        _scaled(builder, ENCODER_LOGITS, branch.weights.encoder),
        _scaled(builder, BRANCH_LOGITS, branch.weights.branch),
    ]
    builder.add("Add", parts, output=LOGITS)
    builder.extend(model.graph)
    return bytes(model.SerializeToString())


def part_graph(graph: bytes, part: str) -> bytes:
    """A graph with a branch whose logits are those of one part, `ENCODER_LOGITS` or `BRANCH_LOGITS`, alone."""
    model = onnx.load_from_string(graph)
    _rename(model.graph, LOGITS, "blended.logits")
    builder = GraphBuilder()
    builder.add("Identity", [part], output=LOGITS)
    builder.extend(model.graph)
    return bytes(model.SerializeToString())


def _branch_logits(builder: GraphBuilder, branch: NgramBranch) -> None:
    """`BRANCH_LOGITS`: for each label the sum of `tf · idf · coefficient` over the norm, and the bias.

    A sum over n-grams is one over their occurrences, each with its share, `tf / count`, and the squared norm that of
    `tf² / count · idf²`. Both are one product per text, `(2, places) x (places, num_labels + 1)`.
    """
    numbers = _numbers(builder, branch)
    shares = [_shares(builder, name, branch.max_length) for name in numbers]
    every = _concat(builder, numbers, output="ngram.numbers", axis=1)
    left = _concat(builder, shares, output="ngram.shares", axis=2)
    idf = branch.idf.astype(np.float64)[:, None]
    columns = np.concatenate([branch.coefficients * idf, idf**2], axis=1)
    # What is not kept adds nothing.
    table = np.concatenate([np.zeros((NOT_KEPT + 1, columns.shape[1])), columns]).astype(np.float32)
    rows = builder.add("Gather", [builder.constant("ngram.table", table), every], output="ngram.rows")
    sums = builder.add("MatMul", [left, rows], output="ngram.sums")
    labels = len(branch.bias)
    dot = _part(builder, sums, begin=(0, 0), end=(1, labels), output="ngram.dot")
    square = _part(builder, sums, begin=(1, labels), end=(2, labels + 1), output="ngram.square")
    # An idf is at least 1, so a text has a norm of at least 1, or no n-gram at all and nothing to divide.
    one = builder.constant("ngram.one", np.ones((), dtype=np.float32))
    norm = builder.add("Sqrt", [builder.add("Max", [square, one], output="ngram.square.least")], output="ngram.norm")
    cosine = builder.add("Div", [dot, norm], output="ngram.linear.rows")
    linear = builder.add("Squeeze", [cosine, _integers(builder, 1)], output="ngram.linear")
    builder.add("Add", [linear, builder.constant("ngram.bias", branch.bias)], output=BRANCH_LOGITS)


def _numbers(builder: GraphBuilder, branch: NgramBranch) -> list[str]:
    """For each order the number of the n-gram at each place, `(batch, seq_len + 1 - order)`; padding ends n-grams."""
    tables = build_double_array(branch.dictionary, branch.vocab_size)
    real = builder.add("Cast", ["attention_mask"], output="ngram.real", to=TensorProto.BOOL)
    padding = builder.constant("ngram.padding", np.array(branch.vocab_size, dtype=np.int64))
    wide = builder.add("Where", [real, INPUTS[0], padding], output="ngram.tokens.int64")
    tokens = builder.add("Cast", [wide], output="ngram.tokens", to=TensorProto.INT32)

    def read(table: str, places: str, output: str) -> str:
        constant = builder.constant(f"ngram.trie.{table}", getattr(tables, table))
        return builder.add("Gather", [constant, places], output=output)

    numbers = [read("single", tokens, "ngram.1.number")]
    none = builder.constant("ngram.none", np.array(NOT_KEPT, dtype=np.int32))
    for order in range(2, len(branch.dictionary.sizes) + 1):
        name = f"ngram.{order}"
        prefix = _slice(builder, numbers[-1], 0, -1, output=f"{name}.prefix")
        last = _slice(builder, tokens, order - 1, np.iinfo(np.int64).max, output=f"{name}.token")
        place = builder.add("Add", [read("base", prefix, f"{name}.base"), last], output=f"{name}.place")
        known = builder.add("Equal", [read("check", place, f"{name}.check"), prefix], output=f"{name}.known")
        choice = [known, read("number", place, f"{name}.entry"), none]
        numbers.append(builder.add("Where", choice, output=f"{name}.number"))
    return numbers


def _shares(builder: GraphBuilder, numbers: str, max_length: int) -> str:
    """`tf / count` and `tf² / count` of each place, `(batch, 2, places)`.

    Counts are sums of ones, which no order of adding changes. What is not kept is counted too, and weighs nothing.
    """
    columns = builder.add("Unsqueeze", [numbers, _integers(builder, 2)], output=f"{numbers}.columns")
    rows = builder.add("Unsqueeze", [numbers, _integers(builder, 1)], output=f"{numbers}.rows")
    same = builder.add("Equal", [columns, rows], output=f"{numbers}.same")
    ones = builder.add("Cast", [same], output=f"{numbers}.ones", to=TensorProto.INT32)
    count = builder.add("ReduceSum", [ones, _integers(builder, 1)], output=f"{numbers}.count")
    counts = np.arange(1, max_length + 1, dtype=np.float64)
    frequency = term_frequency(counts)
    table = np.concatenate([[0.0], frequency / counts, [0.0], frequency**2 / counts]).astype(np.float32)
    offsets = builder.constant("ngram.share.offsets", np.array([[0], [max_length + 1]], dtype=np.int32))
    place = builder.add("Add", [count, offsets], output=f"{numbers}.share.place")
    return builder.add("Gather", [builder.constant("ngram.share", table), place], output=f"{numbers}.share")


def _part(builder: GraphBuilder, x: str, *, begin: Sequence[int], end: Sequence[int], output: str) -> str:
    """A block of the last two axes of `x` `(batch, rows, columns)`."""
    limits = [_integers(builder, *begin), _integers(builder, *end), _integers(builder, 1, 2)]
    return builder.add("Slice", [x, *limits], output=output)


def _slice(builder: GraphBuilder, x: str, begin: int, end: int, *, output: str) -> str:
    limits = [_integers(builder, value) for value in (begin, int(end), 1)]
    return builder.add("Slice", [x, *limits], output=output)


def _concat(builder: GraphBuilder, names: Sequence[str], *, output: str, axis: int) -> str:
    return names[0] if len(names) == 1 else builder.add("Concat", names, output=output, axis=axis)


def _scaled(builder: GraphBuilder, x: str, weight: float) -> str:
    constant = builder.constant(f"{x}.weight", np.array(weight, dtype=np.float32))
    return builder.add("Mul", [x, constant], output=f"{x}.weighted")


def _integers(builder: GraphBuilder, *values: int) -> str:
    # Not GraphBuilder.int64: the graph that is extended may hold constants of those names already.
    return builder.constant(f"ngram.int64.{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give an inner value another name, wherever it is written or read."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new

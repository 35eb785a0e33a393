"""The branch as a file of a checkpoint folder: `ngram_branch.safetensors`, which `transformers` does not look at.

Numbers are tensors, the rest is JSON in the file's header: version, sizes, weights, labels, and the sha256 of the
tokenizer whose ids the n-grams are made of.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from shudun.errors import ShudunError
from shudun.taxonomy import Taxonomy
from shudun.tokenization import ItemTokenizer
from shudun_training.ngram_branch.branch import BlendWeights, NgramBranch
from shudun_training.ngram_branch.dictionary import NgramDictionary

BRANCH_FILE = "ngram_branch.safetensors"
HEADER = "ngram_branch"
TENSORS = {"prefix": np.int32, "token": np.int32, "idf": np.float32, "coefficients": np.float32, "bias": np.float32}


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = 1
    tokenizer_sha256: str
    max_length: int = Field(ge=8)
    labels: list[str] = Field(min_length=1)
    sizes: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    encoder_weight: float = Field(ge=0, allow_inf_nan=False)
    branch_weight: float = Field(ge=0, allow_inf_nan=False)


def save_branch(branch: NgramBranch, folder: Path, tokenizer: ItemTokenizer, taxonomy: Taxonomy) -> None:
    """Write `ngram_branch.safetensors` into a checkpoint folder."""
    header = _Header(
        tokenizer_sha256=_sha256(tokenizer),
        max_length=branch.max_length,
        labels=list(taxonomy.label_ids),
        sizes=list(branch.dictionary.sizes),
        encoder_weight=branch.weights.encoder,
        branch_weight=branch.weights.branch,
    )
    tensors = {
        "prefix": branch.dictionary.prefix,
        "token": branch.dictionary.token,
        "idf": branch.idf,
        "coefficients": branch.coefficients,
        "bias": branch.bias,
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(contiguous, folder / BRANCH_FILE, metadata={HEADER: header.model_dump_json()})


def load_branch(folder: Path, tokenizer: ItemTokenizer, taxonomy: Taxonomy) -> NgramBranch | None:
    """Read the branch of a checkpoint folder; `None` where it has none.

    Raises:
        ShudunError: the file is damaged, or made for another tokenizer, length or list of labels.
    """
    path = folder / BRANCH_FILE
    if not path.exists():
        return None
    header, arrays = _read(path)
    expected = {
        "tokenizer": (header.tokenizer_sha256, _sha256(tokenizer)),
        "max_length": (header.max_length, tokenizer.max_length),
        "labels": (header.labels, list(taxonomy.label_ids)),
    }
    if foreign := [f"{name} {there}, here {here}" for name, (there, here) in expected.items() if there != here]:
        raise ShudunError(f"{path}: made for another model ({'; '.join(foreign)}); take the one of this run, or train")
    if problem := _problem(header, arrays, tokenizer.vocab_size):
        raise _damaged(path, problem)
    return NgramBranch(
        dictionary=NgramDictionary(arrays["prefix"], arrays["token"], tuple(header.sizes)),
        idf=arrays["idf"],
        coefficients=arrays["coefficients"],
        bias=arrays["bias"],
        vocab_size=tokenizer.vocab_size,
        max_length=header.max_length,
        weights=BlendWeights(header.encoder_weight, header.branch_weight),
    )


def _read(path: Path) -> tuple[_Header, dict[str, NDArray[Any]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            header = _Header.model_validate_json((file.metadata() or {}).get(HEADER, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    except ValidationError as error:
        raise _damaged(path, f"header: {json.dumps(error.errors(include_url=False), default=str)}") from error
    return header, arrays


def _problem(header: _Header, arrays: dict[str, NDArray[Any]], vocab_size: int) -> str | None:
    """What is wrong with the tensors of a readable file, or `None`."""
    ngrams, labels = sum(header.sizes), len(header.labels)
    shapes = dict.fromkeys(("prefix", "token", "idf"), (ngrams,)) | {
        "coefficients": (ngrams, labels),
        "bias": (labels,),
    }
    found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    expected = {name: (np.dtype(kind), shapes[name]) for name, kind in TENSORS.items()}
    if found != expected:
        return f"expected tensors {expected}, got {found}"
    if (
        any(not np.isfinite(arrays[name]).all() for name in ("idf", "coefficients", "bias"))
        or (arrays["idf"] < 1).any()
    ):
        return "expected finite numbers, and an idf of at least 1"
    return _dictionary_problem(arrays["prefix"], arrays["token"], header.sizes, vocab_size)


def _dictionary_problem(
    prefix: NDArray[np.int32], token: NDArray[np.int32], sizes: list[int], vocab_size: int
) -> str | None:
    if not len(token) or token.min() < 0 or token.max() >= vocab_size:
        return f"expected tokens below {vocab_size}"
    ends = np.cumsum([0, *sizes])
    for order, (begin, end) in enumerate(pairwise(ends.tolist()), 1):
        shorter = (ends[order - 2] + 1, begin) if order > 1 else (0, 0)
        here = prefix[begin:end]
        if ((here < shorter[0]) | (here > shorter[1])).any():
            return f"expected prefixes of order {order} from {shorter[0]} to {shorter[1]}"
        keys = here.astype(np.int64) * vocab_size + token[begin:end]
        if (np.diff(keys) <= 0).any():
            return f"expected n-grams of order {order} sorted and each once"
    return None


def _damaged(path: Path, problem: str) -> ShudunError:
    return ShudunError(f"{path}: damaged: {problem}; copy it again, or train again")


def _sha256(tokenizer: ItemTokenizer) -> str:
    return hashlib.sha256(tokenizer.to_json().encode("utf-8")).hexdigest()

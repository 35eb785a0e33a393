"""What an n-gram branch costs: the same int8 encoder with and without it, in turn, in one run.

python scripts/bench_ngram_branch.py [--shape 4x256] [--rounds 9] [--profile] [--json OUT]

Random encoder weights; a branch fitted on the training rows of shudun-xhs; cuts of those rows as texts, with log-normal
lengths of about 27 tokens. Times are of one thread, tokenising included, in CPU seconds of the process, since machines
are shared. `--profile` prints the share of each of the branch's operators.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import BertConfig, BertForSequenceClassification

from shudun import Comment
from shudun.batching import plan_batches
from shudun.benchmark import MEDIAN_CHARACTERS, SPREAD
from shudun.items import Item
from shudun.rendering import plain_text
from shudun.scorer import BATCHING
from shudun.session import OUTPUTS, GraphSession
from shudun.tokenization import ItemTokenizer
from shudun_training.config import NgramBranchConfig, SourceConfig, load_taxonomy
from shudun_training.examples import label_matrix
from shudun_training.export_graph import export_graph
from shudun_training.ngram_branch.fitting import fit_branch
from shudun_training.provenance import environment
from shudun_training.sources import load_examples
from shudun_training.vocabulary import train_tokenizer

ROOT = Path(__file__).parents[1]
VOCABULARY = 8000
MAX_LENGTH = 288
TEXTS = 1500


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    taxonomy = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
    source = SourceConfig(path=str(ROOT / "data_cards" / "shudun-xhs"), split="train")
    examples, _ = load_examples([source], taxonomy, on_bad_row="fail", rejected_dir=Path("unused"))
    rows = [example.item for example in examples]
    corpus = [plain_text(item) for item in rows]
    tokenizer = ItemTokenizer(train_tokenizer(corpus, vocab_size=VOCABULARY).to_str(), max_length=MAX_LENGTH)
    section = NgramBranchConfig(max_order=arguments.max_order)
    branch = fit_branch(rows, label_matrix(examples, taxonomy), tokenizer, **section.model_dump())
    model = random_model(arguments.shape, tokenizer.vocab_size, len(taxonomy.labels))
    graphs = {
        name: export_graph(model, precision="int8", encoder=tokenizer, calibration_items=rows, branch=added).graph
        for name, added in (("encoder", None), ("with branch", branch))
    }
    items = cut_texts(corpus, TEXTS)
    mean_tokens = float(tokenizer.encode(items).lengths.mean())
    seconds = measure(graphs, tokenizer, items, arguments.rounds)
    ratio = statistics.median(a / b for a, b in zip(seconds["with branch"], seconds["encoder"], strict=True))
    result = {
        "shape": arguments.shape,
        "mean_tokens": mean_tokens,
        "branch": branch.summary(),
        "graph_bytes": {name: len(graph) for name, graph in graphs.items()},
        "texts_per_cpu_second": {name: TEXTS / statistics.median(times) for name, times in seconds.items()},
        "median_ratio_of_times": ratio,
        "environment": environment(),
    }
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=2))
    if arguments.profile:
        for name, share in profile(graphs["with branch"], tokenizer, items).most_common(16):
            print(f"{share:7.2%}  {name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def random_model(shape: str, vocab_size: int, num_labels: int) -> BertForSequenceClassification:
    layers, hidden = map(int, shape.split("x"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden, max_position_embeddings=MAX_LENGTH, num_labels=num_labels,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def cut_texts(corpus: list[str], count: int) -> list[Item]:
    """Pieces of the texts, so that the n-grams are real ones."""
    rng = np.random.default_rng(0)
    joined = "".join(corpus)
    lengths = np.clip(np.round(rng.lognormal(np.log(MEDIAN_CHARACTERS), SPREAD, count)), 2, 250).astype(int)
    starts = rng.integers(0, len(joined) - 250, count)
    return [Comment(joined[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def measure(
    graphs: dict[str, bytes], tokenizer: ItemTokenizer, items: list[Item], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of each graph in each round; every round runs all of them once, in turn."""
    sessions = {name: GraphSession(graph, device="cpu", threads=1) for name, graph in graphs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    for done in range(rounds + 1):
        for name, session in sessions.items():
            started = time.process_time()
            session.start(tokenizer.encode(items), BATCHING["cpu"])()
            if done:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    return seconds


def profile(graph: bytes, tokenizer: ItemTokenizer, items: list[Item]) -> Counter[str]:
    """Share of the time of all nodes, the encoder's in one, the branch's by operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    encoded = tokenizer.encode(items)
    for planned in plan_batches(encoded.lengths, BATCHING["cpu"], max_length=encoded.max_length):
        session.run(list(OUTPUTS), encoded.batch(*planned).feeds())
    path = Path(session.end_profiling())
    times: Counter[str] = Counter()
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            own = event["name"].startswith("ngram.")
            times[f"branch {event['args']['op_name']}" if own else "encoder"] += event["dur"]
    path.unlink()
    total = sum(times.values())
    return Counter({name: spent / total for name, spent in times.items()})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4x256", help="layers x width")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-order", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Put a pre-trained encoder and a fine-tuned run into the packages, for `encoder: builtin` and `Scorer.builtin()`.

python scripts/make_builtin.py --encoder runs/pretrain-compact/encoder --run runs/xhs-builtin

The encoder is stored in fp16 with its masked-language-model head and a pooler that is the identity. The bundle is int8;
paths of its sources are written relative to the repository, so that nothing of the machine that made it is in it. The
model card (training/shudun_training/builtin_encoder/README.md) is written by hand and kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from shudun.builtin import BUILTIN_BUNDLE
from shudun.bundle import MANIFEST, read_bundle
from shudun_training.builtin import BUILTIN_ENCODER
from shudun_training.pipeline import export

ROOT = Path(__file__).resolve().parents[1]
POOLER = "bert.pooler.dense"
MOST_PARAMETERS = 14_000_000
MOST_BUNDLE_BYTES = 16_000_000


def write_encoder(source: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > MOST_PARAMETERS:
        raise SystemExit(f"{source}: {parameters:,} parameters, at most {MOST_PARAMETERS:,} are shipped")
    # What fine-tuning takes from the configuration; pre-training has no use for dropout.
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    weights = {name: weight.to(torch.float16) for name, weight in model.state_dict().items()}
    # Pre-training read [CLS] without a pooler: one that changes nothing is a better start than random weights.
    width = model.config.hidden_size
    weights |= {POOLER + ".weight": torch.eye(width), POOLER + ".bias": torch.zeros(width)}
    model.to(torch.float16).save_pretrained(BUILTIN_ENCODER)
    tied = set(model.all_tied_weights_keys)
    kept = {name: weight.to(torch.float16).contiguous() for name, weight in weights.items() if name not in tied}
    save_file(kept, BUILTIN_ENCODER / "model.safetensors", {"format": "pt"})
    AutoTokenizer.from_pretrained(source).save_pretrained(BUILTIN_ENCODER)
    print(f"{BUILTIN_ENCODER.relative_to(ROOT)}: {parameters:,} parameters, {_megabytes(BUILTIN_ENCODER):.1f} MB")


def write_bundle(run: Path) -> None:
    export(run, output=BUILTIN_BUNDLE, precision="int8")
    path = BUILTIN_BUNDLE / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for records in manifest["provenance"]["sources"].values():
        for record in records:
            record["path"] = str(Path(record["path"]).relative_to(ROOT))
    path.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    read_bundle(BUILTIN_BUNDLE)
    size = _megabytes(BUILTIN_BUNDLE)
    if size * 1e6 > MOST_BUNDLE_BYTES:
        raise SystemExit(f"{BUILTIN_BUNDLE}: {size:.1f} MB, at most {MOST_BUNDLE_BYTES / 1e6:.0f} MB are shipped")
    print(f"{BUILTIN_BUNDLE.relative_to(ROOT)}: {size:.1f} MB")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="folder that `shudun pretrain` wrote (RUN/encoder)")
    parser.add_argument("--run", type=Path, help="finished run folder of `shudun train`")
    arguments = parser.parse_args()
    if arguments.encoder is None and arguments.run is None:
        parser.error("give --encoder, --run or both")
    if arguments.encoder is not None:
        write_encoder(arguments.encoder)
    if arguments.run is not None:
        write_bundle(arguments.run)


if __name__ == "__main__":
    main()

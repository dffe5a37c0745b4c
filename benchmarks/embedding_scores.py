"""Scores of vectors of texts on STS-B, before and after training on pairs: ours against sentence-transformers' trainer.

python -m benchmarks.embedding_scores --model=MODEL --pairs=MNLI/train.tsv --scored=STS-B/dev.tsv --out=DIR \
    [--rates=5e-5,1e-4,2e-4] [--seeds=3] [--epochs=1]

MODEL is a Hugging Face folder or a hub id. sentence-transformers' trainer needs accelerate: pip install accelerate.

All start from the same weights, with mean pooling, and train on the same pairs (those labelled entailment) for as many
steps, at the same rates, with the same batch, length, schedule and optimiser. Order and dropout are their own. `ours`
is python -m finetune with all rates and seeds in one command; its dropout is that of the model's config, as the
trainer's. All are scored after their last step by `finetune.evaluate_vectors`.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from base.schema import build
from data.labelled.config import LabelledConfig
from data.labelled.examples import Examples
from data.labelled.open import open_labelled
from finetune.config import FinetuneConfig
from finetune.evaluate_vectors import evaluate_vectors

MODEL = flags.DEFINE_string("model", None, "the pretrained model", required=True)
PAIRS = flags.DEFINE_string("pairs", None, "MNLI's training pairs, a tsv file", required=True)
SCORED = flags.DEFINE_string("scored", None, "STS-B's pairs with scores, a tsv file", required=True)
OUT = flags.DEFINE_string("out", None, "the folder of the results, made if need be", required=True)
RATES = flags.DEFINE_list("rates", ["5e-5", "1e-4", "2e-4"], "peak learning rates")
SEEDS = flags.DEFINE_integer("seeds", 1, "runs of each rate")
EPOCHS = flags.DEFINE_integer("epochs", 1, "passes over the pairs")
WHO = flags.DEFINE_list("contestants", ["before", "ours", "trainer"], "who takes part")

BATCH, MAX_LENGTH, TEMPERATURE, WARMUP_RATIO, WEIGHT_DECAY = 64, 64, 0.05, 0.1, 0.01
LAST_STEP_ONLY = 1 << 30
"""Steps between evaluations, more than there are."""

Found = dict[str, list[float]]
"""Spearman of each seed, by learning rate."""


def data_fields() -> dict[str, Any]:
    """The fields of config.data that read the pairs."""
    return {
        "source": "files",
        "train": PAIRS.value,
        "validation": SCORED.value,
        "text": "sentence1",
        "text_pair": "sentence2",
        "label": "gold_label",
        "positive_labels": ["entailment"],
    }


def spearman(model: str) -> float:
    """Of the vectors of a model."""
    config = build(FinetuneConfig, {"kind": "embedding", "data": data_fields(), "init_from": model})
    return evaluate_vectors(config, model)[1]["spearman"]


def before() -> Found:
    """Of the model before any training."""
    return {"": [spearman(MODEL.value)]}


def ours() -> Found:
    """Train all rates and seeds by the command that users have."""
    fields = {f"data.{name}": value for name, value in data_fields().items()} | {
        "init_from": MODEL.value,
        "learning_rates": ",".join(RATES.value),
        "data.positive_labels": "entailment",
        "seeds": SEEDS.value,
        "epochs": EPOCHS.value,
        "global_batch": BATCH,
        "max_length": MAX_LENGTH,
        "embedding.pooling": "mean",
        "embedding.temperature": TEMPERATURE,
        "schedule.warmup_ratio": WARMUP_RATIO,
        "optimizer.weight_decay": WEIGHT_DECAY,
        "eval.every": LAST_STEP_ONLY,
    }
    folder = Path(OUT.value) / "ours"
    command = [sys.executable, "-m", "finetune", "--config=configs/embedding.py", f"--workdir={folder}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    if subprocess.run(command).returncode:
        raise SystemExit(f"it has failed: {shlex.join(command)}")
    found: Found = {}
    for run in json.loads((folder / "results.json").read_text())["runs"]:
        found.setdefault(f"{run['learning_rate']:g}", []).append(run["last"]["spearman"])
    return found


def trainer() -> Found:
    """Train by sentence-transformers' trainer, run by run."""
    config = build(LabelledConfig, data_fields())
    pairs = open_labelled(config, "", ("train",), pairs=True).train
    assert isinstance(pairs, Examples)
    return {
        f"{float(rate):g}": [trained(float(rate), seed, pairs) for seed in range(SEEDS.value)]
        for rate in RATES.value
    }


def trained(rate: float, seed: int, pairs: Examples) -> float:
    """Spearman after a run of sentence-transformers' trainer."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    encoder = Transformer(MODEL.value, max_seq_length=MAX_LENGTH)
    width = encoder.auto_model.config.hidden_size
    model = SentenceTransformer(modules=[encoder, Pooling(width, "mean"), Normalize()], device="cpu")
    folder = Path(OUT.value) / "trainer" / f"{rate:g}-{seed}"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "work"),
        num_train_epochs=EPOCHS.value,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP_RATIO,
        optim="adamw_torch",
        weight_decay=WEIGHT_DECAY,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": pairs.first, "positive": pairs.second}),
        loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
    ).train()
    model.save(str(folder / "model"))
    return spearman(str(folder / "model"))


CONTESTANTS = {"before": before, "ours": ours, "trainer": trainer}


def main(argv: list[str]) -> None:
    """Make the runs that are not yet made, and print a table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| | learning rate | STS-B Spearman | runs | seconds of all runs |", "|---|---|---|---|---|"]
    for who in WHO.value:
        kept = folder / f"{who}.json"
        if not kept.exists():
            start = time.perf_counter()
            values = {"scores": CONTESTANTS[who](), "seconds": round(time.perf_counter() - start, 1)}
            kept.write_text(json.dumps(values, indent=2) + "\n")
        found = json.loads(kept.read_text())
        for rate, scores in found["scores"].items():
            std = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
            mean = f"{100 * statistics.fmean(scores):.2f}{std}"
            lines.append(f"| {who} | {rate} | {mean} | {len(scores)} | {found['seconds']} |")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)

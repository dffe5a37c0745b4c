"""Scores of fine-tuning on GLUE: ours against transformers' Trainer, and against a random start.

python -m benchmarks.finetune_scores --model=MODEL --glue=GLUE_FOLDER --out=DIR [--tasks=mrpc,stsb] [--seeds=3]

MODEL is a workdir of pretraining, a Hugging Face folder or a hub id; GLUE_FOLDER holds CoLA, MRPC, ... as tsv files.
transformers' Trainer needs accelerate: pip install accelerate.

The contestants: `ours` is python -m finetune with all seeds as one program. `trainer` is transformers' Trainer in
float32, with one run for each seed. It has the same initial weights as ours (each seed's head included) and the same
hyperparameters, but its own data order and dropout masks. `random` is ours from weights that transformers drew.
All are scored after their last step on the whole evaluation set, by the same functions. Their scores are kept in
DIR/TASK/CONTESTANT.json and not computed again. So a benchmark that was stopped goes on.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.comparison import distance, p_value, shown, trainer_arguments, write_random_weights
from data.labelled.config import LabelledConfig
from data.labelled.examples import Examples
from data.labelled.open import open_labelled
from data.labelled.tasks import TASKS, Task

MODEL = flags.DEFINE_string("model", None, "the pretrained model", required=True)
GLUE = flags.DEFINE_string("glue", None, "the folder of GLUE's tsv files", required=True)
OUT = flags.DEFINE_string("out", None, "the folder of the results, made if need be", required=True)
CHOSEN = flags.DEFINE_list("tasks", ["sst2", "mrpc", "stsb", "cola", "rte", "wnli"], "tasks, in this order")
WHO = flags.DEFINE_list("contestants", ["ours", "trainer", "random"], "who takes part")
SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each contestant")
LEARNING_RATE = flags.DEFINE_float("learning_rate", 3e-4, "peak learning rate")
EXAMPLES = flags.DEFINE_integer("max_train_examples", 20_000, "train on the first so many examples; 0: all")
EPOCHS = flags.DEFINE_integer("epochs", 1, "passes over the training examples")

RANDOM_START = ("mrpc", "stsb", "sst2")
"""The tasks that can show what pretraining is worth."""
BATCH, MAX_LENGTH, DROPOUT, WARMUP_RATIO = 32, 128, 0.1, 0.06
WEIGHT_DECAY, BETA1, BETA2, EPS, CLIP_NORM = 0.01, 0.9, 0.999, 1e-8, 1.0
LAST_STEP_ONLY = 1 << 30
"""Steps between evaluations, more than there are."""

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all contestants of a task have in common."""

    model: str
    seeds: int
    epochs: int
    learning_rate: float
    max_train_examples: int
    batch: int = BATCH
    max_length: int = MAX_LENGTH
    dropout: float = DROPOUT
    warmup_ratio: float = WARMUP_RATIO


def wanted_settings() -> Settings:
    """The settings of the flags."""
    return Settings(MODEL.value, SEEDS.value, EPOCHS.value, LEARNING_RATE.value, EXAMPLES.value)


def ours(task: str, settings: Settings, folder: Path) -> list[Scores]:
    """Train all seeds as one program by the command that users have."""
    fields = {
        "init_from": settings.model,
        "seeds": settings.seeds,
        "epochs": settings.epochs,
        "global_batch": settings.batch,
        "max_length": settings.max_length,
        "data.source": "folder",
        "data.path": GLUE.value,
        "data.max_train_examples": settings.max_train_examples,
        "optimizer.learning_rate": settings.learning_rate,
        "optimizer.weight_decay": WEIGHT_DECAY,
        "optimizer.beta1": BETA1,
        "optimizer.beta2": BETA2,
        "optimizer.eps": EPS,
        "optimizer.clip_norm": CLIP_NORM,
        "schedule.warmup_ratio": settings.warmup_ratio,
        "model.dropout": settings.dropout,
        "model.attention_dropout": settings.dropout,
        "eval.every": LAST_STEP_ONLY,
        "eval.tests": False,
    }
    command = [sys.executable, "-m", "finetune", f"--config=configs/glue.py:{task}", f"--workdir={folder}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{task} has failed: {shlex.join(command)}")
    found = json.loads((folder / "results.json").read_text())
    return [run["last"] for run in found["runs"]]


def from_random_weights(task: str, settings: Settings, folder: Path) -> list[Scores]:
    """Train ours from a network of the same config and tokenizer that has learned nothing."""
    start = Path(OUT.value) / "random_weights"
    if not (start / "config.json").exists():
        write_random_weights(settings.model, start, MAX_LENGTH)
    return ours(task, dataclasses.replace(settings, model=str(start)), folder)


def trainer(task: str, settings: Settings, folder: Path) -> list[Scores]:
    """Train by transformers' Trainer, seed by seed."""
    data = open_labelled(
        LabelledConfig(source="folder", path=GLUE.value, max_train_examples=settings.max_train_examples), task
    )
    assert data.train is not None
    (evaluation,) = data.evaluations.values()
    results = []
    for seed in range(settings.seeds):
        start = folder / f"start_{seed}"
        write_start(data.task, settings.model, seed, start)
        results.append(train_seed(data.task, settings, seed, start, data.train, evaluation))
    return results


def write_start(task: Task, model: str, seed: int, folder: Path) -> None:
    """Write the start of our run of this seed as a folder in transformers' format."""
    import jax
    from etils import epath

    from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
    from finetune.job import sources
    from pretrain.optim.train_state import PARAMS, random_key
    from tokenizer import load as tokenizers

    weights, tokenizer = sources(model)
    start = load_encoder_for_classification(weights, task.labels)
    drawn = jax.tree.map(np.asarray, start.classifier.init_head(random_key(seed, PARAMS)))
    head = {
        name: drawn[name] if name in start.fresh_head else kept for name, kept in start.params["head"].items()
    }
    params = {**start.params, "head": head}
    loaded = tokenizers.load(tokenizer)
    save_classifier(epath.Path(folder), start.classifier, params, start.config, task.labels, loaded)


def train_seed(
    task: Task, settings: Settings, seed: int, start: Path, train: Examples, evaluation: Examples
) -> Scores:
    """One run of transformers' Trainer, and its scores."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
    )

    from finetune.population.evaluation import scores_of as scores_and_loss_of

    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForSequenceClassification.from_pretrained(
        start,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        classifier_dropout=settings.dropout,
    )

    def encoded(examples: Examples) -> list[dict[str, Any]]:
        texts = [examples.first] if examples.second is None else [examples.first, examples.second]
        rows = tokenizer(*texts, truncation=True, max_length=settings.max_length)
        assert examples.labels is not None
        return [
            {**{name: values[index] for name, values in rows.items()}, "labels": label}
            for index, label in enumerate(examples.labels.tolist())
        ]

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(
            folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=64,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_ratio,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETA1,
            adam_beta2=BETA2,
            adam_epsilon=EPS,
            max_grad_norm=CLIP_NORM,
            seed=seed,
        )
        hugging_face = Trainer(
            model=model,
            args=arguments,
            train_dataset=encoded(train),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        hugging_face.train()
        logits = hugging_face.predict(encoded(evaluation)).predictions
    assert evaluation.labels is not None
    return scores_and_loss_of(task, logits, evaluation.labels)


CONTESTANTS: Mapping[str, Callable[[str, Settings, Path], list[Scores]]] = {
    "ours": ours,
    "trainer": trainer,
    "random": from_random_weights,
}


def scores_of(task: str, who: str) -> list[Scores]:
    """A contestant's scores of each seed: those kept, or those of runs that are now made."""
    folder = Path(OUT.value) / task / who
    kept, wanted = folder.with_suffix(".json"), dataclasses.asdict(wanted_settings())
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["settings"] != wanted:
            raise SystemExit(f"{kept} is of other settings; set another --out: {found['settings']}")
        return found["scores"]
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{TASKS[task].title}: {who}", flush=True)
    start = time.perf_counter()
    scores = CONTESTANTS[who](task, wanted_settings(), folder)
    seconds = round(time.perf_counter() - start, 1)
    kept.write_text(json.dumps({"settings": wanted, "seconds": seconds, "scores": scores}, indent=2) + "\n")
    return scores


def takes_part(task: str, who: str) -> bool:
    """Whether there is a run to make: a random start only of tasks that can show a difference."""
    return who != "random" or task in RANDOM_START


def table(found: Mapping[str, Mapping[str, Sequence[Scores]]]) -> str:
    """A Markdown table with a row for each metric: mean and standard deviation over the seeds, in per cent."""
    lines = [
        "| task | metric | ours | Trainer | difference / std | p | random start | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, contestants in found.items():
        for metric in TASKS[task].metrics:
            of = {who: [run[metric] for run in runs] for who, runs in contestants.items()}
            mine, theirs, random = (of.get(who, []) for who in ("ours", "trainer", "random"))
            cells = [TASKS[task].title, metric, shown(mine), shown(theirs), distance(mine, theirs)]
            lines.append(
                f"| {' | '.join([*cells, p_value(mine, theirs), shown(random), p_value(mine, random)])} |"
            )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Make the runs that are not yet made, and print the table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = {
        task: {who: scores_of(task, who) for who in WHO.value if takes_part(task, who)}
        for task in CHOSEN.value
    }
    print(table(found))


if __name__ == "__main__":
    app.run(main)

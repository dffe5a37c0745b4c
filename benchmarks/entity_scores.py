"""Scores of entities: ours against transformers' Trainer as its token classification script runs it.

python -m benchmarks.entity_scores --model=MODEL --train=FILE --test=FILE --out=DIR [--seeds=3]

MODEL is a folder in transformers' format, such as an export. The files have a word a line, with columns for the word
(--text=0) and its tag (--label=2). transformers' Trainer needs accelerate: pip install accelerate.

The contestants: `ours` is python -m finetune with all seeds as one program, `bfloat16` is the same in that type,
`trainer` is transformers' Trainer in float32, with one run a seed, `trainer-bfloat16` is the same with autocast, and
`random` is ours from weights that transformers drew. All label the first piece of a word, cut at --max_length pieces,
have the same hyperparameters and are scored by the same function, after their last step, on the test file. Words that
are cut off count as outside of entities.
Results are kept in DIR, and not computed again.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from base.schema import build
from benchmarks.comparison import distance, p_value, shown, trainer_arguments, write_random_weights
from data.labelled.config import LabelledConfig
from data.labelled.open import open_labelled
from data.labelled.sentences import Sentences
from finetune.results.entities import entity_scores

MODEL = flags.DEFINE_string("model", None, "the pretrained model", required=True)
TRAIN = flags.DEFINE_string("train", None, "sentences to train on", required=True)
TEST = flags.DEFINE_string("test", None, "sentences that all are scored on", required=True)
TEXT = flags.DEFINE_string("text", "0", "the column of the word")
LABEL = flags.DEFINE_string("label", "2", "the column of the tag")
OUT = flags.DEFINE_string("out", None, "the folder of the results, made if need be", required=True)
WHO = flags.DEFINE_list("contestants", ["ours", "bfloat16", "trainer", "random"], "who takes part")
SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each contestant")
RATE = flags.DEFINE_float("learning_rate", 5e-4, "peak learning rate")
EPOCHS = flags.DEFINE_integer("epochs", 3, "passes over the sentences")
EXAMPLES = flags.DEFINE_integer("max_train_examples", 5000, "train on the first so many sentences; 0: all")
MAX_LENGTH = flags.DEFINE_integer("max_length", 64, "pieces of a sentence")

BATCH, WARMUP_RATIO, WEIGHT_DECAY = 32, 0.06, 0.01
LAST_STEP_ONLY = 1 << 30
"""Steps between evaluations, more than there are."""
WITHOUT_LABEL = -100


def data_fields() -> dict[str, Any]:
    """The fields of config.data that read the sentences."""
    return {
        "source": "files",
        "train": TRAIN.value,
        "validation": TEST.value,
        "text": TEXT.value,
        "label": LABEL.value,
        "max_train_examples": EXAMPLES.value,
    }


def ours(model: str, who: str, dtype: str = "float32") -> dict[str, Any]:
    """Train all seeds by the command that users have."""
    folder = Path(OUT.value) / who
    fields = {f"data.{name}": value for name, value in data_fields().items()} | {
        "init_from": model,
        "seeds": SEEDS.value,
        "epochs": EPOCHS.value,
        "global_batch": BATCH,
        "max_length": MAX_LENGTH.value,
        "optimizer.learning_rate": RATE.value,
        "optimizer.weight_decay": WEIGHT_DECAY,
        "schedule.warmup_ratio": WARMUP_RATIO,
        "model.dropout": 0.0,
        "model.attention_dropout": 0.0,
        "dtype": dtype,
        "eval.every": LAST_STEP_ONLY,
    }
    command = [sys.executable, "-m", "finetune", "--config=configs/tokens.py", f"--workdir={folder}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    if subprocess.run(command).returncode:
        raise SystemExit(f"it has failed: {shlex.join(command)}")
    found = json.loads((folder / "results.json").read_text())
    return {"f1": [run["last"]["f1"] for run in found["runs"]], "seconds": found["seconds"]}


def random(who: str) -> dict[str, Any]:
    """Ours from a network of the same config and tokenizer that has learned nothing."""
    folder = Path(OUT.value) / "random_weights"
    write_random_weights(MODEL.value, folder, MAX_LENGTH.value)
    return ours(str(folder), who)


def trainer(who: str, bf16: bool = False) -> dict[str, Any]:
    """Train by transformers' Trainer, seed by seed; the seconds are those of its training loops."""
    data = open_labelled(build(LabelledConfig, data_fields()), "", ("train", "evaluations"), per_word=True)
    (test,) = data.evaluations.values()
    assert isinstance(data.train, Sentences) and isinstance(test, Sentences)
    runs = [trained(list(data.task.labels), seed, data.train, test, bf16) for seed in range(SEEDS.value)]
    return {"f1": [f1 for f1, _ in runs], "seconds": round(sum(seconds for _, seconds in runs), 1)}


def trained(tags: list[str], seed: int, train: Sentences, test: Sentences, bf16: bool) -> tuple[float, float]:
    """F1 on the test sentences after one run (in bf16: with autocast), and the seconds of its training."""
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        set_seed,
    )

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(MODEL.value, add_prefix_space=True)
    model = AutoModelForTokenClassification.from_pretrained(MODEL.value, num_labels=len(tags))

    def encoded(sentences: Sentences) -> list[dict[str, Any]]:
        assert sentences.labels is not None
        labels = np.split(sentences.labels, np.flatnonzero(np.diff(sentences.sentence)) + 1)
        rows = []
        for words, ids in zip(sentences.words, labels):
            row = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_LENGTH.value)
            owners = row.word_ids()
            first = [word is not None and word not in owners[:place] for place, word in enumerate(owners)]
            row["labels"] = [
                int(ids[word]) if is_first else WITHOUT_LABEL for word, is_first in zip(owners, first)
            ]
            rows.append(dict(row))
        return rows

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(
            folder,
            num_train_epochs=EPOCHS.value,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            learning_rate=RATE.value,
            warmup_steps=WARMUP_RATIO,
            weight_decay=WEIGHT_DECAY,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
            max_grad_norm=1.0,
            seed=seed,
            bf16=bf16,
        )
        collator = DataCollatorForTokenClassification(tokenizer)
        hugging_face = Trainer(
            model=model, args=arguments, train_dataset=encoded(train), data_collator=collator
        )
        start = time.perf_counter()
        hugging_face.train()
        seconds = time.perf_counter() - start
        rows = encoded(test)
        logits = hugging_face.predict(rows).predictions
    assert test.labels is not None
    told, right = [], []
    cuts = np.flatnonzero(np.diff(test.sentence)) + 1
    for row, scores, ids in zip(rows, logits, np.split(test.labels, cuts)):
        labelled = np.array(row["labels"]) != WITHOUT_LABEL
        found = scores[: len(labelled)].argmax(axis=1)[labelled]
        told.append([tags[index] for index in found] + ["O"] * (len(ids) - len(found)))
        right.append([tags[index] for index in ids])
    return entity_scores(told, right)["f1"], seconds


CONTESTANTS = {
    "ours": lambda who: ours(MODEL.value, who),
    "bfloat16": lambda who: ours(MODEL.value, who, "bfloat16"),
    "trainer": trainer,
    "trainer-bfloat16": lambda who: trainer(who, bf16=True),
    "random": random,
}


def main(argv: list[str]) -> None:
    """Make the runs that are not yet made, and print a table."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| | F1 of entities | to `ours`, in stds | p | seconds of all runs |", "|---|---|---|---|---|"]
    base: list[float] = []
    for who in WHO.value:
        kept = folder / f"{who}.json"
        if not kept.exists():
            kept.write_text(json.dumps(CONTESTANTS[who](who), indent=2) + "\n")
        found = json.loads(kept.read_text())
        base = base or found["f1"]
        cells = [
            who,
            shown(found["f1"]),
            distance(found["f1"], base),
            p_value(found["f1"], base),
            str(found["seconds"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)

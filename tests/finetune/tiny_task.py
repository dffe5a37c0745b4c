"""A labelled task, a pretrained model and a config small enough to fine-tune in a test."""

import atexit
import csv
import functools
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from etils import epath

from base.schema import build
from finetune.config import FinetuneConfig
from pretrain.config import ModelConfig
from pretrain.models import build as build_model
from pretrain.models.huggingface import encoder_config, save_pretrained
from tests.tiny import WORDS
from tokenizer.config import TokenizerConfig
from tokenizer.train import train_tokenizer

ANIMALS = ("cat", "dog", "bird", "horse")
LAYERS = 2
"""Of the model that `tiny_finetune` writes; the tests of this folder have one, as steps unroll their layers."""


def write_examples(
    path: Path, count: int, seed: int = 0, *, kind: str = "classes", pairs: bool = False
) -> Path:
    """Write a csv of sentences of 3 to 30 words, labelled by whether an animal is named; returns the path.

    Args:
      path: the file.
      count: examples.
      seed: of the words.
      kind: "classes" (animal, none) or "scores" (4 and 1).
      pairs: give each a second sentence, in the column `other`.
    """
    draw = random.Random(seed)
    plain = [word for word in WORDS if word not in ANIMALS]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", *(["other"] if pairs else []), "label"])
        for index in range(count):
            words = draw.choices(plain, k=draw.randint(3, 30))
            if index % 2:
                words[draw.randrange(len(words))] = draw.choice(ANIMALS)
            names = ("1.0", "4.0") if kind == "scores" else ("none", "animal")
            label = names[index % 2]
            other = [" ".join(draw.choices(plain, k=4))] if pairs else []
            writer.writerow([" ".join(words), *other, label])
    return path


def write_model(folder: Path, *, dropout: float = 0.1, seed: int = 0, layers: int = 2) -> Path:
    """Write a RoBERTa of small layers with random weights and its tokenizer; returns the model's folder."""
    shutil.copytree(_made(dropout, seed, layers), folder, dirs_exist_ok=True)
    return folder / "model"


@functools.cache
def _made(dropout: float, seed: int, layers: int) -> Path:
    """Make such a model and its tokenizer in a folder that stays until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_task"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = TokenizerConfig(vocab_size=320, min_frequency=1)
    documents = [" ".join(random.Random(i).choices(WORDS, k=20)) for i in range(50)]
    tokenizer = train_tokenizer(
        documents, config, epath.Path(folder) / "tokenizer", model_max_length=64, progress=False
    )
    model = ModelConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        initializer_range=0.2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    encoder = encoder_config(model, tokenizer.vocab_size, tokenizer.special)
    params = jax.jit(build_model(encoder).init)(jax.random.key(seed))
    save_pretrained(folder / "model", encoder, params, folder / "tokenizer")
    return folder


def tiny_finetune(folder: Path, **changes: Any) -> FinetuneConfig:
    """A run on `folder`/train.csv and `folder`/validation.csv from `folder`/model, all written if need be.

    That model has LAYERS layers; where those matter, write a model first.

    `changes` replace whole top-level fields or merge into groups.
    """
    if not (folder / "model").exists():
        write_model(folder, layers=LAYERS)
        write_examples(folder / "train.csv", 50)
        write_examples(folder / "validation.csv", 21, seed=1)
    values: dict[str, Any] = {
        "init_from": str(folder / "model"),
        "epochs": 2,
        "global_batch": 8,
        "max_length": 48,
        "lengths": [48],  # one program to compile, and not several
        "data": {
            "source": "files",
            "train": str(folder / "train.csv"),
            "validation": str(folder / "validation.csv"),
        },
        "optimizer": {"learning_rate": 3e-3},
        "log": {"every": 1},
        "eval": {"batch": 8},
        "compilation_cache": "",
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return build(FinetuneConfig, values)

"""A corpus, a config and a model small enough to train in a test."""

import contextlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from base.schema import build
from pretrain.config import MeshConfig, PretrainConfig
from pretrain.devices.mesh import make_mesh

WORDS = re.findall(
    r"\w+",
    """
the a one old young small great red blue green cat dog bird horse river house tree road child king sees finds
follows loves leaves near under over behind and but because when slowly quickly today never always here there
""",
)


def write_corpus(path: Path, documents: int = 120, seed: int = 0) -> Path:
    """Write documents of a few short sentences, one a line; returns the path."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) + "." for _ in range(documents)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_config(corpus: Path, **changes: Any) -> PretrainConfig:
    """A run of a few steps on `corpus`; `changes` replace whole top-level fields or merge into groups."""
    values: dict[str, Any] = {
        "steps": 8,
        "global_batch": 8,
        "seq_len": 32,
        "tokenizer": {"vocab_size": 300, "min_frequency": 1},
        "data": {"source": "files", "path": str(corpus), "streams": 4, "window": 8, "eval_fraction": 0.1},
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 66,
        },
        "optimizer": {"learning_rate": 1e-2, "clip_norm": 1.0},
        "schedule": {"warmup_steps": 2},
        "log": {"every": 1},
        "eval": {"every": 0, "steps": 2},
        "checkpoint": {"every": 100, "keep": 3},
        "compilation_cache": "",
    }
    for name, change in changes.items():
        values[name] = {**values[name], **change} if isinstance(change, dict) and name in values else change
    return build(PretrainConfig, values)


@contextlib.contextmanager
def on_one_device(*places: str) -> Iterator[None]:
    """Have runs take one device of the eight: for tests that are not of meshes.

    Args:
      places: modules whose `make_mesh` is replaced; none are `pretrain.job`.
    """
    with contextlib.ExitStack() as stack:
        for module in places or ("pretrain.job",):
            # Not by pytest's MonkeyPatch, which pauses tests.traced_once: no traced code makes a mesh.
            one = mock.patch(f"{module}.make_mesh", lambda *_: make_mesh(MeshConfig(), jax.devices()[:1]))
            stack.enter_context(one)
        yield

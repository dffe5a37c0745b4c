"""The short runs whose losses are kept in losses.json beside this file."""

import json
from pathlib import Path

import pytest
from etils import epath

from pretrain.train import train
from tests.tiny import on_one_device, tiny_config, write_corpus

MASKED = ("roberta", "bert", "xlm-roberta", "camembert", "distilbert", "electra", "modernbert")
CAUSAL = ("roberta", "bert", "modernbert")
"""One family of each kind of network."""
CASES = (*(("mlm", family) for family in MASKED), *(("clm", family) for family in CAUSAL))
"""Pairs of objective and family: a new one is added here, and `python -m tests.goldens.write` adds its losses."""
GO_ON = ("roberta", "xlm-roberta", "camembert", "distilbert")
"""Masked runs that tests/pretrain/test_family_runs.py compares with their losses, as it goes on with their folders."""
LOSSES = Path(__file__).parent / "losses.json"
STEPS = 20
NAMES = ("train/loss", "train/grad_norm", "eval/loss")
"""The metrics that are kept."""
TOLERANCE = 1e-4
"""Relative; processors and ways of compiling differ in the last bits, which 20 steps make larger."""


def name_of(objective: str, family: str) -> str:
    """The key of a case in losses.json."""
    return f"{objective}/{family}"


def losses(objective: str, family: str, folder: Path) -> dict[str, list[float]]:
    """What a run of 20 steps on one device logs: loss and norm of the gradient of every step, eval/loss of every tenth.

    Adam makes the same steps if all gradients are multiplied by a constant. Only the norm of the gradient shows that.

    Args:
      objective: config.objective.name.
      family: config.model.family.
      folder: an empty folder, for the corpus and the run, `folder`/run.
    """
    corpus = write_corpus(folder / "corpus.txt")
    config = tiny_config(
        corpus,
        steps=STEPS,
        objective={"name": objective},
        model={"family": family},
        optimizer={"learning_rate": 3e-3},
        eval={"every": 10},
    )
    workdir = folder / "run"
    with on_one_device():
        train(config, epath.Path(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines if name in line] for name in NAMES}


def assert_golden(objective: str, family: str, now: dict[str, list[float]]) -> None:
    """Assert that a run lost what it lost when losses.json was written."""
    kept = json.loads(LOSSES.read_text())[name_of(objective, family)]
    for name, values in kept.items():
        assert now[name] == pytest.approx(values, rel=TOLERANCE), name

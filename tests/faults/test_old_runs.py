"""A run that older code began goes on as that code would have gone on: the same rows, masks, losses and params."""

import json
import tarfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

import tests.old_runs
from finetune.train import train as finetune
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train as pretrain
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import tiny_config

CLOSE = 2e-6
"""Relative: code since then, and other processors, round sums another way."""


@pytest.fixture
def old_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, float]]]:
    """Unpack the runs into the working folder; what was logged after the step that they were stopped at."""
    with tarfile.open(Path(tests.old_runs.__file__).with_name("runs.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    first = jax.devices()[:1]  # the runs were made on one device
    monkeypatch.setattr(jax, "devices", lambda: first)
    return json.loads((tmp_path / "expected.json").read_text())


def logged(workdir: str, after: int) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"] > after]


def assert_as_before(now: list[dict[str, float]], before: list[dict[str, float]]) -> None:
    assert len(now) == len(before)
    for mine, theirs in zip(now, before, strict=True):
        chosen = {name: mine[name] for name in theirs}
        assert chosen == pytest.approx(theirs, rel=CLOSE, abs=1e-9)


def test_a_pretraining_run_of_older_code_goes_on(old_runs: dict[str, Any]):
    config = tiny_config(
        Path("text.txt"),
        steps=None,
        model={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
        masking={"rate": 0.3},
        phases=[{"steps": 4, "seq_len": 16}, {"steps": 4, "seq_len": 32}],
        eval={"every": 4, "steps": 2},
        checkpoint={"every": 3, "keep": 9},
    )
    pretrain(config, epath.Path("pretrain"))
    assert_as_before(logged("pretrain", after=3), old_runs["pretrain"])
    params, run = restore_params("pretrain")
    assert run["step"] == 8
    now = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    with np.load("pretrain_params.npz") as before:
        assert sorted(now) == sorted(before)
        for name, leaf in before.items():
            np.testing.assert_allclose(now[name], leaf, rtol=0, atol=CLOSE * max(np.abs(leaf).max(), 1e-2))


def test_a_fine_tuning_run_of_older_code_goes_on(old_runs: dict[str, Any]):
    config = tiny_finetune(
        Path("task"), epochs=2, seeds=2, checkpoint={"every": 5, "keep": 9}, log={"every": 1}
    )
    finetune(config, epath.Path("finetune"))
    assert_as_before(logged("finetune", after=5), old_runs["finetune"])

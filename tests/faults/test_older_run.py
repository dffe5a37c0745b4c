"""A run of an earlier version goes on with the numbers that it would have had there.

older_run/run.tar.xz is a workdir at step 3 of 6, and its text, as version 0.1.0 wrote them before fields were added to
the config. older_run/metrics.json has what that version logged of all six steps.
"""

import json
import tarfile
from pathlib import Path

import jax
import pytest
from etils import epath

from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh
from pretrain.train import train
from tests.tiny import tiny_config

OLDER = Path(__file__).parent / "older_run"
CONFIG = {
    "steps": 6,
    "seq_len": 32,
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 34,
    },
    "eval": {"every": 3, "steps": 2},
    "checkpoint": {"every": 3, "keep": 3},
    "log": {"every": 2},
}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    with tarfile.open(OLDER / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(MeshConfig(), jax.devices()[:1]))
    return epath.Path("run")


def test_it_resumes_by_the_same_command_to_the_same_numbers(workdir):
    outcome = train(tiny_config("text.txt", **CONFIG), workdir)
    assert (outcome.step, outcome.interrupted) == (6, "")
    found: dict[str, dict[str, float]] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        found.setdefault(str(values["step"]), {}).update(values)
    for step, expected in json.loads((OLDER / "metrics.json").read_text()).items():
        for name, value in expected.items():
            # The sums of steps 3 and 4 meet in one line: step 3 was made by the earlier version.
            assert found[step][name] == pytest.approx(value, rel=1e-5), (step, name)

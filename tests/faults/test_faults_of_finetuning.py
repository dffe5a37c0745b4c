"""Faults of fine-tuning: a run killed in an evaluation or at its end, a damaged checkpoint, a full disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from finetune.results.final_outputs import finish
from finetune.results.results_file import read_results
from finetune.train import train
from pretrain.runtime.checkpointer import Checkpointer
from tests.faults.test_damaged_checkpoints import flip, no_file_longer_than
from tests.faults.test_resume import stop_at
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys
from pathlib import Path

import tests.conftest
from etils import epath
from finetune import train as training
from finetune.results import final_outputs
from pretrain.reports import metric_writer
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device

root = Path(sys.argv[1])
metric_writer.EventWriter = lambda folder: None  # seconds of importing

def killing(call, allowed):
    calls = []
    def killed(*arguments, **more):
        calls.append(1)
        if len(calls) > allowed:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return killed

for name, module, function, allowed in (
    ("in an evaluation", training, "evaluate", 1),
    ("before the model", final_outputs, "save_classifier", 0),
    ("before results.json", final_outputs.results_file, "write_results", 0),
    ("before finished.json", final_outputs, "write_finished", 0),
):
    process = os.fork()
    if process == 0:  # JAX has not begun yet
        setattr(module, function, killing(getattr(module, function), allowed))
        with on_one_device("pretrain.job", "finetune.population.state"):
            config, workdir = tiny_finetune(root / "task", seeds=2), epath.Path(root / name)
            final_outputs.finish(training.train(config, workdir), workdir)
        os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, status)
"""
KILLED = ("in an evaluation", "before the model", "before results.json", "before finished.json")


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A folder with a task, and a run that nothing has happened to."""
    folder = tmp_path_factory.mktemp("runs")
    with on_one_device("pretrain.job", "finetune.population.state"):
        workdir = epath.Path(folder / "whole")
        finish(train(tiny_finetune(folder / "task", seeds=2), workdir), workdir)
    return folder


@pytest.fixture(scope="module")
def killed(task) -> Path:
    """A folder with a run for each member of KILLED."""
    command = [sys.executable, "-c", PROGRAM, str(task)]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return task


@pytest.mark.parametrize("name", KILLED)
def test_a_run_that_was_killed_comes_to_the_same_results(killed, name):
    workdir = killed / name
    assert not (workdir / "finished.json").exists()
    assert (workdir / "results.json").exists() == (name == "before finished.json")
    finish(train(tiny_finetune(killed / "task", seeds=2), epath.Path(workdir)), epath.Path(workdir))
    found, expected = (read_results(epath.Path(folder)) for folder in (workdir, killed / "whole"))
    for part in ("runs", "summary", "history", "best_run", "steps"):
        assert found[part] == expected[part], part
    for file in ("finished.json", "model/config.json", "model/model.safetensors"):
        assert (workdir / file).read_bytes() == (killed / "whole" / file).read_bytes(), file


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(task, tmp_path, caplog, monkeypatch):
    config = tiny_finetune(task / "task", seeds=2, checkpoint={"every": 2, "keep": 9})
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        assert train(config, epath.Path(workdir)).step == 6
    newest = workdir / "checkpoints" / "6"
    largest = max((file for file in newest.glob("state/**/d/*")), key=lambda file: file.stat().st_size)
    flip(largest, 0.5)
    outcome = train(config, epath.Path(workdir))
    assert "checkpoint 6 cannot be read, trying the one before: " in caplog.text
    assert largest.name in caplog.text
    assert (workdir / "checkpoints" / "6.unreadable").is_dir()
    assert outcome.tracking.history == read_results(epath.Path(task / "whole"))["history"]


def test_a_run_whose_checkpoints_are_all_damaged_stops(task, tmp_path):
    workdir = Path(shutil.copytree(task / "whole", tmp_path / "run"))
    for checkpoint in (workdir / "checkpoints").iterdir():
        for file in checkpoint.glob("state/**/d/*"):
            flip(file, 0.5)
    (workdir / "results.json").unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints in .* can be read"):
        train(tiny_finetune(task / "task", seeds=2), epath.Path(workdir))


def test_a_full_disk_costs_a_checkpoint_and_a_line(task, tmp_path, caplog, monkeypatch):
    save = Checkpointer.save

    def full(self, step, state, run, **first):
        if step != 4:
            return save(self, step, state, run, **first)
        self.wait()
        with no_file_longer_than(10):
            save(self, step, state, run, **first)
            self.wait()

    monkeypatch.setattr(Checkpointer, "save", full)
    config = tiny_finetune(task / "task", seeds=2, checkpoint={"every": 2, "keep": 9})
    assert train(config, epath.Path(tmp_path / "run")).step == 14
    assert [message for message in caplog.messages if "could not be saved" in message] == [
        "the checkpoint of step 4 could not be saved (File too large); that of step 2 is kept, and the run goes on"
    ]
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"2", "6", "14"} <= kept and "4" not in kept

"""A signal before the first step of a command says what is saved, and how to go on."""

import os
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretrain.__main__ as command
from base.command_line import python
from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.workdir import FINISHED_FILE
from tests.tiny import write_corpus


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A command line whose run meets a signal before its first step: `monkeypatch` what it does by `stop`."""
    recipe = tmp_path / "recipe.py"
    data = {"source": "files", "path": str(write_corpus(tmp_path / "text.txt"))}
    recipe.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        f"    return ml_collections.ConfigDict({{'data': {data!r}, 'compilation_cache': ''}})\n"
    )
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)
    return [f"--config={recipe}", f"--workdir={tmp_path / 'run'}"]


def stopping_by(number):
    def train(*arguments, **options):
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError("the signal was not seen")

    return train


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_step_1_nothing_is_saved(number, status, arguments, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "train", stopping_by(number))
    assert command.main(["pretrain", *arguments]) == status
    assert capsys.readouterr().out == (
        f"{number.name}: stopped before step 1, nothing is saved. To go on, run the same command:\n"
        f"  {python()} -m pretrain {' '.join(arguments)}\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_of_a_run_that_has_a_checkpoint_its_step_is_saved(arguments, monkeypatch, capsys, tmp_path):
    checkpointer = Checkpointer(tmp_path / "run", keep=1)
    checkpointer.save(7, {"x": np.zeros(1)}, {"best": None})
    checkpointer.close()
    monkeypatch.setattr(command, "train", stopping_by(signal.SIGTERM))
    assert command.main(["pretrain", *arguments]) == 0
    assert capsys.readouterr().out.startswith("SIGTERM: step 7 is saved. To go on, run the same command:\n")


@pytest.mark.parametrize("steps", [None, 1])
def test_a_signal_while_a_finished_run_is_shown_does_not_ask_to_go_on(steps, arguments, monkeypatch, capsys):
    monkeypatch.setattr(command, "train", lambda *given, **more: SimpleNamespace(interrupted=""))
    monkeypatch.setattr(command, "_close", stopping_by(signal.SIGTERM))
    length = "--config.epochs=2" if steps is None else "--config.steps=2"
    assert command.main(["pretrain", *arguments, length]) == 0
    assert capsys.readouterr().out.startswith(
        "SIGTERM: the run is complete. To see what it came to, run the same command:\n"
    )


@pytest.mark.parametrize("length", ["--config.steps=3", "--config.epochs=2"])
@pytest.mark.parametrize("finished", ['{"step": 2, "steps": 2}\n', '{"step": '])
def test_a_signal_before_a_finished_run_goes_on_to_more_steps_asks_to_go_on(
    finished, length, arguments, monkeypatch, capsys, tmp_path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FINISHED_FILE).write_text(finished)
    monkeypatch.setattr(command, "train", stopping_by(signal.SIGINT))
    assert command.main(["pretrain", *arguments, length]) == 130
    assert capsys.readouterr().out.startswith("SIGINT: stopped before step 1, nothing is saved. To go on")


def test_of_several_processes_a_signal_counts_when_all_have_read_it(monkeypatch):
    monkeypatch.setattr("pretrain.runtime.processes.count", lambda: 2)
    mesh = make_mesh(MeshConfig())
    with Interruption(mesh) as interruption:
        step = jax.jit(interruption.carried_by(lambda state, batch: (state + batch["x"], {"loss": state})))
        state, requested = jnp.zeros(()), []
        for number in range(5):
            state, metrics = step(state, {"x": jnp.ones(()), **interruption.flags()})
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            assert set(interruption.read(metrics)) == {"loss"}
            requested.append(interruption.requested)
    assert requested == ["", "", "", "SIGINT", "SIGINT"]
    assert state == 5


def test_one_process_carries_nothing_and_stops_at_once():
    with Interruption(make_mesh(MeshConfig())) as interruption:
        assert interruption.carried_by(len) is len
        assert interruption.flags() == interruption.abstract_flags() == {}
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested == "SIGTERM"

"""Signals that come where Python passes over exceptions, and that of a connection which drops."""

import errno
import gc
import io
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from rich.console import Console

from base.interruptible import raise_noted, sigterm_as_ctrl_c
from finetune.train import _RunSteps
from finetune.train import train as finetune
from pretrain.reports.recorder import Recorder
from pretrain.runtime.checkpointer import newest_step
from pretrain.train import _PhaseSteps, train
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device, tiny_config, write_corpus

LOST = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


def lose(number: signal.Signals) -> None:
    """Send this process a signal in a callback of the garbage collector: what its handler raises there is lost."""

    def callback(phase, info):
        gc.callbacks.remove(callback)
        os.kill(os.getpid(), number)
        time.sleep(0.05)

    gc.callbacks.append(callback)
    gc.collect()


@LOST
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_whose_exception_is_lost_is_raised_at_the_next_safe_place(number: signal.Signals):
    with sigterm_as_ctrl_c():
        raise_noted()
        lose(number)
        with pytest.raises(KeyboardInterrupt) as error:
            raise_noted()
        assert error.value.args == (number,)
    with sigterm_as_ctrl_c():
        raise_noted()


@LOST
@pytest.mark.parametrize("place", ["next", "compile", "describe"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_signal_that_is_lost_before_the_first_step_ends_the_run(stage, place, tmp_path, monkeypatch):
    """Training went on for hours."""
    steps = _PhaseSteps if stage == "pretrain" else _RunSteps
    original = getattr(steps, place)

    def losing(self, *arguments):
        lose(signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(steps, place, losing)
    workdir = epath.Path(tmp_path / "run")
    interrupted = ""
    with sigterm_as_ctrl_c():
        try:
            if stage == "pretrain":
                interrupted = train(tiny_config(write_corpus(tmp_path / "text.txt")), workdir).interrupted
            else:
                interrupted = finetune(tiny_finetune(tmp_path / "task"), workdir).interrupted
        except KeyboardInterrupt as error:
            interrupted = error.args[0].name
    assert interrupted == "SIGTERM"
    assert newest_step(workdir) == 0


def test_a_connection_that_drops_saves_the_run(tmp_path, monkeypatch):
    record = Recorder.step

    def dropping(self, step, metrics, *, waited):
        if step == 3:
            os.kill(os.getpid(), signal.SIGHUP)
        record(self, step, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", dropping)
    workdir = epath.Path(tmp_path / "run")
    outcome = train(tiny_config(write_corpus(tmp_path / "text.txt")), workdir)
    assert (outcome.interrupted, newest_step(workdir)) == ("SIGHUP", 3)


def test_nohup_is_heeded():
    """A process that was told to ignore SIGHUP goes on."""
    code = (
        "import os, signal; from base.interruptible import heeded, sigterm_as_ctrl_c\n"
        "with sigterm_as_ctrl_c():\n    os.kill(os.getpid(), signal.SIGHUP); print([s.name for s in heeded()])"
    )
    shell = f"trap '' HUP; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.stdout.strip() == "['SIGTERM', 'SIGINT']", done.stderr


class Gone(io.StringIO):
    """The end of a pipe whose reader goes away after a few lines, or a file on a disk that is full by then."""

    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        if self.getvalue().count("\n") >= 3:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_run_whose_output_goes_nowhere_is_saved(tmp_path, monkeypatch, number):
    """It ended with exit status 1, and nothing was saved."""
    stream = Gone(OSError(number, os.strerror(number)))
    monkeypatch.setattr("base.terminal.console", lambda: Console(file=stream))
    workdir = epath.Path(tmp_path / "run")
    outcome = train(tiny_config(write_corpus(tmp_path / "text.txt")), workdir)
    assert outcome.interrupted == "SIGHUP" and newest_step(workdir) == outcome.step in (4, 5)

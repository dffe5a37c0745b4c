"""Signals that come where Python passes over exceptions, and that of a connection which drops."""

import errno
import gc
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from etils import epath
from rich.console import Console

import pretrain.__main__ as command
from base.interruptible import raise_noted, sigterm_as_ctrl_c
from base.storage import check_damage
from finetune.run_steps import RunSteps
from finetune.train import train as finetune
from pretrain.reports.recorder import Recorder
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
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


@pytest.mark.parametrize("number", [signal.SIGTERM, None])
def test_a_command_whose_call_was_broken_off_ends_at_once(number, monkeypatch):
    """A compiler in native code that goes on would end the process with a segmentation fault at a normal exit."""
    ended: list[int] = []

    def leave(status: int) -> None:
        ended.append(status)
        raise SystemExit(status)

    def main(argv) -> int:
        try:
            with sigterm_as_ctrl_c():
                if number:
                    os.kill(os.getpid(), number)
                    time.sleep(1)
        except KeyboardInterrupt:
            return 143
        return 0

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as end:
        processes.run(main)
    assert (end.value.code, ended) == ((143, [143]) if number else (0, []))


@pytest.mark.parametrize("place", ["callback", "destructor", "weak reference"])
def test_a_signal_where_its_exception_would_be_lost_shows_no_traceback(place):
    """Python would print `Exception ignored in` and a traceback; warnings are errors here."""

    def callback(phase, info):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

    class Watched:
        pass

    class Destroyed:
        def __del__(self):
            callback("", {})

    with sigterm_as_ctrl_c():
        if place == "callback":
            gc.callbacks.append(callback)
            try:
                gc.collect()
            finally:
                gc.callbacks.remove(callback)
        elif place == "weak reference":
            watched = Watched()
            reference = weakref.ref(watched, lambda _: callback("", {}))
            del watched
            assert reference() is None
        else:
            Destroyed()
        with pytest.raises(KeyboardInterrupt):
            raise_noted()


@LOST
@pytest.mark.parametrize("place", ["next", "compile", "describe"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_signal_that_is_lost_before_the_first_step_ends_the_run(stage, place, tmp_path, monkeypatch):
    """Training went on for hours."""
    steps = _PhaseSteps if stage == "pretrain" else RunSteps
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


class Killed(BaseException):
    """What SIGTERM does to a process that has no handler of its own."""


def call(arguments: list[str], moment: float | None) -> int | None:
    """The exit status of a training command that gets SIGTERM after some seconds, unless it has ended by then.

    None: the signal came while the command line was read, and would have ended the process.
    """

    def die(number, frame):
        raise Killed

    timer = threading.Timer(moment or 1e6, os.kill, [os.getpid(), signal.SIGTERM])
    before = signal.signal(signal.SIGTERM, die)
    try:
        timer.start()
        status = command.main(["pretrain", *arguments])
        timer.cancel()
        timer.join()
        return status
    except Killed:
        return None
    finally:
        signal.signal(signal.SIGTERM, before)


def write_recipe(folder: Path) -> Path:
    """A recipe of 40 steps, with a checkpoint every 10."""
    corpus = write_corpus(folder / "text.txt")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    values = {
        "steps": 40,
        "global_batch": 8,
        "seq_len": 32,
        "tokenizer": {"vocab_size": 300, "min_frequency": 1},
        "data": {"source": "files", "path": str(corpus), "streams": 4, "window": 8, "eval_fraction": 0.0},
        "model": {**sizes, "max_position_embeddings": 66},
        "schedule": {"warmup_steps": 2},
        "log": {"every": 1},
        "eval": {"every": 0},
        "checkpoint": {"every": 10},
        "compilation_cache": "",
    }
    recipe = folder / "recipe.py"
    recipe.write_text(
        f"from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({values!r})\n"
    )
    return recipe


def losses(workdir: epath.Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_a_signal_that_a_reader_takes_for_damage_is_a_signal():
    damaged = OSError(errno.EIO, "array index")
    damaged.__cause__ = KeyboardInterrupt(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as error:
        check_damage(damaged, "checkpoint 3")
    assert error.value.args == (signal.SIGTERM,)


@LOST
def test_a_signal_at_any_moment_ends_the_command_and_the_next_one_goes_on(tmp_path, monkeypatch):
    """A few moments of the many that benchmarks/random_kills.py takes."""
    recipe = write_recipe(tmp_path)
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)
    begin, whole = time.monotonic(), epath.Path(tmp_path / "whole")
    assert call([f"--config={recipe}", f"--workdir={whole}"], None) == 0
    seconds, draw = time.monotonic() - begin, random.Random(7)
    workdir = epath.Path(tmp_path / "run")
    arguments = [f"--config={recipe}", f"--workdir={workdir}"]
    for _ in range(6):
        status = call(arguments, draw.uniform(0, seconds))
        assert status in (None, 0 if newest_step(workdir) else 143)
    assert call(arguments, None) == 0
    assert losses(workdir) == losses(whole)
    gc.collect()  # what a signal broke off within a library says so now, and not in a later test


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
    monkeypatch.setattr("base.terminal.console", lambda **_: Console(file=stream))
    workdir = epath.Path(tmp_path / "run")
    outcome = train(tiny_config(write_corpus(tmp_path / "text.txt")), workdir)
    assert outcome.interrupted == "SIGHUP" and newest_step(workdir) == outcome.step in range(1, 8)


def test_a_disk_that_takes_nothing_more_costs_a_checkpoint(tmp_path, monkeypatch, caplog):
    """The run ended with a traceback when it wrote the small files beside a checkpoint."""
    write, refused = workdirs.write_text, []

    def full(path, text):
        if path.name == workdirs.SAVED_FILE or (path.name == workdirs.MODEL_FILE and len(refused) == 1):
            refused.append(path.name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        refused.extend([path.name] * (path.name == workdirs.MODEL_FILE))
        write(path, text)

    monkeypatch.setattr(workdirs, "write_text", full)
    workdir = epath.Path(tmp_path / "run")
    outcome = train(tiny_config(write_corpus(tmp_path / "text.txt"), checkpoint={"every": 4}), workdir)
    assert (outcome.step, outcome.interrupted, newest_step(workdir)) == (8, "", 8)
    assert "the checkpoint of step 4 could not be saved (No space left on device)" in caplog.text
    assert not (workdir / "checkpoints" / "4").exists()

"""A step, a save or a wait that hangs: the process ends on time, names it, and shows where each thread stood."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pretrain.runtime import watchdog
from pretrain.runtime.processes import LATE
from pretrain.runtime.watchdog import Watchdog

ROOT = Path(__file__).parents[2]


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def test_what_takes_too_long_is_named_once():
    said: list[str] = []
    dog = Watchdog(0.2, end=lambda words, late: said.append(words))
    with dog.watching("step", "step 1"):
        pass
    with dog.watching("step", "step 2"):
        assert until(lambda: said)
    dog.close()
    assert len(said) == 1 and said[0].startswith("step 2 has taken more than 0.2 s: the process is ended")


def test_a_signal_while_its_thread_starts_leaves_a_watchdog_that_can_be_closed(monkeypatch):
    def broken_off(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", broken_off)
    dog = Watchdog(0.2)
    with pytest.raises(KeyboardInterrupt), dog.watching("step"):
        pass
    dog.close()


def test_what_is_inside_counts_for_itself(monkeypatch):
    said: list[str] = []
    dog = Watchdog(0.4, end=lambda words, late: said.append(words))
    with dog.watching("evaluation"):
        for _ in range(4):
            with dog.watching("save"):
                time.sleep(0.2)
    dog.close()
    assert said == []


def test_a_limit_is_measured_from_the_slowest_of_its_kind(monkeypatch):
    monkeypatch.setattr(watchdog, "LEAST", 0.0)
    monkeypatch.setattr(watchdog, "FACTOR", 4.0)
    said: list[str] = []
    dog = Watchdog(0.0, end=lambda words, late: said.append(words))
    assert dog._allowed("step") == watchdog.FIRST
    with dog.watching("step"):
        time.sleep(0.3)
    with dog.watching("step"):
        pass
    assert 1.2 <= dog._allowed("step") < 10
    assert dog._allowed("save") == watchdog.FIRST
    dog.close()


def test_below_zero_nothing_is_watched():
    dog = Watchdog(-1.0)
    before = threading.active_count()
    with dog.watching("step"):
        assert threading.active_count() == before and dog._allowed("step") == float("inf")
    dog.close()


HANGING = """
import os, sys, time
from pathlib import Path
import jax
from etils import epath
from pretrain.devices.mesh import make_mesh
from pretrain import train as module
from pretrain.reports import metric_writer
from pretrain.runtime import watchdog
from pretrain.runtime.checkpointer import Checkpointer
from tests.tiny import tiny_config, write_corpus

jax.config.update("jax_num_cpu_devices", 1)
metric_writer.EventWriter = lambda folder: None  # seconds of importing
watchdog.LEAST, watchdog.FACTOR = 3.0, 2.0
root = Path(sys.argv[1])
corpus = write_corpus(root / "text.txt")

def sleep_for_ever(*arguments, **more):
    time.sleep(1000)

def at_step(original, step):
    calls = []
    def call(*arguments, **more):
        calls.append(1)
        return sleep_for_ever() if len(calls) == step else original(*arguments, **more)
    return call

def hang(what):
    if what == "step":
        module.to_devices = at_step(module.to_devices, 4)
    else:
        Checkpointer.save = at_step(Checkpointer.save, 2)
    module.train(tiny_config(corpus, checkpoint={"every": 2}), epath.Path(root / what))

processes = {}
for what in ("step", "save"):
    processes[what] = os.fork()
    if processes[what] == 0:  # JAX has not begun yet
        os.dup2(os.open(root / f"{what}.stderr", os.O_WRONLY | os.O_CREAT), 2)
        hang(what)
        os._exit(0)
for what, process in processes.items():
    print(what, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.fixture(scope="module")
def hung(tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder with two runs that hang, each in a process of its own; and lines with how these have ended."""
    folder = tmp_path_factory.mktemp("hung")
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [("step", "step 4"), ("save", "the save after step 4")],
)
def test_a_run_that_hangs_ends_with_the_stacks_of_its_threads(hung, what, said):
    folder, ends = hung
    told = (folder / f"{what}.stderr").read_text()
    assert f"{what} {LATE}" in ends, told[-3000:]
    last = told.strip().splitlines()[-1]
    ended = rf"error: {said} has taken more than \S+ s: the process is ended; .*config.time_limit.*"
    assert re.fullmatch(ended, last), last
    assert "in sleep_for_ever" in told and told.count("Thread 0x") > 1
    assert [path.name for path in (folder / what / "checkpoints").iterdir() if path.name.isdigit()] == ["2"]

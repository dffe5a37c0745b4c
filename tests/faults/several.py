"""What each process of the tests of several processes does: run after run, with a fault in its place.

`python -m tests.faults.several FOLDER`: reads lines of JSON. Each is a list of launches {"name", "environments",
"devices", "runs"}. It forks the processes of these at once, so that all have the imports of one, and answers with a
line of their exit statuses, a list for each launch.
Runs: see `Run`. Every process leaves FOLDER/records/RUN.PROCESS.json, and its output in FOLDER/LAUNCH.PROCESS.log.
"""

import dataclasses
import gc
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax._src import cache_key

from base.errors import UserError
from data import batches
from finetune.results.final_outputs import finish
from finetune.train import train as finetune
from pretrain import train as pretraining
from pretrain.devices import hardware
from pretrain.devices.global_batch import local_rows
from pretrain.reports import metric_writer
from pretrain.reports.recorder import Recorder
from pretrain.runtime import processes, watchdog
from pretrain.runtime.train_command import log_to_stderr
from tests import checkpoints, traced_once
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import tiny_config

PATIENCE = 600
"""Seconds after which processes are taken to hang; a launch takes ten on a quiet machine."""


@dataclass(frozen=True)
class Run:
    """A run that the processes make together."""

    name: str
    changes: dict[str, Any]
    """Of the tiny config."""
    workdir: str = ""
    """Folder under the root; empty is the run's name."""
    process: int = -1
    """The process to which something happens."""
    step: int = 0
    """When: while this step is under way."""
    fault: str = ""
    """SIGTERM, SIGKILL, SIGSTOP, sleep, error, mistake (a UserError), other (another config than the others have),
    elsewhere (another folder by the same name, as on a machine that does not share it), or spike (of the loss, the
    first time; of all)."""
    stage: str = "pretrain"
    extra: dict[str, Any] = field(default_factory=dict)


def serve(root: Path) -> None:
    """Start the processes of the launches that are asked for, and tell how they have ended."""
    traced_once.install()
    checkpoints.split_large_arrays_alone()
    metric_writer.EventWriter = lambda folder: None  # type: ignore[assignment,misc]  # seconds of importing
    hardware._measure = lambda *given, **more: 1e9  # every run takes 0.6 s of all cores for it
    gc.freeze()
    for line in sys.stdin:
        launches = json.loads(line)
        started = []
        for launch in launches:
            started.append([])
            for number, environment in enumerate(launch["environments"]):
                process = os.fork()
                if process == 0:
                    name = f"{launch['name']}.{number}"
                    be_process(root, name, environment, launch["devices"], launch["runs"])
                started[-1].append(process)
        print(json.dumps(ends_of(started)), flush=True)


def be_process(
    root: Path, name: str, environment: Mapping[str, str], devices: int, runs: list[dict[str, Any]]
) -> None:
    """Be a process of a launch to its end, as if Python had just been started."""
    status = 1
    try:
        log = os.open(root / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(file, standard)
        os.environ |= environment
        jax.config.update("jax_num_cpu_devices", devices)  # the variable has been read
        processes.run(lambda argv: make(root, runs))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ends_of(launches: Sequence[Sequence[int]]) -> list[list[int]]:
    """The exit statuses of processes by launch, negative where a signal has ended one; kills those that hang.

    A process that is stopped (SIGSTOP) is killed when the others of its launch have ended.
    """
    ends: dict[int, int] = {}
    stopped: set[int] = set()
    until = time.monotonic() + PATIENCE
    while len(ends) < sum(len(started) for started in launches):
        for started in launches:
            for process in set(started) - set(ends):
                if time.monotonic() > until or set(started) - set(ends) <= stopped:
                    os.kill(process, signal.SIGKILL)
                ended, status = os.waitpid(process, os.WNOHANG | os.WUNTRACED)
                if ended and os.WIFSTOPPED(status):
                    stopped.add(process)
                elif ended:
                    ends[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [[ends[process] for process in started] for started in launches]


def make(root: Path, runs: list[dict[str, Any]]) -> int:
    """Make runs, one after another."""
    log_to_stderr()
    compile_once()
    for each in runs:
        run = Run(**each)
        record = pretrain_(run, root) if run.stage == "pretrain" else finetune_(run, root)
        if record is not None:
            write(root, run, record)
    return 0


def compile_once() -> None:
    """Let process 0 compile for all: on CPUs JAX's keys differ by process for the sake of the topology alone."""
    cache_key._hash_accelerator_config = cache_key._hash_devices
    jax.config.update("jax_share_binary_between_hosts", True)


def write(root: Path, run: Run, record: dict[str, Any]) -> None:
    (root / "records").mkdir(exist_ok=True)
    (root / "records" / f"{run.name}.{processes.number()}.json").write_text(json.dumps(record))


def pretrain_(run: Run, root: Path) -> dict[str, Any]:
    """Train, and tell what was fed and read."""
    changes = dict(run.changes)
    if run.fault == "other" and processes.number() == run.process:
        changes |= run.extra
    config = tiny_config(root / "text.txt", **changes)
    workdir = epath.Path(root / (run.workdir or run.name))
    if run.fault == "elsewhere":
        os.chdir(root / "elsewhere" if processes.number() == run.process else root)
        workdir = epath.Path(run.workdir)
    if run.fault == "sleep":
        watchdog.LEAST, watchdog.FACTOR = 5.0, 2.0
    fed: list[dict[int, str]] = []
    streams: set[int] = set()
    feed, opened, record = pretraining.to_devices, batches.open_streams, Recorder.step
    dispatch = pretraining._PhaseSteps.dispatch

    def feeding(arrays: Any, mesh: Any, global_batch: int, *more: Any) -> Any:
        fed.append(digests(arrays["tokens"], local_rows(mesh, global_batch)))
        return feed(arrays, mesh, global_batch, *more)

    def opening(*arguments: Any) -> Any:
        found = opened(*arguments)
        streams.update(found)
        return found

    def recording(self: Recorder, step: int, metrics: Any, *, waited: float) -> None:
        if step == run.step and processes.number() == run.process:
            happen(run.fault)
        record(self, step, metrics, waited=waited)

    def dispatching(self: Any, state: Any, *more: Any) -> Any:
        if run.fault == "spike" and len(fed) + 1 == run.step:
            state = dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf * 30, state.params))
        return dispatch(self, state, *more)

    pretraining.to_devices, batches.open_streams, Recorder.step = feeding, opening, recording
    pretraining._PhaseSteps.dispatch = dispatching  # type: ignore[method-assign]
    try:
        outcome = pretraining.train(config, workdir)
    except UserError as error:
        if run.fault not in ("other", "elsewhere"):
            raise
        return {"refused": str(error)}
    finally:
        pretraining.to_devices, batches.open_streams, Recorder.step = feed, opened, record
        pretraining._PhaseSteps.dispatch = dispatch  # type: ignore[method-assign]
    return {
        "step": outcome.step,
        "interrupted": outcome.interrupted,
        "fed": fed,
        "streams": sorted(streams),
    }


def digests(tokens: Any, rows: Sequence[int]) -> dict[int, str]:
    """What is in each of these rows of a batch, [b, S]."""
    return {
        number: hashlib.sha256(row.tobytes()).hexdigest()[:12]
        for number, row in zip(rows, tokens, strict=True)
    }


def happen(fault: str) -> None:
    if fault in ("SIGTERM", "SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), signal.Signals[fault])
        time.sleep(0.1)
    elif fault == "sleep":
        time.sleep(10 * PATIENCE)
    elif fault == "error":
        raise ArithmeticError("something broke in this process only")
    elif fault == "mistake":
        raise UserError("line 3 of text.txt is not text")


def finetune_(run: Run, root: Path) -> dict[str, Any]:
    config = tiny_finetune(root / "task", **run.changes)
    workdir = epath.Path(root / (run.workdir or run.name))
    return finish(finetune(config, workdir), workdir)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

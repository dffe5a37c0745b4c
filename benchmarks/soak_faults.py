"""The faults of the soak. Each is injected into a running command, waits for how it ends, and says what was wrong."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak_runs import Launch, checkpoints, last_step

STOPPED = (0, 128 + signal.SIGTERM, -signal.SIGTERM)
"""Exit statuses of a command that SIGTERM has ended: saved, or before its first step."""
PAUSE = 15.0
"""Seconds that the only process of a run is stopped before it is continued."""
FULL = 60.0
"""Seconds that a disk stays full at most, until a save has failed."""
FILE_LIMIT = 200_000
"""Bytes of the largest file that a process may write while its disk is 'full', where no disk can be mounted."""


@dataclass
class Outcome:
    """How a command took a fault."""

    fault: str
    process: int
    """The number of the process that it happened to; -1: the launcher, or all."""
    step: int
    """The last step whose metrics were written."""
    status: int | None = None
    """The exit status of the command; None where it went on."""
    seconds: float = 0.0
    """From the fault to the end of the command, or to its next sign of life."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    damaged: int | None = None
    """The step of a checkpoint that is damaged now."""


Fault = Callable[[Launch, random.Random], Outcome]


def _choose(launch: Launch, draw: random.Random, fault: str) -> tuple[Outcome, int]:
    """An outcome to be filled in, and the id of a process by chance."""
    ranks = launch.ranks()
    number = draw.randrange(len(ranks)) if ranks else 0
    return Outcome(fault, number, last_step(launch.workdir)), ranks[number] if ranks else launch.process.pid


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait(launch: Launch, outcome: Outcome, seconds: float) -> Outcome:
    """Wait for the end of the command; one that does not end is a problem, and killed."""
    begin, pids = time.monotonic(), launch.ranks()
    outcome.status = launch.wait(seconds)
    outcome.seconds = time.monotonic() - begin
    if outcome.status is None:
        outcome.problems.append(f"did not end within {seconds:g} s")
        launch.kill()
        outcome.status = launch.process.returncode
    time.sleep(0.5)
    for pid in pids:
        if Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            outcome.problems.append(f"process {pid} is still there")
            _send(pid, signal.SIGKILL)
    return outcome


def kill(launch: Launch, draw: random.Random) -> Outcome:
    """SIGKILL to a process, or now and then to the launcher."""
    outcome, pid = _choose(launch, draw, "KILL")
    if launch.layout.processes > 1 and draw.random() < 0.2:
        outcome.process, pid = -1, launch.process.pid
    _send(pid, signal.SIGKILL)
    _wait(launch, outcome, 120)
    if outcome.status == 0:
        outcome.problems.append("exit status 0")
    return outcome


def term(launch: Launch, draw: random.Random) -> Outcome:
    """SIGTERM to a process: all save, and end with exit status 0."""
    outcome, pid = _choose(launch, draw, "TERM")
    stepping = launch.is_stepping()
    outcome.step = last_step(launch.workdir)
    _send(pid, signal.SIGTERM)
    _wait(launch, outcome, 120)
    if outcome.status not in ((0,) if stepping else STOPPED):
        outcome.problems.append(f"exit status {outcome.status}")
    newest = max(checkpoints(launch.workdir), default=0)
    if stepping and newest < outcome.step:
        outcome.problems.append(f"step {newest} is saved, and step {outcome.step} was made")
    if stepping and newest > outcome.step + 8:
        outcome.problems.append(f"the signal came at step {outcome.step}, and step {newest} was made")
    return outcome


def stop(launch: Launch, draw: random.Random) -> Outcome:
    """SIGSTOP to a process: the others end by themselves; the only process of a run goes on once it is continued."""
    outcome, pid = _choose(launch, draw, "STOP")
    _send(pid, signal.SIGSTOP)
    if launch.layout.processes > 1:
        _wait(launch, outcome, 240)
        if outcome.status == 0:
            outcome.problems.append("exit status 0")
        return outcome
    time.sleep(PAUSE)
    _send(pid, signal.SIGCONT)
    return _goes_on(launch, outcome, last_step(launch.workdir))


def _goes_on(launch: Launch, outcome: Outcome, step: int, seconds: float = 120.0) -> Outcome:
    """Wait until the run makes further steps."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        if last_step(launch.workdir) > step or launch.ended():
            break
        time.sleep(0.2)
    else:
        outcome.problems.append(f"no step within {seconds:g} s")
    outcome.seconds = time.monotonic() - begin
    if launch.ended():
        outcome.status = launch.process.returncode
        outcome.problems.append(f"ended with exit status {outcome.status}")
    return outcome


def flip(launch: Launch, draw: random.Random) -> Outcome:
    """A kill, then a flipped byte in an array file of the newest checkpoint, where there is an older one."""
    outcome = Outcome("FLIP", -1, last_step(launch.workdir))
    begin = time.monotonic()
    launch.kill()
    outcome.status, outcome.seconds = launch.process.returncode, time.monotonic() - begin
    steps = checkpoints(launch.workdir)
    if len(steps) < 2:
        outcome.notes.append("no byte was flipped: there is no older checkpoint")
        return outcome
    outcome.damaged = steps[-1]
    folder = launch.workdir / "checkpoints" / str(steps[-1]) / "state"
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.parent.name == "d")
    file = draw.choices(files, [each.stat().st_size for each in files])[0]
    at = draw.randrange(file.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << draw.randrange(8)]))
    outcome.notes.append(f"byte {at} of {file.relative_to(launch.workdir)}")
    return outcome


def full(launch: Launch, draw: random.Random) -> Outcome:
    """A full disk until a save has failed: one process goes on and saves later, several may end."""
    outcome = Outcome("FULL", -1, last_step(launch.workdir))
    begin = time.monotonic()
    with _full(launch, leave=draw.choice([0, 300_000])):
        while time.monotonic() - begin < FULL and not launch.ended():
            if "could not be saved" in launch.output()[-20_000:] and launch.layout.processes == 1:
                break
            time.sleep(0.3)
    said = "could not be saved" in launch.output()
    outcome.notes.append("a save failed" if said else "no save failed meanwhile")
    if launch.ended() or (launch.layout.processes > 1 and said):
        _wait(launch, outcome, 120)
        outcome.seconds = time.monotonic() - begin
        if outcome.status == 0 or launch.layout.processes == 1:
            outcome.problems.append(f"ended with exit status {outcome.status}")
        return outcome
    _goes_on(launch, outcome, last_step(launch.workdir))
    return _saves_again(launch, outcome) if said and outcome.status is None else outcome


def _saves_again(launch: Launch, outcome: Outcome, seconds: float = 180.0) -> Outcome:
    """Wait until a run has a checkpoint of a step after the fault."""
    begin = time.monotonic()
    while not launch.ended() and time.monotonic() - begin < seconds:
        if max(checkpoints(launch.workdir), default=0) > outcome.step:
            return outcome
        time.sleep(0.2)
    outcome.problems.append("saved no later step")
    outcome.status = launch.process.poll()
    return outcome


@contextlib.contextmanager
def _full(launch: Launch, *, leave: int) -> Iterator[None]:
    """A full disk: a file that takes its room but `leave` bytes, or a limit to the size of files."""
    if not os.path.ismount(launch.workdir.parent):
        pids = launch.ranks()
        _limit_files(pids, str(FILE_LIMIT))
        yield
        _limit_files(pids, "unlimited")
        return
    filler = launch.workdir.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while room := shutil.disk_usage(filler.parent).free - leave:
            if room < 0 or not file.write(bytes(min(room, 1 << 20))):
                break
    yield
    filler.unlink()


def _limit_files(pids: list[int], size: str) -> None:
    for pid in pids:
        subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={size}:unlimited"], check=False)


FAULTS: dict[str, Fault] = {"KILL": kill, "TERM": term, "STOP": stop, "FLIP": flip, "FULL": full}

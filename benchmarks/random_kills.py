"""A signal at many random moments of a training command, and whether the next call goes on from a committed step.

python -m benchmarks.random_kills [--stage=pretrain|finetune] [--signal=TERM|KILL] [--times=100] [--starts=10]

A tiny run of a few seconds on one device. The first four calls of each run get a signal, at moments that are uniform
from the start of a call to its end; a fifth call is left alone. Calls are forked from a process that has imported
everything, so `--starts` calls more are started as a user starts them, and get the signal while they import. Checked:

- the call ends within --grace seconds, with the exit status that docs/resuming.md gives;
- it makes no more than a few steps after the signal;
- the next call goes on from the newest committed step, and in the end all losses are those of a run without signals,
  to the bit.

The exit status is 1 if any of it does not hold.
"""

import argparse
import atexit
import contextlib
import gc
import importlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

from benchmarks.soak_runs import checkpoints, last_step, losses, write_corpus, write_examples, write_recipe
from finetune.__main__ import main as finetune
from pretrain.__main__ import main as pretrain
from pretrain.reports.metric_writer import EventWriter  # noqa: F401
from pretrain.runtime import processes

COMMANDS = {"pretrain": pretrain, "finetune": finetune}
STEPS = 40
CALLS = 4
"""Calls of a run that get the signal; one more ends it."""
FEW = 3
"""Steps that may be made after a signal: the one at hand, and what the reader of the metrics lags behind."""
PATIENCE = 300.0


@dataclass
class Call:
    """A call of a command that has ended."""

    status: int
    seconds: float
    """From its start to its end."""
    output: str
    where: str = ""
    """What it was doing when the signal came."""
    after: float = 0.0
    """Seconds from the signal to the end."""
    steps: int = 0
    """Steps that were made after the signal."""


def fork(stage: str, arguments: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a call as a child of this process, which calls `prepare` first; returns its id."""
    if child := os.fork():
        return child
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(file, standard)
        sys.argv = [stage, *arguments]
        prepare()
        processes.run(COMMANDS[stage])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]  # what Python does at its end
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(stage: str, arguments: Sequence[str], log: Path) -> int:
    """Start a call as a user does; returns the id of its process."""
    command = [sys.executable, "-m", stage, *arguments]
    with log.open("w") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output).pid


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is removed at the end; `tempfile`'s own would be removed at the end of each child."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, negative for a signal; None where it does not end within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def place(workdir: Path, output: str) -> str:
    """What a call is doing, by what it has written."""
    if (workdir / "finished.json").exists() or "trained; " in output:
        return "end"
    if any(workdir.glob("checkpoints/*tmp*")):
        return "save"
    if last_step(workdir) and (workdir / "config.json").exists():
        return "steps"
    if "memory per device" in output or "devices" in output:
        return "overview to first step"
    return "tokenizer, data, compilation" if workdir.exists() else "start"


class Kills:
    """Runs of one stage, their signals, and what was wrong."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.draw = random.Random(options.seed)
        self.number = signal.Signals[f"SIG{options.signal}"]
        self.problems: list[str] = []
        self.calls: list[Call] = []
        self.log = folder / "call.log"

    def arguments(self, stage: str, workdir: Path) -> list[str]:
        """The flags of a call."""
        return [f"--config={self.folder / stage}.py", f"--workdir={workdir}"]

    def problem(self, words: str, call: Call) -> None:
        """Note and print what is wrong."""
        self.problems.append(words)
        print(f"PROBLEM: {words}\n{call.output[-3000:]}", flush=True)

    def whole(self, stage: str, workdir: Path) -> Call:
        """Make a call that gets no signal."""
        begin = time.monotonic()
        child = fork(stage, self.arguments(stage, workdir), self.log)
        status = wait(child, PATIENCE)
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        call = Call(status, time.monotonic() - begin, self.log.read_text(errors="replace"))
        if status != 0:
            self.problem(f"a call without a signal ended with exit status {status}", call)
            if not self.calls:
                raise SystemExit(1)
        return call

    def interrupted(self, workdir: Path, moment: float, *, fresh: bool = False) -> Call | None:
        """Make a call that gets the signal after some seconds; None where it had ended before."""
        stage, begin = self.options.stage, time.monotonic()
        child = (start if fresh else fork)(stage, self.arguments(stage, workdir), self.log)
        status = wait(child, moment)
        if status is not None:
            if status != 0:
                self.problem(f"exit status {status} before the signal", self.read(status, begin))
            return None
        where = "imports" if fresh else place(workdir, self.log.read_text(errors="replace"))
        step, sent = last_step(workdir), time.monotonic()
        os.kill(child, self.number)
        status = wait(child, self.options.grace)
        after = time.monotonic() - sent
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        call = self.read(-1 if status is None else status, begin)
        call.where, call.after = where, after
        call.steps = max(0, last_step(workdir) - step)
        self.check(call, status, workdir, moment)
        self.calls.append(call)
        return call

    def read(self, status: int, begin: float) -> Call:
        """A call that has ended."""
        return Call(status, time.monotonic() - begin, self.log.read_text(errors="replace"))

    def check(self, call: Call, status: int | None, workdir: Path, moment: float) -> None:
        """Compare how a call has ended with what is documented."""
        what = f"{self.number.name} after {moment:.2f} s ({call.where})"
        saved, complete = checkpoints(workdir), (workdir / "finished.json").exists()
        if status is None:
            self.problem(f"{what}: did not end within {self.options.grace} s", call)
        elif self.number == signal.SIGKILL:
            if status not in (-signal.SIGKILL, 0):
                self.problem(f"{what}: exit status {status}", call)
        elif status == 0 and not (saved or complete):
            self.problem(f"{what}: exit status 0, and nothing is saved", call)
        elif status in (128 + self.number, -self.number) and saved and call.where not in ("imports", "start"):
            self.problem(f"{what}: exit status {status}, and step {saved[-1]} is saved", call)
        elif status not in (0, 128 + self.number, -self.number):
            self.problem(f"{what}: exit status {status}", call)
        if call.steps > FEW and self.number != signal.SIGKILL:
            self.problem(f"{what}: {call.steps} steps were made after it", call)
        if "Traceback" in call.output:
            self.problem(f"{what}: a traceback is shown", call)

    def run(self) -> None:
        """Make the runs."""
        stage = self.options.stage
        if stage == "finetune":
            self.whole("pretrain", self.folder / "model")
        self.whole(stage, self.folder / "warm")  # compiled programs are kept
        length = self.whole(stage, self.folder / "expected").seconds
        expected = losses(self.folder / "expected")
        print(f"a call without a signal: {length:.1f} s, {len(expected)} losses", flush=True)
        for number in range(self.options.starts):
            self.one(expected, [self.draw.uniform(0, 4.0)], fresh=True, name=f"start{number}")
        number = 0
        while len(self.calls) < self.options.times + self.options.starts:
            self.one(expected, [self.draw.uniform(0, length) for _ in range(CALLS)], name=f"run{number}")
            number += 1

    def one(
        self, expected: dict[str, float], moments: Iterable[float], *, name: str, fresh: bool = False
    ) -> None:
        """Make a run with a signal in each of its first calls, and compare it with the one that had none."""
        workdir = self.folder / name
        for moment in moments:
            self.interrupted(workdir, moment, fresh=fresh)
        newest = max(checkpoints(workdir), default=0)
        last = self.whole(self.options.stage, workdir)
        if newest and newest < STEPS and f"resumed at step {newest}" not in last.output:
            self.problem(f"{name} did not go on from step {newest}", last)
        if losses(workdir) != expected:
            self.problem(f"{name} has other losses than a run without signals", last)
        shutil.rmtree(workdir)
        print(f"{name}: {len(self.calls)} signals so far, {len(self.problems)} problems", flush=True)

    def summary(self) -> None:
        """Print what happened, by the place at which the signal came."""
        by_place = defaultdict(list)
        for call in self.calls:
            by_place[call.where].append(call)
        for where, calls in sorted(by_place.items()):
            statuses = ", ".join(
                f"{status}: {n}" for status, n in sorted(Counter(c.status for c in calls).items())
            )
            after = [call.after for call in calls]
            print(
                f"{where:30} {len(calls):4}  exit statuses {statuses}; from the signal to the end: median "
                f"{statistics.median(after):.2f} s, longest {max(after):.2f} s"
            )
        print(
            f"{self.number.name}: {len(self.calls)} moments of {self.options.stage}, {len(self.problems)} problems"
        )


def prepare(folder: Path) -> None:
    """Write a corpus, examples and the recipes of both stages."""
    write_corpus(folder / "corpus.txt", 600, 0)
    for name, count in (("train", 160), ("validation", 40)):
        write_examples(folder / f"{name}.csv", count, count)
    cache = {"compilation_cache": str(folder / "cache"), "log": {"every": 1}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    pretraining = {
        "steps": STEPS,
        "global_batch": 8,
        "seq_len": 64,
        "tokenizer": {"vocab_size": 1000, "min_frequency": 1},
        "data": {"source": "files", "path": str(folder / "corpus.txt"), "streams": 4, "eval_fraction": 0.05},
        "model": {**sizes, "max_position_embeddings": 66},
        "schedule": {"warmup_steps": 4},
        "eval": {"every": 10, "steps": 2},
        "checkpoint": {"every": 10},
    }
    write_recipe(folder / "pretrain.py", {**pretraining, **cache})
    data = {name: str(folder / f"{name}.csv") for name in ("train", "validation")}
    finetuning = {
        "init_from": str(folder / "model"),
        "seeds": 2,
        "steps": STEPS,
        "global_batch": 8,
        "max_length": 48,
        "lengths": [48],
        "data": {"source": "files", **data},
        "eval": {"every": 10},
        "checkpoint": {"every": 10},
    }
    write_recipe(folder / "finetune.py", {**finetuning, **cache})


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_kills")
    parser.add_argument("--stage", choices=sorted(COMMANDS), default="pretrain")
    parser.add_argument("--signal", choices=["TERM", "INT", "HUP", "KILL"], default="TERM")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--grace", type=float, default=30.0, help="most seconds from a signal to the end of the call"
    )
    options = parser.parse_args(argv[1:])
    importlib.import_module("matplotlib.pyplot")  # the commands import it late
    gc.freeze()
    with temporary_folder("kills-") as folder:
        prepare(folder)
        kills = Kills(options, folder)
        try:
            kills.run()
        finally:
            kills.summary()
    return 1 if kills.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

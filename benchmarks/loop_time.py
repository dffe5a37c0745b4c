"""Times of the training loop: from SIGTERM to the end, what it stands for a save, what the watchdog costs a step.

python -m benchmarks.loop_time [--what=stop,save,watchdog] [--millions=10,125] [--rounds=5] [--batch=8] [--seq_len=128]

Every figure is of `python -m pretrain` itself, in a process that is forked from one that has imported everything.

stop: seconds from SIGTERM to the end of the process, sent in a step, while a checkpoint is written, and while the step
  is compiled.
save: what `Checkpointer.save` takes in the loop, against a step.
watchdog: steps with the watchdog and without it in turn, in one run; the ratio of the medians.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.random_kills import fork, temporary_folder, wait
from benchmarks.soak_runs import write_corpus, write_recipe
from pretrain.reports.recorder import Recorder
from pretrain.runtime import loop
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.watchdog import Watchdog
from pretrain.train import _PhaseSteps

SIZES = {
    10: {"hidden_size": 256, "num_hidden_layers": 7, "num_attention_heads": 4, "intermediate_size": 1024},
    125: {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    350: {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
VOCABULARY = {10: 16_000, 125: 50_265, 350: 50_265}
PLACES = ("step", "save", "compile")
SKIPPED = 3
"""Steps at the start of a run that are not counted."""
PATIENCE = 1800.0


def before(owner: Any, name: str, action: Callable[..., None]) -> None:
    """Have a method call `action` with its own arguments first."""
    original = getattr(owner, name)

    def changed(*given: Any, **named: Any) -> Any:
        action(*given, **named)
        return original(*given, **named)

    setattr(owner, name, changed)


def stop_at(place: str, file: Path) -> None:
    """Have this process send itself SIGTERM at a place, and write down when."""

    def send() -> None:
        file.write_text(json.dumps(time.monotonic()))
        os.kill(os.getpid(), signal.SIGTERM)

    def at_step(recorder: Recorder, step: int, *_: Any, **more: Any) -> None:
        if step == SKIPPED:
            send()

    if place == "step":
        before(Recorder, "step", at_step)
    elif place == "save":
        before(Checkpointer, "save", lambda *_, **__: threading.Timer(0.05, send).start())
    else:
        before(_PhaseSteps, "compile", lambda *_, **__: threading.Timer(0.5, send).start())


def time_steps(times: list[tuple[int, float]], file: Path, last: int) -> None:
    """Write down when each step's metrics are asked for."""

    def note(recorder: Recorder, step: int, *_: Any, **more: Any) -> None:
        times.append((step, time.perf_counter()))
        if step == last:
            file.write_text(json.dumps([(step, at) for step, at in times]))

    before(Recorder, "step", note)


def time_saves(file: Path) -> None:
    """Write down what each save takes in the loop."""
    original, stalls = Checkpointer.save, list[float]()

    def save(self: Checkpointer, *given: Any, **named: Any) -> None:
        begin = time.perf_counter()
        original(self, *given, **named)
        stalls.append(time.perf_counter() - begin)
        file.write_text(json.dumps(stalls))

    Checkpointer.save = save  # type: ignore[method-assign]


def watch_every_other_step() -> None:
    """Have the loop's watchdog watch even steps only."""
    step = [0]

    class EveryOther(Watchdog):
        def watching(self, kind: str, name: str = "") -> Any:
            step[0] += kind == "step"
            return contextlib.nullcontext() if step[0] % 2 else super().watching(kind, name)

    loop.Watchdog = EveryOther  # type: ignore[misc]


class Runs:
    """Runs of models of some size, each in a folder that is made anew."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        write_corpus(folder / "corpus.txt", 5000, 0)
        self.count = 0

    def make(self, millions: int, steps: int, every: int, prepare: Callable[[], None]) -> tuple[int, float]:
        """Make a run; returns its exit status and when it ended."""
        self.count += 1
        values = {
            "steps": steps,
            "global_batch": self.options.batch,
            "seq_len": self.options.seq_len,
            "tokenizer": {"vocab_size": 1000, "min_frequency": 1},
            "data": {"source": "files", "path": str(self.folder / "corpus.txt"), "eval_fraction": 0.0},
            "model": {**SIZES[millions], "vocab_size": VOCABULARY[millions], "scan_unroll": 0},
            "schedule": {"warmup_steps": 4},
            "log": {"every": 1},
            "eval": {"every": 0},
            "checkpoint": {"every": every, "keep": 1},
            "compilation_cache": "",
        }
        write_recipe(self.folder / "recipe.py", values)
        log = self.folder / "log"
        arguments = [f"--config={self.folder / 'recipe.py'}", f"--workdir={self.folder / f'run{self.count}'}"]
        child = fork("pretrain", arguments, log, prepare)
        status = wait(child, PATIENCE)
        if status is None or status not in (0, 128 + signal.SIGTERM):
            raise SystemExit(f"exit status {status}\n{log.read_text()[-3000:]}")
        return status, time.monotonic()

    def stop(self, millions: int) -> None:
        """Print how long a run takes to end after SIGTERM."""
        file, found = self.folder / "sent", {place: list[float]() for place in PLACES}
        for _ in range(self.options.rounds):
            for place in PLACES:
                _, end = self.make(millions, 1000, 8, lambda place=place: stop_at(place, file))
                found[place].append(end - json.loads(file.read_text()))
        for place, seconds in found.items():
            print(
                f"{millions:4} M  from SIGTERM in a {place:8} to the end: median {statistics.median(seconds):6.2f} s, "
                f"longest {max(seconds):6.2f} s",
                flush=True,
            )

    def save(self, millions: int) -> None:
        """Print what the loop stands for a save, in steps."""
        times, saves, steps = self.folder / "times", self.folder / "saves", 8 * self.options.rounds

        def prepare() -> None:
            time_steps([], times, steps)
            time_saves(saves)

        self.make(millions, steps, 8, prepare)
        stalls = json.loads(saves.read_text())
        took = durations(json.loads(times.read_text()))
        plain = statistics.median(seconds for step, seconds in took if step % 8 not in (0, 1))
        stall = statistics.median(stalls)
        print(
            f"{millions:4} M  a step {plain:.3f} s; the loop stands {stall:.3f} s for a save, "
            f"{stall / plain:.2f} steps (medians; {len(stalls)} saves)",
            flush=True,
        )

    def watchdog(self, millions: int) -> None:
        """Print what the watchdog costs a step."""
        times, steps = self.folder / "times", 60 * self.options.rounds

        def prepare() -> None:
            time_steps([], times, steps)
            watch_every_other_step()

        self.make(millions, steps, 10**6, prepare)
        took = durations(json.loads(times.read_text()))
        watched, plain = ([seconds for step, seconds in took if step % 2 == odd] for odd in (0, 1))
        ratios = [a / b for a, b in zip(watched, plain)]
        print(
            f"{millions:4} M  a step of {statistics.median(plain):.4f} s takes {statistics.median(ratios):.4f} of that "
            f"with the watchdog (median of {len(ratios)} pairs; ratio of medians "
            f"{statistics.median(watched) / statistics.median(plain):.4f})",
            flush=True,
        )


def durations(times: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Seconds of each step but the first few: to when the next step's metrics were asked for."""
    return [(step, after - at) for (step, at), (_, after) in itertools.pairwise(times) if step > SKIPPED]


def bare_watchdog() -> None:
    """Print what watching costs, without a step."""
    watchdog, count = Watchdog(0.0), 100_000
    begin = time.perf_counter()
    for step in range(count):
        with watchdog.watching("step", f"step {step}"):
            pass
    print(f"to watch an activity: {(time.perf_counter() - begin) / count * 1e6:.1f} microseconds")
    watchdog.close()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_time")
    parser.add_argument("--what", default="stop,save,watchdog")
    parser.add_argument("--millions", default="10", help="millions of parameters, by commas: 10, 125, 350")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq_len", type=int, default=128)
    options = parser.parse_args(argv[1:])
    with temporary_folder("loop-") as folder:
        runs = Runs(folder, options)
        if "watchdog" in options.what:
            bare_watchdog()
        for millions in map(int, options.millions.split(",")):
            for what in options.what.split(","):
                {"stop": runs.stop, "save": runs.save, "watchdog": runs.watchdog}[what](millions)


if __name__ == "__main__":
    main(sys.argv)

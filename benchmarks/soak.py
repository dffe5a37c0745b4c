"""Trains for a long time with a fault every minute or two, and checks that nothing was lost, repeated or changed.

python -m benchmarks.soak [--stage=pretrain|finetune] [--minutes=40] [--between=60,120] [--seed=0] [--layouts=...]

The same command is run again after each fault, on another layout (PROCESSESxDEVICES, on CPUs). Faults: KILL, TERM and
STOP of a process by chance, FLIP (a byte of the newest checkpoint, after a kill), FULL (a full disk). A fifth of them
come while the command starts. In the end:

- every launch went on from the newest whole checkpoint, and every command ended as docs/resuming.md says;
- every document was read exactly once an epoch, by the steps that led to the final state;
- each step read the rows that it reads in a run that nothing disturbs;
- the losses are those of that run: to the bit if all launches had its layout, else to --tolerance. (Fine-tuning comes
  to losses so small that the rounding of another layout shows in them; --layouts=1x8 compares it to the bit.)

The exit status is 1 if any of it does not hold. A line is printed for each fault, and the folder with everything.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.soak_faults import FAULTS, Outcome
from benchmarks.soak_run import digest
from benchmarks.soak_runs import (
    FINETUNE,
    PRETRAIN,
    Launch,
    Layout,
    checkpoints,
    last_step,
    losses,
    read_by_steps,
    write_corpus,
    write_examples,
    write_recipe,
)

STREAMS = 8
DISK = "200m"
PATIENCE = 3600.0
"""Seconds that a run may take that nothing disturbs."""


class Soak:
    """A run that is disturbed, and what is noted of it."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.stage: str = options.stage
        self.draw = random.Random(options.seed)
        self.layouts = [Layout(*map(int, name.split("x"))) for name in options.layouts.split(",")]
        self.workdir = folder / "disk" / "run"
        self.problems: list[str] = []
        self.outcomes: list[Outcome] = []
        self.launches = 0
        self.launch: Launch | None = None
        """The command that was started last."""
        self.damaged: set[int] = set()
        """Checkpoints that a fault has damaged, and that no launch has come to set aside."""
        self.resumes: list[float] = []
        """Seconds from each start to the first step."""

    def begin(self, layout: Layout | None = None, flags: Sequence[str] = ()) -> Launch:
        """Run the command once more, on a layout by chance."""
        layout = layout or self.draw.choice(self.layouts)
        self.launches += 1
        name = f"run{self.launches:04}"
        self.launch = Launch(self.stage, self.folder, self.workdir, name, layout, list(flags))
        return self.launch

    def say(self, words: str) -> None:
        """Print a line, with the time."""
        print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)

    def problem(self, words: str) -> None:
        """Note and print what is wrong."""
        self.problems.append(words)
        self.say(f"PROBLEM: {words}")

    def disturb(self) -> None:
        """Run, disturb, run again, until the time is over or the run has finished."""
        low, high = map(float, self.options.between.split(","))
        until = time.monotonic() + 60 * self.options.minutes
        launch, expected = self.begin(), 0
        while time.monotonic() < until:
            early = self.draw.random() < 0.2
            due = time.monotonic() + (self.draw.uniform(0, 25) if early else self.draw.uniform(low, high))
            while time.monotonic() < due and not launch.ended():
                time.sleep(0.1)
            if launch.ended():
                self.check_resumed(launch, expected)
                if (self.workdir / "finished.json").exists():
                    return
                self.problem(
                    f"{launch.log.name} ended by itself with exit status {launch.process.returncode}"
                )
                launch, expected = self.begin(), self.newest()
                continue
            name = self.draw.choice(self.options.faults.split(","))
            outcome = FAULTS[name](launch, self.draw)
            self.outcomes.append(outcome)
            self.tell(outcome, launch)
            if outcome.status is None:
                continue
            self.check_resumed(launch, expected)
            expected = self.newest()
            launch = self.begin()
        self.end(launch)

    def end(self, launch: Launch) -> None:
        """End the run that is under way."""
        outcome = FAULTS["TERM"](launch, self.draw)
        self.tell(outcome, launch)

    def newest(self) -> int:
        """The newest checkpoint that is whole."""
        return max((step for step in checkpoints(self.workdir) if step not in self.damaged), default=0)

    def tell(self, outcome: Outcome, launch: Launch) -> None:
        """Print how a command took a fault, and note what it damaged."""
        if launch.resumed_at() is not None:
            self.damaged.clear()  # the launch has set them aside
        if outcome.damaged is not None:
            self.damaged.add(outcome.damaged)
        how = "goes on" if outcome.status is None else f"exit status {outcome.status}"
        where = "all" if outcome.process < 0 else f"process {outcome.process}"
        self.say(
            f"{outcome.fault} {launch.layout} {where}, {time.monotonic() - launch.begin - outcome.seconds:.0f} s after "
            f"the start (from {launch.resumed_at() or 0}), step {outcome.step}: {how} after {outcome.seconds:.1f} s; "
            f"saved {self.newest()}" + "".join(f"; {note}" for note in outcome.notes)
        )
        for words in outcome.problems:
            self.problem(f"{outcome.fault} in {launch.log.name}: {words}")

    def check_resumed(self, launch: Launch, expected: int) -> None:
        """Compare where a launch went on with the newest whole checkpoint at its start."""
        found, output = launch.resumed_at(), launch.output()
        if found is not None and found != expected:
            self.problem(
                f"{launch.log.name} resumed at {found}, and {expected} was the newest whole checkpoint"
            )
        if "Traceback" in output:
            self.say(f"note: {launch.log.name} shows a traceback")
        for folder in (self.workdir / "checkpoints").glob("*.unreadable*"):
            shutil.rmtree(folder)  # the disk is small

    def finish(self) -> int:
        """Let the run make its last steps; returns how many it has made."""
        flags = []
        if self.stage == "pretrain":
            flags = [f"--config.steps={self.newest() + 20}", "--accept_changes"]
        launch = self.begin(self.layouts[0], flags)
        if launch.wait(PATIENCE) != 0:
            self.problem(f"{launch.log.name} did not finish: exit status {launch.process.poll()}")
            launch.kill()
        return last_step(self.workdir)

    def undisturbed(self, steps: int) -> Path:
        """Make the same run without faults; returns its workdir."""
        workdir = self.folder / "undisturbed"
        flags = [f"--config.steps={steps}"] if self.stage == "pretrain" else []
        launch = self.launch = Launch(self.stage, self.folder, workdir, "undisturbed", self.layouts[0], flags)
        if launch.wait(PATIENCE) != 0:
            self.problem(f"the undisturbed run ended with exit status {launch.process.poll()}")
            launch.kill()
        return workdir

    def compare(self, other: Path, steps: int) -> None:
        """Compare what was read, and the losses, with the run that nothing disturbed."""
        read, expected = (read_by_steps(self.folder, prefix, steps) for prefix in ("run", "undisturbed"))
        rows = {step: {row: found[0] for row, found in each.items()} for step, each in read.items()}
        right = {step: {row: found[0] for row, found in each.items()} for step, each in expected.items()}
        if wrong := [
            step for step in range(1, steps + 1) if rows.get(step) != right.get(step) or step not in rows
        ]:
            self.problem(f"{len(wrong)} steps read other rows, the first of them step {wrong[0]}")
        else:
            self.say(f"rows of all {steps} steps: as in the undisturbed run")
        mine, theirs = losses(self.workdir), losses(other)
        if mine.keys() != theirs.keys():
            self.problem(f"losses of other steps: {sorted(mine.keys() ^ theirs.keys())[:10]}")
        same = mine.keys() & theirs.keys()
        apart = {name: abs(mine[name] - theirs[name]) / max(abs(theirs[name]), 1e-30) for name in same}
        worst = max(apart, key=lambda name: apart[name])
        exact = sum(gap == 0 for gap in apart.values())
        self.say(
            f"losses: {len(apart)}, {exact} equal to the bit; relative difference at most {apart[worst]:.2g} ({worst})"
        )
        if not apart[worst] <= (self.options.tolerance if len(self.layouts) > 1 else 0.0):
            self.problem(f"losses differ by {apart[worst]:.2g}")
        if self.stage == "finetune":
            self.compare_results(other)
        else:
            self.check_documents(read, steps)

    def compare_results(self, other: Path) -> None:
        """Compare the scores of fine-tuning, which are counts of right answers: to the last digit."""
        mine, theirs = (json.loads((folder / "results.json").read_text()) for folder in (self.workdir, other))
        scores = [[run["metrics"] for run in found["runs"]] for found in (mine, theirs)]
        pairs = [(a[name], b[name]) for a, b in zip(*scores, strict=True) for name in b]
        if not all(math.isclose(a, b, rel_tol=1e-5) for a, b in pairs):
            self.problem(f"scores differ: {scores}")
        else:
            self.say(f"scores of {len(scores[0])} members: as in the undisturbed run")

    def check_documents(self, read: dict[int, dict[int, tuple[str, list[str]]]], steps: int) -> None:
        """Check that each stream read each of its documents once in each epoch, and the streams all of the corpus."""
        from tokenizer.load import load

        texts = (self.folder / "corpus.txt").read_text().splitlines()
        ids = load(str(self.workdir / "tokenizer")).encode(texts)
        wanted = Counter(digest(each) for each in ids)
        size = PRETRAIN["global_batch"] // STREAMS
        begun: list[Counter[str]] = []
        epochs: list[int] = []
        for stream in range(STREAMS):
            seen: list[Counter[str]] = [Counter()]
            for step in range(1, steps + 1):
                for row in range(stream * size, (stream + 1) * size):
                    for document in read[step][row][1]:
                        if document in seen[-1]:
                            seen.append(Counter())
                        seen[-1][document] += 1
            for number, epoch in enumerate(seen[:-1]):
                if epoch != seen[0]:
                    self.problem(f"stream {stream} read other documents in epoch {number} than in epoch 0")
            if not seen[-1] <= seen[0] and len(seen) > 1:
                self.problem(f"stream {stream} read documents that are not its own")
            begun.append(seen[0])
            epochs.append(len(seen) - 1)
        if min(epochs) and sum(begun, Counter()) != wanted:
            self.problem("the streams have not read every document of the corpus once")
        self.say(
            f"documents: {len(texts)}, each read once in each of {min(epochs)} to {max(epochs)} whole epochs"
        )
        if not min(epochs):
            self.problem("no epoch was read to its end: take fewer --documents")

    def summary(self, steps: int) -> None:
        """Print what happened."""
        for name in FAULTS:
            found = [each for each in self.outcomes if each.fault == name]
            ended = [each.seconds for each in found if each.status is not None]
            if found:
                times = (
                    f", median {statistics.median(ended):.1f} s, longest {max(ended):.1f} s" if ended else ""
                )
                self.say(f"{name}: {len(found)}, of which {len(ended)} ended the command{times}")
        self.say(
            f"{steps} steps, {self.launches} launches, {len(self.outcomes)} faults, {len(self.problems)} problems"
        )
        for words in self.problems:
            self.say(f"PROBLEM: {words}")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A small file system of its own at `folder`, where one can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if mounted:
            shutil.copytree(folder, folder.parent / "left", ignore=shutil.ignore_patterns("filler"))
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write the texts, the recipes, and the model that fine-tuning starts from."""
    write_corpus(folder / "corpus.txt", options.documents, options.seed)
    write_corpus(folder / "held_out.txt", 400, options.seed + 1)
    held_out = {"source": "files", "path": str(folder / "held_out.txt")}
    data = {"source": "files", "path": str(folder / "corpus.txt"), "streams": STREAMS, "window": 64}
    data |= {"packing": "documents", "eval_source": held_out}
    shared = {"compilation_cache": str(options.cache)}
    write_recipe(folder / "pretrain.py", {**PRETRAIN, **shared, "data": data})
    if options.stage == "pretrain":
        return
    for name, count in (("train", 640), ("validation", 100)):
        write_examples(folder / f"{name}.csv", count, options.seed + len(name))
    labelled = {"source": "files", **{name: str(folder / f"{name}.csv") for name in ("train", "validation")}}
    start = {"init_from": str(folder / "model"), "epochs": options.epochs}
    write_recipe(folder / "finetune.py", {**FINETUNE, **shared, **start, "data": labelled})
    launch = Launch("pretrain", folder, folder / "model", "model", Layout(1, 1), ["--config.steps=20"])
    if launch.wait(PATIENCE) != 0:
        raise SystemExit(f"the model could not be made: {launch.output()[-2000:]}")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--stage", choices=["pretrain", "finetune"], default="pretrain")
    parser.add_argument("--minutes", type=float, default=40.0, help="minutes in which faults are made")
    parser.add_argument("--between", default="60,120", help="least and most seconds between two faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default="1x8,2x4,4x1,1x1", help="the first is the undisturbed run's")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--documents", type=int, default=4000, help="documents of the corpus")
    parser.add_argument("--epochs", type=int, default=60, help="of fine-tuning, 40 steps each")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="of losses, where there are several layouts"
    )
    parser.add_argument("--folder", type=Path, help="a folder that does not exist yet, for everything")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/unmask/soak").expanduser())
    options = parser.parse_args(argv[1:])
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: everything of this soak", flush=True)
    with small_disk(folder / "disk"):
        prepare(options, folder)
        soak = Soak(options, folder)
        try:
            soak.disturb()
            steps = soak.finish()
            soak.compare(soak.undisturbed(steps), steps)
            soak.summary(steps)
        finally:
            if soak.launch is not None:
                soak.launch.kill()
    return 1 if soak.problems else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.pop("XLA_FLAGS", None)
    sys.exit(main(sys.argv))

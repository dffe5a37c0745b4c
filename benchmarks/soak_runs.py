"""The runs of the soak: their corpus, their recipes, their processes, and what they leave behind."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak_run import RECORDS

_SYLLABLES = [
    first + vowel + last for first in "bdfgklmnprstv" for vowel in "aeiou" for last in ("", "l", "n", "r")
]
WORDS = [one + two for one in _SYLLABLES[::3] for two in _SYLLABLES[::9]]
PRETRAIN = {
    "steps": 1_000_000,
    "global_batch": 16,
    "seq_len": 64,
    "time_limit": 120.0,
    "tokenizer": {"vocab_size": 1000, "min_frequency": 1},
    "model": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 66,
    },
    "optimizer": {"learning_rate": 3e-4},
    "schedule": {"name": "constant", "warmup_steps": 20},
    "log": {"every": 1},
    "eval": {"every": 100, "steps": 2},
    "checkpoint": {"every": 40, "keep": 3},
}
FINETUNE = {
    "seeds": 2,
    "global_batch": 16,
    "max_length": 48,
    "lengths": [48],
    "time_limit": 120.0,
    "optimizer": {"learning_rate": 3e-4},
    "log": {"every": 1},
    "eval": {"every": 100},
    "checkpoint": {"every": 40, "keep": 3},
}


@dataclass(frozen=True)
class Layout:
    """Processes and the devices of each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


def write_corpus(path: Path, count: int, seed: int) -> list[str]:
    """Write documents of 4 to 21 words, one a line, each with a number of its own; returns them."""
    draw = random.Random(seed)
    documents = [
        f"{number} " + " ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for number in range(count)
    ]
    path.write_text("\n".join(documents) + "\n")
    return documents


def write_examples(path: Path, count: int, seed: int) -> None:
    """Write a csv of sentences, labelled by whether they have a word of a kind."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for number in range(count):
            words = draw.choices(WORDS, k=draw.randint(3, 12))
            label = any(word.startswith("ba") for word in words)
            writer.writerow([f"{number} " + " ".join(words), "yes" if label else "no"])


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """Write a recipe with these values."""
    path.write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({values!r})\n"
    )


class Launch:
    """One call of a training command, on a layout."""

    def __init__(self, stage: str, folder: Path, workdir: Path, name: str, layout: Layout, flags: list[str]):
        """Start it; `name` names its output and its records, in `folder`."""
        self.layout, self.workdir, self.log = layout, workdir, folder / "logs" / f"{name}.log"
        self.begin, self.first_step = time.monotonic(), last_step(workdir)
        for place in ("logs", "records"):
            (folder / place).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.soak_run", stage, f"--config={folder / stage}.py"]
        command += [f"--workdir={workdir}", *flags]
        environment = {
            **os.environ,
            RECORDS: str(folder / "records" / name),
            "JAX_PLATFORMS": "cpu",
            "UNMASK_HEARTBEAT_SECONDS": os.environ.get("UNMASK_HEARTBEAT_SECONDS", "10"),
            "UNMASK_INITIALIZATION_SECONDS": "60",
            "NPROC": "16",
        }
        if layout.processes > 1:
            several = ["-n", str(layout.processes), "--devices-per-process", str(layout.devices)]
            command = [sys.executable, "-m", "launch.local", *several, "--", *command]
        else:
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={layout.devices}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ranks(self) -> list[int]:
        """The ids of the processes that train, in the order of their numbers."""
        if self.layout.processes == 1:
            return [self.process.pid] if self.process.poll() is None else []
        with contextlib.suppress(OSError):
            return sorted(
                map(
                    int,
                    Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split(),
                )
            )
        return []

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None where it has not ended within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def kill(self) -> None:
        """Kill the launcher and all processes."""
        for each in (*self.ranks(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def resumed_at(self) -> int | None:
        """The step that it went on from, once it has said so."""
        found = re.search(r"resumed at step (\d+)", self.output())
        return int(found[1]) if found else None

    def is_stepping(self) -> bool:
        """Whether it has made a step."""
        last = last_step(self.workdir)
        return last != self.first_step and last > (self.resumed_at() or 0)


def checkpoints(workdir: Path) -> list[int]:
    """The steps of the committed checkpoints, ascending."""
    folder = workdir / "checkpoints"
    return (
        sorted(int(each.name) for each in folder.iterdir() if each.name.isdecimal())
        if folder.exists()
        else []
    )


def metrics(workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics."""
    file = workdir / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def last_step(workdir: Path) -> int:
    """The last step whose metrics are written; 0 where there is none."""
    with (
        contextlib.suppress(OSError, ValueError, LookupError),
        (workdir / "metrics.jsonl").open("rb") as file,
    ):
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        return int(json.loads(file.read().splitlines()[-1])["step"])
    return 0


def losses(workdir: Path) -> dict[str, float]:
    """Every loss that a run has logged, by its file, name and step."""
    return {
        f"{folder.name if folder != workdir else ''} {name} {line['step']}": value
        for folder in (workdir, *sorted(workdir.glob("runs/*")))
        for line in metrics(folder)
        for name, value in line.items()
        if name in ("train/loss", "eval/loss")
    }


def read_by_steps(folder: Path, prefix: str, last: int) -> dict[int, dict[int, tuple[str, list[str]]]]:
    """What each step up to `last` read, by row: what was read last, which is what led to the final state."""
    steps: dict[int, dict[int, tuple[str, list[str]]]] = {}
    for file in sorted((folder / "records").glob(f"{prefix}*.jsonl")):
        for text in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill has cut
                line = json.loads(text)
                if line["step"] <= last:
                    steps.setdefault(line["step"], {}).update(
                        {int(row): (found[0], found[1]) for row, found in line["rows"].items()}
                    )
    return steps

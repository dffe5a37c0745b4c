"""The cloud that tests of the launcher meet: a stand-in for gcloud on PATH, its state, and what was asked of it."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

from launch import subprocesses
from launch.archive import Archive, _pack
from launch.subprocesses import Runner
from launch.tpu import __main__ as tpu
from launch.tpu import machines

STAND_IN = Path(__file__).with_name("stand_in.py")
NAME = "pod"
PLACE = ("--config.tpu.project=proj", "--config.tpu.zone=us-central2-b")

PYTHON = """#!/bin/sh
# Stands for a Python that makes environments: this one's own, without installing anything.
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin" && ln -s "$0" "$3/bin/python"; exit
elif [ "$1 $2" = "-m pip" ]; then
    printf '%s\\n' "$*" >> "$STAND_IN/pip"; exit
fi
exec {python} "$@"
"""
"""The program that the machines' Python is: `-m venv` and `-m pip` are played."""


class Cloud:
    """A cloud in a folder."""

    def __init__(self, folder: Path, monkeypatch, hosts: int = 2):
        self.folder = folder
        self.pauses: list[float] = []
        folder.mkdir(exist_ok=True)
        settings = {"project": "own-project", "compute/zone": "own-zone", "hosts": hosts, "environment": {}}
        self.write({"settings": settings, "queued-resources": {}, "tpu-vm": {}})
        (folder / "buckets" / "bucket").mkdir(parents=True)
        (folder / "answers").mkdir()
        (folder / "calls").mkdir()
        self._program("gcloud", f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} "$@"\n')
        self._program("python3", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        self._program("python3.11", PYTHON.format(python=sys.executable))
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("STAND_IN", str(folder))
        for module in (
            subprocesses,
            machines,
        ):  # a checkout of its own: other tests stage files at the same time
            monkeypatch.setattr(module, "ROOT", folder)
        (folder / "launch").symlink_to(Path(subprocesses.__file__).parent)
        pauses = self.pauses
        monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: pauses.append(seconds))
        weakref.finalize(self, end_jobs, folder)

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def read(self) -> dict:
        return json.loads((self.folder / "cloud.json").read_text())

    def write(self, state: dict) -> None:
        (self.folder / "cloud.json").write_text(json.dumps(state))

    def set(self, **settings) -> None:
        state = self.read()
        state["settings"].update(settings)
        self.write(state)

    def add(self, queued="ACTIVE", node="READY", label=NAME, name=NAME, kind="v4-16") -> None:
        """Put a pod there."""
        state, labels = self.read(), {"unmask-pod": label} if label else {}
        if queued:
            state["queued-resources"][name] = {"state": queued, "labels": labels, "nodes": [name]}
        if node:
            state["tpu-vm"][name] = {"state": node, "labels": labels, "port": 1, "type": kind}
            for worker in range(state["settings"]["hosts"]):
                self.home(worker, name).mkdir(parents=True, exist_ok=True)
        self.write(state)

    def home(self, worker=0, node=NAME) -> Path:
        return self.folder / "homes" / f"{node}.{worker}"

    def answer(self, *match: str, **answer) -> None:
        """Script an answer for the next call that has these words."""
        number = len(list((self.folder / "answers").iterdir()))
        (self.folder / "answers" / f"{number:03}.json").write_text(json.dumps({"match": match, **answer}))

    def queued_state(self, *states: str) -> None:
        """Script the states that the queued resource goes through, as it is asked about."""
        spec = {"tpu": {"nodeSpec": [{"node": {"labels": {"unmask-pod": NAME}}}]}}
        for state in states:
            answer = json.dumps({"state": {"state": state}, **spec})
            self.answer("queued-resources", "describe", stdout=answer)

    @property
    def calls(self) -> list[list[str]]:
        return [path.read_text().split("\0") for path in sorted((self.folder / "calls").glob("*[0-9]"))]

    def verbs(self, *wanted: str) -> list[str]:
        """What was asked for, in order: 'create', 'delete', ... or the command of remote.py."""
        found = []
        for call in self.calls:
            verb = (
                call[5] if call[1:3] == ["alpha", "compute"] else call[4] if call[1] == "compute" else call[1]
            )
            command = next((word for word in call if word.startswith("--command=")), "")
            if "remote.py" in command:
                verb = command.split("remote.py ")[1].split(" ")[0]
            found.append(verb)
        return [verb for verb in found if not wanted or verb in wanted]

    def preempt(self, node=NAME) -> None:
        """Take the machines of a pod away, as the cloud does with spot machines."""
        subprocess.run([sys.executable, "-I", "-S", STAND_IN, "preempt", node], check=True)

    @property
    def empty(self) -> bool:
        state = self.read()
        return not state["queued-resources"] and not state["tpu-vm"]


def launch(*arguments: str, command: list[str] | None = None) -> int:
    """Run the launcher in this process: COMMAND [flags]; the pod is NAME, a v4-16 in a place that is given."""
    verb, *flags = arguments
    argv = [
        "launch/tpu/__main__.py",
        verb,
        NAME,
        "--config.tpu.accelerator=v4-16",
        *PLACE,
        "--config.source=archive",
        *flags,
    ]
    return tpu.main([*argv, "--", *command] if command else argv)


def end_jobs(folder: Path) -> None:
    """Let the jobs that still hold come to their end, when the test of a cloud is over."""
    with contextlib.suppress(FileNotFoundError):
        (folder / "go").touch()


SHOW = """
import hashlib, json, os, pathlib, sys, time
here = pathlib.Path(os.environ["STAND_IN"])
hashed = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in os.environ.items()}
with open("starts", "a") as starts:
    starts.write("started\\n")
pathlib.Path("arguments.json").write_text(json.dumps([sys.argv[1:], hashed]))
print("first line")
while "--hold" in sys.argv and here.exists() and not (here / "go").exists():
    time.sleep(0.05)
print("last line")
sys.exit(int(os.environ.get("EXIT", "0")))
"""
"""A job that writes down what it was given, and waits for FOLDER/go if it is told to hold."""


def tiny_archive(config, root, environment=None) -> Archive:
    """The code of a project that has one module, `show`."""
    content = _pack({"show.py": (SHOW.encode(), 0o644), "constraints.txt": (b"", 0o644)})
    return Archive(content, hashlib.sha256(content).hexdigest(), "a tiny project", frozenset({"show.py"}))

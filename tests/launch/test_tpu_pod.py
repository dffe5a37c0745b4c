"""launch/tpu_pod.sh sends the cloud what the tool sends, in the same order."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from launch import subprocesses
from launch.archive import is_secret
from launch.subprocesses import Runner
from launch.tpu import __main__ as tpu
from tests.launch.cloud import NAME, Cloud, launch, tiny_archive
from tests.launch.secret_names import PLAIN, SECRETS

SCRIPT = Path(subprocesses.__file__).with_name("tpu_pod.sh")
PLACE = {
    "NAME": NAME,
    "PROJECT": "proj",
    "ZONE": "us-central2-b",
    "TYPE": "v4-16",
    "RUNTIME": "tpu-ubuntu2204-base",
    "POLL_SECONDS": "0.05",
}
COMMAND = ["python", "-m", "show", "--workdir=gs://bucket/run", "two words", "$HOME; `id`"]


def changes(calls):
    """Calls that change something, and the one that follows the log."""
    looks = ("describe", "storage", "config")
    return [
        call
        for call in calls
        if not any(word in call for word in looks) and "remote.py status" not in call[-2]
    ]


def project(cloud, *names):
    """A checkout of the script and of a tiny project with these files, which are committed."""
    # The script's own Python finds the checkout, which that of the machines does not.
    cloud._program("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    checkout = cloud.folder / "checkout"
    for package in ("launch", "base"):
        ours = SCRIPT.parents[1] / package
        shutil.copytree(ours, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    archive = tiny_archive(None, None)
    subprocess.run(["tar", "-xz"], cwd=checkout, input=archive.content, check=True)
    (checkout / ".gitignore").write_text("__pycache__/\n.cache/\n")
    for name in names:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(f"canary-of-{name}")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        own = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *own, *words], cwd=checkout, check=True)
    return checkout


def test_the_script_does_what_the_tool_does(tmp_path, monkeypatch):
    monkeypatch.setattr(tpu, "make_archive", tiny_archive)
    cloud = Cloud(tmp_path / "tool", monkeypatch)
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: time.sleep(0.05))
    assert launch("up", command=COMMAND) == 0
    expected = changes(cloud.calls)
    given = json.loads((cloud.home() / "unmask" / NAME / "job.json").read_text())

    other = Cloud(tmp_path / "script", monkeypatch)
    names = [f"own/{name}" for name in (*SECRETS, *PLAIN)]
    checkout = project(other, *names)
    shown = subprocess.run(
        [checkout / "launch" / "tpu_pod.sh", *COMMAND],
        env={**os.environ, **PLACE},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert "first line\nlast line" in shown.stdout
    assert "launch: left out, because such files often hold secrets: " in shown.stderr
    assert changes(other.calls) == expected
    done = json.loads((other.home() / "unmask" / NAME / "job.json").read_text())
    code = other.home() / "unmask" / NAME / "code"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True
    )
    committed = set(listed.stdout.split("\0")) - {""}
    assert {"show.py", *names} <= committed
    sent = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert sent & committed == {name for name in committed if not is_secret(name)}
    own = ("launch", "run", "digest")  # another launch, by other means
    assert {**done, **dict.fromkeys(own)} == {**given, **dict.fromkeys(own)}
    assert not (checkout / ".cache" / "launch" / NAME).exists()


def test_the_script_makes_no_pod_for_code_that_holds_a_secret(tmp_path, monkeypatch):
    cloud = Cloud(tmp_path / "cloud", monkeypatch)
    checkout = project(cloud, "notes.md")
    variables = {**os.environ, **PLACE, "HF_TOKEN": "canary-of-notes.md"}
    done = subprocess.run(
        [checkout / "launch" / "tpu_pod.sh", "true"], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: notes.md holds the value of HF_TOKEN, ")
    assert done.stderr.count("\n") == 1 and cloud.calls == []


def test_the_script_refuses_a_name_that_a_shell_would_read():
    named = dict.fromkeys(("PROJECT", "ZONE", "TYPE", "RUNTIME"), "x") | {"NAME": "a; touch x"}
    done = subprocess.run([SCRIPT, "true"], env={**os.environ, **named}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "NAME=a; touch x should be small letters, digits and hyphens\n",
    )

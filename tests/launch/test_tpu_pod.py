"""launch/tpu_pod.sh sends the cloud what the tool sends, in the same order."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from launch import runner, tpu
from launch.runner import Runner
from tests.launch.cloud import NAME, Cloud, launch, tiny_archive

COMMAND = ["python", "-m", "show", "--workdir=gs://bucket/run", "two words", "$HOME; `id`"]


def changes(calls):
    """Calls that change something, and the one that follows the log."""
    looks = ("describe", "storage", "config")
    return [
        call
        for call in calls
        if not any(word in call for word in looks) and "remote.py status" not in call[-2]
    ]


def test_the_script_does_what_the_tool_does(tmp_path, monkeypatch):
    script = Path(runner.__file__).with_name("tpu_pod.sh")
    monkeypatch.setattr(tpu, "make_archive", tiny_archive)
    cloud = Cloud(tmp_path / "tool", monkeypatch)
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: time.sleep(0.05))
    assert launch("up", command=COMMAND) == 0
    expected = changes(cloud.calls)
    given = json.loads((cloud.home() / "unmask" / NAME / "job.json").read_text())

    other = Cloud(tmp_path / "script", monkeypatch)
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(script, checkout / "launch")
    shutil.copy(script.with_name("remote.py"), checkout / "launch")
    archive = tiny_archive(None, None)
    subprocess.run(["tar", "-xz"], cwd=checkout, input=archive.content, check=True)
    secrets = (".env", "sub/Service-Account.json", "sub/my.PEM", "id_rsa")
    for name in secrets:
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("canary")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        own = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *own, *words], cwd=checkout, check=True)
    variables = {
        "NAME": NAME,
        "PROJECT": "proj",
        "ZONE": "us-central2-b",
        "TYPE": "v4-16",
        "RUNTIME": "tpu-ubuntu2204-base",
        "POLL_SECONDS": "0.05",
    }
    shown = subprocess.run(
        [checkout / "launch" / "tpu_pod.sh", *COMMAND],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert "first line\nlast line" in shown.stdout
    assert changes(other.calls) == expected
    done = json.loads((other.home() / "unmask" / NAME / "job.json").read_text())
    code = other.home() / "unmask" / NAME / "code"
    assert (code / "show.py").exists() and not any((code / name).exists() for name in secrets)
    own = ("launch", "run", "digest")  # another launch, by other means
    assert {**done, **dict.fromkeys(own)} == {**given, **dict.fromkeys(own)}
    assert not (checkout / ".cache" / "launch" / NAME).exists()


def test_the_script_refuses_a_name_that_a_shell_would_read():
    script = Path(runner.__file__).with_name("tpu_pod.sh")
    named = dict.fromkeys(("PROJECT", "ZONE", "TYPE", "RUNTIME"), "x") | {"NAME": "a; touch x"}
    done = subprocess.run([script, "true"], env={**os.environ, **named}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "NAME=a; touch x should be small letters, digits and hyphens\n",
    )

"""What a machine of a pod does with what it is sent: which environment it makes, and what its job is given."""

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from launch.tpu import remote
from tests.launch.cloud import PYTHON

SECONDS = 60
SETTINGS = {"python": "python3.11", "extras": ["tpu"]}
PROJECT = {"pyproject.toml": "[project]\n", "constraints.txt": "jax==0.10.2\n", "train.py": "first\n"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The module as it lies on a machine; `python3.11` and `python3.12` are there, and play what they install."""
    (tmp_path / "bin").mkdir()
    for name in ("python3.11", "python3.12"):
        (tmp_path / "bin" / name).write_text(PYTHON.format(python=sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    (home / "remote.py").write_text(Path(remote.__file__).read_text())
    spec = importlib.util.spec_from_file_location("remote_on_a_machine", home / "remote.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def send(machine, project=PROJECT, **settings):
    """Copy code and settings to the machine, as the launcher does, and set it up."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in project.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    (machine.HERE / "code.tar.gz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    (machine.HERE / "setup.json").write_text(json.dumps({**SETTINGS, **settings}))
    return machine.setup({})


def installed(machine):
    """What the environment is: the Python that made it, and what pip was last told to install."""
    pip = (machine.HERE.parent / "pip").read_text().splitlines()
    return (machine.VENV / "bin" / "python").readlink().name, pip[-1].split()[-1], len(pip)


def test_an_environment_is_made_once(machine):
    first = send(machine)
    (machine.VENV / "left").touch()
    assert send(machine) == first and list(first) == ["archive"]
    assert installed(machine) == ("python3.11", ".[tpu]", 1)
    assert send(machine, {**PROJECT, "train.py": "second\n"}) != first
    assert (machine.CODE / "train.py").read_text() == "second\n"
    assert installed(machine) == ("python3.11", ".[tpu]", 1)
    assert (machine.VENV / "left").exists()


@pytest.mark.parametrize(
    ("project", "settings", "expected"),
    [
        ({}, {"python": "python3.12"}, ("python3.12", ".[tpu]", 2)),
        ({}, {"extras": ["cuda"]}, ("python3.11", ".[cuda]", 2)),
        ({}, {"extras": []}, ("python3.11", ".", 2)),
        ({"constraints.txt": "jax==0.10.1\n"}, {}, ("python3.11", ".[tpu]", 2)),
        ({"pyproject.toml": "[project]\nname='x'\n"}, {}, ("python3.11", ".[tpu]", 2)),
    ],
)
def test_an_environment_of_anything_else_is_made_anew(project, settings, expected, machine):
    send(machine)
    (machine.VENV / "left").touch()
    assert "archive" in send(machine, {**PROJECT, **project}, **settings)
    assert installed(machine) == expected
    assert not (machine.VENV / "left").exists()
    assert json.loads((machine.HERE / "installed.json").read_text())["python"] == expected[0]


@pytest.mark.parametrize("broken", ["bin/python", "made.json"])
def test_an_environment_whose_making_broke_off_is_made_anew(broken, machine):
    send(machine)
    (machine.VENV / broken).unlink()
    (machine.VENV / "left").touch()
    send(machine)
    assert installed(machine) == ("python3.11", ".[tpu]", 2)
    assert not (machine.VENV / "left").exists()


def test_a_python_that_cannot_make_an_environment_is_an_answer_and_tried_again(machine):
    send(machine)
    good = machine.HERE.parent / "bin" / "python3.12"
    text = good.read_text()
    good.write_text("#!/bin/sh\necho no room left; exit 1\n")
    with pytest.raises(ValueError, match="no room left"):
        send(machine, python="python3.12")
    assert not (machine.HERE / "installed.json").exists()
    good.write_text(text)
    send(machine, python="python3.12")
    assert installed(machine) == ("python3.12", ".[tpu]", 2)


def test_a_start_that_is_sent_again_takes_nothing_from_the_first(machine):
    send(machine)
    slow = machine.HERE.parent / "slow"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    # The second start comes before the job has begun.
    program = f"import remote, sys; sys.executable = {str(slow)!r}; remote.SECONDS_TO_START = 0; "
    start = [sys.executable, "-c", f"{program} remote.main(['start'])"]
    write = "import os, sys; open('seen', 'w').write(sys.argv[1] + os.environ.get('FLAVOUR', ' nothing'))"
    job = {"launch": "1", "run": "r", "digest": "d", "secrets": {}, "project": "p", "distributed": False}
    job["command"] = ["python3.11", "-c", write, "first "]
    (machine.HERE / "job.json").write_text(json.dumps(job))
    (machine.HERE / "env.json").write_text(json.dumps({"FLAVOUR": "vanilla"}))
    answers = [subprocess.run(start, cwd=machine.HERE, capture_output=True, text=True) for _ in range(2)]
    assert ['"started": true' in answer.stdout for answer in answers] == [True, False], answers
    assert not (machine.HERE / "env.json").exists()
    (machine.HERE / "job.json").write_text(json.dumps({**job, "command": ["false"], "launch": "2"}))
    until = time.monotonic() + SECONDS
    while "exit" not in machine.state() and time.monotonic() < until:
        time.sleep(0.05)
    assert machine.state()["exit"] == 0, machine.LOG.read_text()
    assert (machine.CODE / "seen").read_text() == "first vanilla"

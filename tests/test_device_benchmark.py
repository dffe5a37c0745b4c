"""`python -m benchmarks.device`: what it refuses, what it says of a failure, and that nothing outlives its time."""

import fcntl
import time

import pytest

from benchmarks import device

SECTION = """
import fcntl, subprocess, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
quiet = subprocess.DEVNULL
subprocess.Popen(["sleep", "20"], pass_fds=[file.fileno()], stdout=quiet, stderr=quiet)
print("started", flush=True)
time.sleep(60)
"""


def is_free(path, within):
    """Whether no process holds the lock of a file, or none does any more after some seconds."""
    end = time.monotonic() + within
    with path.open() as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.05)
    return False


def test_a_section_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path):
    (tmp_path / "section.py").write_text(SECTION)
    printed, problem = device.python(
        ["section", str(tmp_path / "lock")], 2, is_section=True, PYTHONPATH=str(tmp_path)
    )
    assert (printed, problem) == ("started\n", "not finished after 2 s")
    assert is_free(tmp_path / "lock", within=5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ("kernel", "'kernel' is none of losses, train, seeds, kernels"),
        ("seeds", "seeds need the network that train leaves: --sections=train,seeds"),
    ],
)
def test_sections_that_cannot_run_are_refused(sections, message, capsys):
    with pytest.raises(SystemExit) as refused:
        device.parse([f"--sections={sections}"])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("problem", "status"), [("exit status 1", 1), ("", 0)])
def test_a_section_that_fails_makes_the_exit_status_1(tmp_path, monkeypatch, capsys, problem, status):
    monkeypatch.setattr(device, "python", lambda *_, **__: ("its output\n", problem))
    assert device.main(["--small", "--sections=losses", f"--json={tmp_path / 'found.json'}"]) == status
    printed = capsys.readouterr().out
    assert "its output\n" in printed
    assert ("losses failed: exit status 1\n" in printed) == bool(problem)


def test_a_run_that_fails_within_a_section_makes_the_section_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(device, "python", lambda *_, **__: ("config.seq_len is wrong\n", "exit status 2"))
    arguments = ["--small", "--only=losses", f"--folder={tmp_path}", f"--json={tmp_path / 'found.json'}"]
    assert device.main(arguments) == 1
    assert "exit status 2\nconfig.seq_len is wrong" in capsys.readouterr().out
    assert (tmp_path / "found.json").exists()

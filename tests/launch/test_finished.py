"""A run that was stopped and saved exits 0, as a finished one does: which of the two it was, and signals on the way."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from base.errors import UserError
from launch.finished import HUNG, UNFINISHED, main
from pretrain.runtime import processes

ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


def test_the_marker_of_a_finished_run_is_looked_for(tmp_path):
    one, other = str(tmp_path / "results.json"), str(tmp_path / "glue.json")
    assert main(["finished", one, other]) == UNFINISHED == 75
    assert processes.LATE == HUNG
    Path(other).touch()
    assert main(["finished", one, other]) == 0


def test_the_status_of_a_command_that_failed_is_kept(tmp_path):
    marker = str(tmp_path / "finished.json")
    assert main(["finished", marker, *python("")]) == 75
    assert main(["finished", marker, *python("raise SystemExit(2)")]) == 2
    assert main(["finished", marker, *python(f"raise SystemExit({processes.LATE})")]) == 1  # it has hung
    assert main(["finished", marker, *python("import os; os.kill(os.getpid(), 9)")]) == 137
    assert main(["finished", marker, *python(f"open({marker!r}, 'w')")]) == 0


def test_python_is_the_interpreter_that_runs_it(tmp_path):
    marker = tmp_path / "finished.json"
    write = f"import sys; open({str(marker)!r}, 'w').write(sys.executable)"
    assert main(["finished", str(marker), "--", "python", "-c", write]) == 0
    assert marker.read_text() == sys.executable


def test_a_bucket_is_asked_too(tmp_path, monkeypatch):
    from etils import epath

    asked = []
    monkeypatch.setattr(epath, "Path", lambda path: asked.append(path) or tmp_path)
    assert main(["finished", "gs://bucket/big/finished.json"]) == 0
    assert asked == ["gs://bucket/big/finished.json"]


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "no marker"), (["x", "--", "not-here-1"], "cannot be")]
)
def test_a_mistake_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        main(["finished", *arguments])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command(tmp_path, number):
    code = (
        "import pathlib, signal, sys, time\n"
        "def stop(number, frame): pathlib.Path('saved').touch(); sys.exit()\n"
        f"signal.signal({int(number)}, stop)\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(120)"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "launch.finished", "finished.json", *python(code)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(60) == UNFINISHED
    assert (tmp_path / "saved").exists()


def test_help_says_what_it_is_for(capsys):
    assert main(["finished", "--help"]) == 0
    assert "python -m launch.finished MARKER" in capsys.readouterr().out

"""The launcher of one machine: what each process is given, whose output is whose, and how all of them end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from base.errors import UserError
from launch.launch_command import with_own_python
from launch.local import environments_of, gpus_of, main

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "launch.local"]
PATIENCE = 120
"""Seconds after which something is taken to hang."""


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAUNCH, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*LAUNCH, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_each_process_has_its_number_and_its_output_too(tmp_path):
    script = "echo this is $JAX_PROCESS_ID of $JAX_NUM_PROCESSES; echo a complaint >&2; printf 'no newline'"
    done = launch("-n", "2", "--log-dir", str(tmp_path), "--", "sh", "-c", script)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        "[0] no newline",
        "[0] this is 0 of 2",
        "[1] no newline",
        "[1] this is 1 of 2",
    ]
    assert sorted(done.stderr.splitlines()) == ["[0] a complaint", "[1] a complaint"]
    assert sorted((tmp_path / "1.log").read_text().splitlines()) == [
        "a complaint",
        "no newline",
        "this is 1 of 2",
    ]


def test_arguments_reach_the_command_as_they_are():
    argument = "a b' \"$HOME `x` ; --\n-n 3"
    show = "import sys; print(repr(sys.argv[1:]))"
    done = launch("-n", "1", "--", sys.executable, "-c", show, argument, "--", "-n")
    assert done.stdout == f"[0] {[argument, '--', '-n']!r}\n"


@pytest.mark.parametrize(
    "words", [["python"], ["python3"], ["env", "X=1", "python"], ["sh", "-c", 'python "$@"', "sh"]]
)
def test_python_is_the_interpreter_that_runs_the_launcher(words):
    show = "import sys; print(sys.prefix)"
    without = {**os.environ, "PATH": os.defpath}
    done = subprocess.run(
        [*LAUNCH, "-n", "1", "--", *words, "-c", show], cwd=ROOT, env=without, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"[0] {sys.prefix}\n", "")


def test_a_python_that_is_named_otherwise_stays_as_it_is_written(tmp_path):
    (tmp_path / "python").symlink_to("/bin/echo")
    done = launch("-n", "1", "--", str(tmp_path / "python"), "python3")
    assert done.stdout == "[0] python3\n"
    assert with_own_python(["python2", "x"]) == ["python2", "x"]
    assert with_own_python(["python3.9", "-m", "python"]) == ["python3.9", "-m", "python"]


def test_the_environment_of_processes_on_the_cpu():
    first, second = environments_of(2, 3, {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0,1"})
    assert first.pop("JAX_COORDINATOR_ADDRESS") == second.pop("JAX_COORDINATOR_ADDRESS")
    assert first == {
        "UNMASK_DISTRIBUTED": "1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "3",
        "NPROC": "16",
    }
    assert second == {**first, "JAX_PROCESS_ID": "1"}


def test_each_process_has_gpus_of_its_own():
    given = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert gpus_of(given) == ["4", "5", "6", "7"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments_of(2, 2, given)] == ["4,5", "6,7"]
    assert "JAX_PLATFORMS" not in environments_of(1, 1, given)[0]
    with pytest.raises(UserError, match=r"3 processes of 2 GPUs need 6, and there are 4; lower -n"):
        environments_of(3, 2, given)
    assert gpus_of({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_when_one_fails_the_others_are_ended_and_its_exit_status_is_returned():
    script = """
        if [ $JAX_PROCESS_ID = 1 ]; then sleep 0.5; exit 7; fi
        trap 'echo asked to stop; exit 3' TERM; while :; do sleep 0.1; done
    """
    done = launch("-n", "3", "--", "sh", "-c", script)
    assert done.returncode == 7
    assert sorted(done.stdout.splitlines()) == ["[0] asked to stop", "[2] asked to stop"]
    assert done.stderr == "launch.local: process 1 has exit status 7\n"


@pytest.mark.parametrize("how", ["trap '' TERM; while :; do sleep 0.1; done", "kill -STOP $$"])
def test_one_that_does_not_end_is_killed(how):
    script = f"[ $JAX_PROCESS_ID = 1 ] && sleep 0.2 && kill -9 $$; {how}"
    done = launch("-n", "2", "--grace", "0.5", "--", "sh", "-c", script)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr == (
        "launch.local: process 1 was ended by SIGKILL\n"
        "launch.local: 1 processes have not ended within 0.5 s: killed\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_every_process(number):
    script = f"trap 'echo got it; exit 0' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    launcher = start("-n", "2", "--", "bash", "-c", script)
    ready = [launcher.stdout.readline() for _ in range(2)]
    assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=PATIENCE)
    assert sorted(output.splitlines()) == ["[0] got it", "[1] got it"]
    assert launcher.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_no_process_outlives_a_killed_launcher():
    launcher = start("-n", "2", "--", "sh", "-c", "echo $$; exec sleep 1000")
    pids = [int(launcher.stdout.readline().split()[1]) for _ in range(2)]
    launcher.kill()
    launcher.communicate(timeout=PATIENCE)
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "they live on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "2"], "no command given; write it after --"),
        (["-n", "2", "--"], "no command given; write it after --"),
        (["-n", "0", "--", "true"], "--processes=0 should be 1 or more"),
        (["-n", "two", "--", "true"], "argument -n/--processes: invalid int value: 'two'"),
        (["--", "true"], "the following arguments are required: -n/--processes"),
        (["-n", "1", "--devices-per-process=0", "--", "true"], "--devices-per-process=0 should be 1 or more"),
        (["-n", "1", "--grace=-1", "--", "true"], "--grace=-1 should be 0 or more"),
        (["-n", "1", "true"], "unexpected argument 'true'"),
        (["-n", "1", "--log-dir=/dev/null/x", "--", "true"], "--log-dir=/dev/null/x cannot be written"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    with pytest.raises(UserError) as error:
        main(["launch.local", *arguments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Where a process is started, the launcher is one of its own: this one may have JAX's threads by now.


def test_a_command_that_is_not_there_is_one_line():
    done = launch("-n", "1", "--", "/no/such/program")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: '/no/such/program' cannot be started: No such file or directory"
    ]


def test_signal_handlers_are_given_back():
    code = (
        "import signal; from launch.local import main; before = signal.getsignal(signal.SIGTERM); "
        "status = main(['launch.local', '-n', '1', '--', 'true']); "
        "print(status, signal.getsignal(signal.SIGTERM) is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 True\n", "")

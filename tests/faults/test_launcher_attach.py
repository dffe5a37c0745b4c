"""TPU VMs that somebody else made: used with --attach, never created and never deleted."""

import os
import signal
import time

import pytest

from base.errors import UserError
from launch.subprocesses import Runner
from launch.tpu import __main__ as tpu
from tests.launch.cloud import NAME, Cloud, launch, tiny_archive

COMMAND = ["python", "-m", "show", "--workdir=gs://bucket/run"]


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(tpu, "make_archive", tiny_archive)
    cloud = Cloud(tmp_path / "cloud", monkeypatch, hosts=2)
    cloud.add(None, "READY", label="")
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: time.sleep(0.05))
    return cloud


def untouched(cloud) -> bool:
    """Whether the tool has created and deleted nothing."""
    return cloud.verbs("create", "delete") == []


def on_first_pause(monkeypatch, happen) -> None:
    """Do something once while the launcher waits for the job."""
    left = [happen]

    def sleep(runner, seconds):
        while left:
            left.pop()()
        time.sleep(0.05)

    monkeypatch.setattr(Runner, "sleep", sleep)


@pytest.mark.parametrize("queued", [None, "ACTIVE"])
def test_an_attached_vm_is_used_and_left_as_it_is(queued, cloud, capfd):
    cloud.add(queued, "READY", label="")
    assert launch("up", "--attach", command=COMMAND) == 0
    assert cloud.verbs("create", "delete", "setup", "start") == ["setup", "start"]
    told = capfd.readouterr()
    assert told.out.splitlines() == ["[0] first line", "[0] last line"]
    assert told.err.splitlines()[-1] == f"launch: {NAME} was attached, and is left as it is"
    assert [launch("status"), launch("stop")] == [0, 0]
    told = capfd.readouterr()
    assert "v4-16, not made by this tool" in told.out and "no job was running" in told.err
    with pytest.raises(UserError, match=rf"^{NAME} .* was not made by this tool, and is not deleted"):
        launch("delete")
    assert untouched(cloud) and not cloud.empty


@pytest.mark.parametrize("verb", ["up", "create", "setup", "run"])
@pytest.mark.parametrize("state", ["READY", "PREEMPTED"])
def test_a_vm_of_somebody_else_is_refused_without_the_flag(verb, state, cloud):
    cloud.add(None, state, label="")
    with pytest.raises(UserError, match=rf"^{NAME} exists \(TPU VM {NAME} {state}\), .* add --attach to up"):
        launch(verb, command=COMMAND if verb in ("up", "run") else None)
    assert untouched(cloud) and cloud.verbs("setup", "start") == []


@pytest.mark.parametrize(
    ("state", "remedy", "made_by_us"),
    [
        ("PREEMPTED", "delete it and create it again", False),
        ("PREEMPTED", "delete it and create it again", True),
        ("STOPPED", "start it again", False),
        (None, "create it again", False),
    ],
)
def test_an_attached_vm_that_is_lost_ends_the_launcher(state, remedy, made_by_us, cloud, monkeypatch, capfd):
    def lose():
        there = cloud.read()
        if state:
            there["tpu-vm"][NAME]["state"] = state
        else:
            del there["tpu-vm"][NAME]
        cloud.write(there)
        (cloud.folder / "go").touch()

    cloud.add(None, "READY", label=NAME if made_by_us else "")
    on_first_pause(monkeypatch, lose)
    assert launch("up", "--attach", command=[*COMMAND, "--hold"]) == 75
    line = next(line for line in capfd.readouterr().err.splitlines() if "interrupted" in line)
    assert line.endswith(f"its owner has to {remedy}; the same command goes on with the run: gs://bucket/run")
    assert untouched(cloud)


def test_an_attached_vm_that_restarts_is_waited_for(cloud):
    for state in ("RESTARTING", "REPAIRING"):
        cloud.answer("tpu-vm", "describe", stdout=f'{{"state": "{state}"}}')
    assert launch("up", "--attach", command=COMMAND) == 0
    assert untouched(cloud)


def test_a_job_that_fails_leaves_an_attached_vm(cloud):
    cloud.set(environment={"EXIT": "1"})
    assert launch("up", "--attach", command=COMMAND) == 1
    assert untouched(cloud)


def test_ctrl_c_leaves_an_attached_vm(cloud, monkeypatch, capfd):
    on_first_pause(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    cloud.answer("tpu-vm", "describe", stdout='{"state": "RESTARTING"}')
    assert launch("up", "--attach", command=COMMAND) == 130
    told = capfd.readouterr().err
    assert f"{NAME} was attached, and is left as it is; a job that has started goes on" in told
    assert "to delete it" not in told and untouched(cloud)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delete"], "--delete has no effect with --attach"),
        (["--config.tpu.capacity=on_demand"], "config.tpu.capacity='on_demand' has no effect: --attach uses"),
        (["--config.tpu.accelerator=v4-32"], "but pod is a v4-16: set --config.tpu.accelerator=v4-16"),
        (["--config.tpu.zone=us-central2-c"], None),
    ],
)
def test_a_mistake_about_an_attached_vm_is_one_line(flags, message, cloud):
    if message is None:
        cloud.write({**cloud.read(), "tpu-vm": {}})
        message = f"--attach: there is no TPU VM {NAME} in us-central2-c of proj; name one that exists"
    with pytest.raises(UserError) as stopped:
        launch("up", "--attach", *flags, command=COMMAND)
    assert message in str(stopped.value) and "\n" not in str(stopped.value)
    assert untouched(cloud) and cloud.verbs("setup") == []


def test_attach_is_refused_where_it_means_nothing(cloud):
    for verb in ("create", "delete", "status"):
        with pytest.raises(UserError, match="--attach has no effect on"):
            launch(verb, "--attach")
    assert cloud.calls == []

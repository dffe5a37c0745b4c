"""Faults of a job on a pod: what it is given, lost connections, preemption; machines are folders, the job is real."""

import hashlib
import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base.errors import UserError
from launch.config import TpuConfig
from launch.job_outcome import Stage, judge
from launch.subprocesses import Runner, folded
from launch.tpu import __main__ as tpu
from launch.tpu import gcloud, keep_running
from launch.tpu.machines import Worker
from tests.launch.cloud import NAME, Cloud, launch, tiny_archive

COMMAND = ["python", "-m", "show", "--workdir=gs://bucket/run"]
AWKWARD = [
    "two words",
    "it's",
    '"double"',
    "$HOME",
    "`id`",
    "a\nb",
    "; rm -rf x",
    "*",
    "\\",
    "",
    "--x=$(id)",
    "é ✓",
]
CANARIES = {
    "HF_TOKEN": "hf_canary_4711_of_the_secret",
    "WANDB_API_KEY": "wandb_canary_0815_of_the_environment",
}


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(tpu, "make_archive", tiny_archive)
    cloud = Cloud(tmp_path / "cloud", monkeypatch, hosts=2)
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: time.sleep(0.05))
    return cloud


def given_to(cloud, worker=0):
    """What the job on a machine was given: its arguments, and digests of its environment."""
    return json.loads((cloud.home(worker) / "unmask" / NAME / "code" / "arguments.json").read_text())


def starts(cloud, worker=0):
    return (cloud.home(worker) / "unmask" / NAME / "code" / "starts").read_text().splitlines()


def commands(text):
    """The commands that a dry run has printed."""
    lines = text.replace(" \\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("gcloud ")]


def mutations(calls):
    """Calls without those that only look, and without the repetitions of those."""
    return [
        call
        for call in calls
        if not {"describe"} & set(call) and "status" not in call[-2] and "logs" not in call[-2]
    ]


def unique(calls):
    return {tuple(call) for call in calls}


@pytest.mark.parametrize(
    "verb", ["up", "create", "setup", "run", "stop", "delete", "status", "logs", "ssh", "up --attach"]
)
def test_a_dry_run_prints_what_a_real_run_executes_and_executes_nothing(verb, cloud, capfd):
    verb, *flags = verb.split()
    command = COMMAND if verb in ("up", "run") else ["uname"] if verb == "ssh" else None
    assert launch(verb, *flags, "--dry-run", command=command) == 0
    printed = commands(capfd.readouterr().out)
    assert cloud.calls == []
    assert printed
    if verb not in ("up", "create") or flags:
        cloud.add()
    if verb == "run":
        assert launch("setup") == 0
    before = len(cloud.calls)
    assert launch(verb, *flags, command=command) == 0
    executed = cloud.calls[before:]
    assert unique(printed) == unique(executed)
    assert mutations(printed) == mutations(executed)


def test_the_job_gets_its_arguments_unchanged(cloud):
    assert launch("up", command=[*COMMAND, *AWKWARD]) == 0
    for worker in range(2):
        assert given_to(cloud, worker)[0] == [*COMMAND[3:], *AWKWARD]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_commands_words_survive_ssh_and_dry_run(words):
    job = {"command": ["python", *words]}
    assert json.loads(json.dumps(job).encode())["command"] == ["python", *words]
    argv = gcloud.Gcloud("p", "z", TpuConfig()).ssh("n", "0", shlex.join(["x", *words]))
    command = next(word for word in argv if word.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(command) == ["x", *words]
    shell = subprocess.run(["sh", "-c", f"printf '%s\\0' {folded(argv)}"], capture_output=True, check=True)
    assert shell.stdout.decode().split("\0")[:-1] == argv


def test_secrets_reach_the_job_and_nothing_else(cloud, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", CANARIES["WANDB_API_KEY"])
    monkeypatch.setenv("HF_TOKEN", CANARIES["HF_TOKEN"])
    secrets = cloud.folder / "secrets"
    secrets.mkdir()
    (secrets / "hf-token").write_text(CANARIES["HF_TOKEN"] + "\n")
    seen = []
    sleeping = Runner.sleep

    def sleep(runner, seconds):
        seen.extend(command_lines())
        if (cloud.home() / "unmask" / NAME / "code" / "arguments.json").exists():
            (cloud.folder / "go").touch()
        sleeping(runner, seconds)

    monkeypatch.setattr(Runner, "sleep", sleep)
    flags = ("--config.secrets=('HF_TOKEN=hf-token',)", "--config.env=('WANDB_API_KEY',)")
    assert launch("up", "--dry-run", *flags, command=[*COMMAND, "--hold"]) == 0
    assert launch("up", *flags, command=[*COMMAND, "--hold"]) == 0
    assert launch("status") == 0
    for worker in range(2):
        digests = {name: given_to(cloud, worker)[1][name] for name in CANARIES}
        assert digests == {
            name: hashlib.sha256(value.encode()).hexdigest() for name, value in CANARIES.items()
        }
    output = capfd.readouterr()
    everything = [output.out, output.err, *seen, *("\0".join(call) for call in cloud.calls)]
    files = [file for file in cloud.folder.rglob("*") if file.is_file() and secrets not in file.parents]
    assert {"job.json", "state.json", "log.txt", "code.tar.gz"} <= {file.name for file in files}
    assert "env.json" not in {file.name for file in files}
    for value in CANARIES.values():
        assert not any(value in text for text in everything)
        assert not any(value.encode() in file.read_bytes() for file in files)
    assert any("remote.py" in line for line in seen)


def command_lines():
    """The command lines of every process of this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text(errors="replace"))
        except OSError:
            continue  # it has ended
    return found


def test_a_secret_that_may_not_be_read_is_named(cloud, capfd):
    assert launch("up", "--config.secrets=('HF_TOKEN=hf-token',)", command=COMMAND) == 2
    assert "secret 'hf-token', for HF_TOKEN, cannot be read on this machine" in capfd.readouterr().err


def test_a_value_in_place_of_a_secrets_name_is_not_repeated(cloud):
    with pytest.raises(UserError) as refused:
        launch("up", "--config.secrets=('HF_TOKEN=hf/../value',)", command=COMMAND)
    assert "hf/../value" not in str(refused.value)
    assert cloud.calls == []


def test_a_preempted_pod_is_made_anew_and_goes_on_with_the_same_run(cloud, monkeypatch, capfd):
    jobs, sleeping = [], Runner.sleep

    def sleep(runner, seconds):
        machine = cloud.home() / "unmask" / NAME
        if (machine / "code" / "arguments.json").exists() and len(jobs) < 2:
            jobs.append(json.loads((machine / "job.json").read_text()))
            if len(jobs) == 1:
                cloud.preempt()
                (cloud.folder / "go").touch()
        sleeping(runner, seconds)

    monkeypatch.setattr(Runner, "sleep", sleep)
    assert launch("up", "--delete", command=[*COMMAND, "--hold"]) == 0
    assert cloud.verbs("create", "delete", "setup", "start") == [
        *("create", "setup", "start"),
        *("delete", "create", "setup", "start"),
        "delete",
    ]
    creations = [call for call in cloud.calls if "create" in call]
    assert creations[0] == creations[1]
    assert cloud.empty
    assert "the pod or the job on it was lost (1 of at most 20 times)" in capfd.readouterr().err
    copies = [call for call in cloud.calls if "scp" in call]
    assert len(copies) == 4
    if len(jobs) == 2:
        assert [jobs[1][name] for name in ("run", "command", "digest")] == [
            jobs[0][name] for name in ("run", "command", "digest")
        ]


@pytest.mark.parametrize(
    "broken",
    [
        {"signal": signal.SIGKILL},
        {"signal": signal.SIGKILL, "after": True, "lost": True},
        {"status": 255, "after": True, "lost": True, "stderr": "ssh: connection closed by remote host"},
        {"status": 255, "stderr": "ssh: connect to host 10.0.0.2 port 22: Connection timed out"},
    ],
)
def test_a_broken_connection_neither_starts_twice_nor_passes_for_success(broken, cloud, capfd):
    for _ in range(2):
        cloud.answer("remote.py start", **broken)
    for _ in range(3):
        cloud.answer("remote.py status", **broken)
    cloud.answer("remote.py logs", **broken)
    assert launch("up", command=COMMAND) == 0
    told = capfd.readouterr()
    assert told.out.splitlines() == ["[0] first line", "[0] last line"]
    assert [starts(cloud, worker) for worker in range(2)] == [["started"], ["started"]]
    assert cloud.verbs("create") == ["create"]


def test_a_cloud_that_gives_no_answer_is_not_a_lost_pod(cloud, monkeypatch, capfd):
    watch = keep_running.Launch._watch

    def watching(launch):
        for _ in range(25):
            cloud.answer("tpu-vm", "describe", status=1, stderr="ERROR: (gcloud) UNAVAILABLE: 503")
        return watch(launch)

    monkeypatch.setattr(keep_running.Launch, "_watch", watching)
    assert launch("up", command=COMMAND) == 0
    assert "lost" not in capfd.readouterr().err
    assert cloud.verbs("create", "delete", "start") == ["create", "start"]
    assert cloud.verbs("describe").count("describe") > 50


def test_the_job_of_the_plain_script_is_followed(cloud, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keep_running.Launch, "_watch", lambda launch: signal.raise_signal(signal.SIGINT))
        patch.setattr(keep_running.Follower, "end", lambda follower, seconds: None)
        assert launch("up", command=[*COMMAND, "--hold"]) == 130
    for worker in range(2):
        state = cloud.home(worker) / "unmask" / NAME / "state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "digest": ""}))
    sleeping = Runner.sleep
    monkeypatch.setattr(Runner, "sleep", lambda *pause: ((cloud.folder / "go").touch(), sleeping(*pause)))
    assert launch("up", command=[*COMMAND, "--hold"]) == 0
    assert cloud.verbs("create", "start") == ["create", "start"]


def test_a_job_that_runs_already_is_followed_and_not_started_again(cloud, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(keep_running.Launch, "_watch", lambda launch: signal.raise_signal(signal.SIGINT))
        patch.setattr(keep_running.Follower, "end", lambda follower, seconds: None)
        assert launch("up", command=[*COMMAND, "--hold"]) == 130
    assert f"python -m launch.tpu stop {NAME}" in capfd.readouterr().err
    with pytest.raises(UserError, match=f"another command, or one .* is running on {NAME}; stop it first"):
        launch("up", command=[*COMMAND, "--hold", "--other"])
    sleeping = Runner.sleep
    monkeypatch.setattr(Runner, "sleep", lambda *pause: ((cloud.folder / "go").touch(), sleeping(*pause)))
    assert launch("up", command=[*COMMAND, "--hold"]) == 0
    assert [starts(cloud, worker) for worker in range(2)] == [["started"], ["started"]]
    assert cloud.verbs("create", "start") == ["create", "start"]


@pytest.mark.parametrize(("status", "code"), [("3", 1), ("2", 2)])
def test_a_failed_job_is_not_taken_for_a_lost_pod(status, code, cloud, capfd):
    cloud.set(environment={"EXIT": status})
    assert launch("up", command=COMMAND) == code
    told = capfd.readouterr().err
    assert f"the job failed with status {status} on worker 0 of {NAME}" in told
    assert "[0] last line" in told
    assert cloud.verbs("create", "delete") == ["create"]


@pytest.mark.parametrize(
    ("statuses", "stage", "status"),
    [
        ([0, 0], Stage.INTERRUPTED, 0),  # saved, but not finished
        ([143, 0], Stage.INTERRUPTED, 0),
        ([134, 75], Stage.INTERRUPTED, 75),
        ([None, 75], Stage.FAILING, 75),  # the other one may be frozen
        ([137, 1], Stage.FAILED, 137),
        ([None, 1], Stage.FAILING, 1),
        ([0, 2], Stage.FAILED, 2),
    ],
)
def test_exit_statuses_tell_an_interruption_from_a_failure(statuses, stage, status):
    answers = {
        Worker("n", index): {"state": "running"} if exit is None else {"state": "exited", "exit": exit}
        for index, exit in enumerate(statuses)
    }
    verdict = judge(answers, finished=False)
    assert (verdict.stage, verdict.status) == (stage, status)


def test_a_job_that_its_watchdog_ended_is_started_again(cloud, monkeypatch, capfd):
    cloud.set(environment={"EXIT": "75"})
    assert launch("up", "--config.tpu.max_restarts=1", command=COMMAND) == 75
    told = capfd.readouterr().err
    assert "launch: the job hung, and its watchdog ended it (1 of at most 1 times)" in told
    assert "2 times, more than config.tpu.max_restarts=1: the same command goes on" in told
    assert cloud.verbs("create", "delete", "start") == ["create", "start", "start"]

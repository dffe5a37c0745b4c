"""Before money is spent: what is refused, and that nothing was asked for by then."""

import sys

import pytest

from base.errors import UserError
from launch.archive import Archive
from launch.subprocesses import Result, Runner
from launch.tpu import __main__ as tpu
from tests.launch.cloud import Cloud, launch

PRETRAIN = [
    "python",
    "-m",
    "pretrain",
    "--config=configs/debug.py",
    "--config.seq_len",
    "32",
    "--workdir=gs://bucket/r",
]


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    archive = Archive(b"", "", "commit 1234567", frozenset({"configs/debug.py"}))
    monkeypatch.setattr(tpu, "make_archive", lambda config, root: archive)
    return Cloud(tmp_path / "cloud", monkeypatch)


@pytest.fixture
def plans(monkeypatch):
    """Calls of pretrain.plan, and what they come to: the check, and the full plan."""
    calls, status = [], {"check": 0, "full": 0}
    running = Runner.run

    def run(runner, argv, **options):
        if argv[0] != sys.executable:
            return running(runner, argv, **options)
        calls.append(argv)
        return Result(status["check"], "", "error: config.mesh.fsdp=3 does not divide 8 devices\n")

    def show(runner, argv, **options):
        calls.append(argv)
        return status["full"]

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(Runner, "show", show)
    return calls, status


def test_the_plan_is_of_the_runs_own_config_and_pod(cloud, plans):
    calls, status = plans
    status["full"] = 3
    flags = ("--config.tpu.accelerator=v5litepod-256", "--config.tpu.slices=2", "--config.price=1.2")
    with pytest.raises(UserError, match="does not fit the memory of v5litepod-256"):
        launch("up", *flags, command=PRETRAIN)
    common = [sys.executable, "-m", "pretrain.plan", "--config=configs/debug.py", "--config.seq_len", "32"]
    common += ["--topology=2x v5litepod-256"]
    assert calls == [[*common, "--check"], [*common, "--price=1.2"]]
    assert cloud.verbs("create", "describe") == []


def test_a_mesh_that_does_not_fit_is_one_line_and_nothing_is_asked_for(cloud, plans):
    plans[1]["check"] = 2
    with pytest.raises(UserError, match=r"^config\.mesh\.fsdp=3 does not divide 8 devices$"):
        launch("up", "--no-plan", command=PRETRAIN)
    assert cloud.calls == []


def test_no_plan_leaves_the_compiler_out_and_says_so(cloud, plans, monkeypatch, capfd):
    monkeypatch.setattr(tpu.Launch, "run", lambda self, create_first: 0)
    assert launch("up", "--no-plan", command=PRETRAIN) == 0
    assert [call[-1] for call in plans[0]] == ["--check"]
    assert "whether the run fits the memory of the chips is not known" in capfd.readouterr().err


@pytest.mark.parametrize(
    "field",
    [
        *(
            "tpu.runtime_version",
            "tpu.network",
            "tpu.subnetwork",
            "tpu.service_account",
            "tpu.valid_until",
            "tpu.zone",
        ),
        *("tpu.project", "tpu.accelerator", "tpu.labels", "python", "extras", "env", "secrets"),
    ],
)
@pytest.mark.parametrize(
    "value", ["$(touch x)", "`id`", "a b", "a\nb", "a'b", 'a"b', "-x y", "é\u2028", "a;b"]
)
def test_what_is_no_name_is_one_line_before_anything_is_made(value, field, cloud, plans):
    given = repr((value,)) if field in ("tpu.labels", "extras", "env", "secrets") else value
    with pytest.raises(UserError) as error:
        launch("up", f"--config.{field}={given}", "--config.source=commit", command=PRETRAIN)
    assert "\n" not in str(error.value)
    assert cloud.verbs("create", "describe", "ssh", "scp") == []


@pytest.mark.parametrize("name", ["$(touch x)", "a\nb", "-x", "é", "a/b", "a'b", ""])
def test_a_pods_name_is_plain(name, cloud):
    with pytest.raises(UserError) as error:
        tpu.main(["launch/tpu/__main__.py", "delete", name])
    assert "\n" not in str(error.value) and cloud.calls == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([*PRETRAIN[:-1], "--workdir=runs/x"], "2 machines need a folder in a bucket"),
        ([*PRETRAIN[:-1], "--workdir=s3://bucket/x"], "is written gs://BUCKET/FOLDER"),
        ([*PRETRAIN[:-1], "--workdir=gs:/bucket/x"], "is written gs://BUCKET/FOLDER"),
        ([*PRETRAIN[:-1], "--workdir=gs://BUCKET/x"], "a bucket's name, in small letters"),
        (
            [*PRETRAIN[:-1], "--workdir=gs://nowhere/x"],
            "cannot be written: (gcloud) NOT_FOUND: The specified bucket",
        ),
        ([*PRETRAIN[:-1], "--workdir=gs://bucket/runs*/x"], "no characters that gcloud reads as a pattern"),
        ([*PRETRAIN[:-1], "--workdir=gs://bucket/x#1"], "no characters that gcloud reads as a pattern"),
        (PRETRAIN[:-1], "names no folder for the run"),
        (
            ["python", "-m", "pretrain", "--config=/x.py", "--workdir=gs://bucket/x"],
            "/x.py is not in commit 1234567",
        ),
        ([], "no command given"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_a_pod_is_asked_for(command, message, cloud, plans):
    with pytest.raises(UserError) as refused:
        launch("up", command=command)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert cloud.verbs("create", "describe") == []


@pytest.mark.parametrize(
    "words",
    [
        *("stop --worker=1", "delete --worker=2", "status --follow", "status --delete", "create --delete"),
        *("stop --no-plan", "run --no-plan", "ssh --follow", "up --lines=3", "setup --slice=1"),
    ],
)
def test_a_flag_of_another_command_is_refused(words, cloud):
    verb, flag = words.split()
    name = flag.strip("-").partition("=")[0].replace("-", "_")
    with pytest.raises(
        UserError, match=rf"^--{name} has no effect on {verb}: it is a flag of .*; leave it out$"
    ):
        launch(verb, flag)
    assert cloud.calls == []


def test_all_machines_are_of_no_slice(cloud):
    with pytest.raises(
        UserError, match=r"^--worker=all means all machines of all slices; leave out --slice=4$"
    ):
        launch("logs", "--worker=all", "--slice=4")
    assert cloud.calls == []

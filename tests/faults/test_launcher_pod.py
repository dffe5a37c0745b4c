"""Faults of a pod: preempted, slow, refused, interrupted, badly asked for; a stand-in for gcloud plays the cloud."""

import json
import os
import signal
import threading

import pytest

from base.errors import UserError
from launch.subprocesses import Runner
from launch.tpu import __main__ as tpu
from launch.tpu import keep_running
from launch.tpu.gcloud_errors import pause
from tests.launch.cloud import NAME, PLACE, Cloud, launch, tiny_archive

NO_CAPACITY = "ERROR: (gcloud.compute.tpus) RESOURCE_EXHAUSTED: There is no more capacity in the zone"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(tpu, "make_archive", tiny_archive)
    return Cloud(tmp_path / "cloud", monkeypatch, hosts=2)


@pytest.mark.parametrize(
    "state", ["CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES", "A_NEW_STATE"]
)
def test_a_pod_on_its_way_is_waited_for(state, cloud):
    cloud.add()
    cloud.queued_state(state, state, state)
    assert launch("create") == 0
    assert cloud.verbs("create", "delete") == []
    assert cloud.verbs("describe") == ["describe"] * 5  # three times on its way, then there, with its TPU VM
    assert len(cloud.pauses) == 3


@pytest.mark.parametrize("node", ["CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING", "UNKNOWN"])
def test_a_vm_that_will_be_back_is_waited_for(node, cloud):
    cloud.add()
    labels = {"unmask-pod": NAME}
    cloud.answer("tpu-vm", "describe", stdout=json.dumps({"state": node, "labels": labels}))
    assert launch("create") == 0
    assert cloud.verbs("create", "delete") == []


@pytest.mark.parametrize(("queued", "node"), [("SUSPENDED", None), ("FAILED", None), ("ACTIVE", "PREEMPTED")])
def test_a_lost_pod_is_deleted_and_created_again(queued, node, cloud):
    cloud.add(queued, node)
    assert launch("create") == 0
    assert cloud.verbs("create", "delete") == ["delete", "create"]
    assert "--force" in next(call for call in cloud.calls if "delete" in call)


def test_a_lost_vm_that_was_not_queued_is_deleted_and_created_again(cloud):
    cloud.add(None, "PREEMPTED")
    assert launch("create", "--config.tpu.queued=False") == 0
    assert cloud.verbs("create", "delete") == ["delete", "create"]


def test_what_others_made_is_left_alone(cloud):
    cloud.add("SUSPENDED", None, label="")
    with pytest.raises(UserError, match="was not made by this tool"):
        launch("create")
    assert cloud.verbs("create", "delete") == []


def test_no_capacity_is_tried_again_with_growing_pauses(cloud):
    for _ in range(3):
        cloud.answer("create", status=1, stderr=NO_CAPACITY)
    assert launch("create") == 0
    assert cloud.verbs("create") == ["create"] * 4
    waits = cloud.pauses[:3]
    assert [15 * 2**n / 2 <= seconds <= 15 * 2**n for n, seconds in enumerate(waits)] == [True] * 3


def test_pauses_differ_and_have_a_limit():
    assert len({pause(3, 15) for _ in range(20)}) > 10
    assert all(300 <= pause(50, 15) <= 600 for _ in range(20))


def test_no_capacity_for_ever_ends(cloud):
    for _ in range(3):
        cloud.answer("create", status=1, stderr=NO_CAPACITY)
    with pytest.raises(UserError, match="no more capacity"):
        launch("create", "--config.tpu.create_attempts=3")
    assert cloud.verbs("create") == ["create"] * 3


@pytest.mark.parametrize(
    "error",
    [
        "PERMISSION_DENIED: The caller does not have permission",
        "RESOURCE_EXHAUSTED: Quota limit 'TPUV4sPreemptiblePodPerProjectPerZone' has been exceeded. Limit: 0",
        "INVALID_ARGUMENT: Cloud TPU received a bad request. the accelerator v4-16 was not found in zone us-central2-b",
        "You do not currently have an active account selected. Please run: gcloud auth login",
    ],
)
def test_what_will_not_pass_stops_at_once(error, cloud):
    cloud.answer("create", status=1, stderr=f"ERROR: (gcloud.compute.tpus.queued-resources.create) {error}\n")
    with pytest.raises(UserError) as stopped:
        launch("create")
    assert error[:40] in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert cloud.verbs("create") == ["create"]


def test_a_request_that_failed_for_its_quota_is_not_repeated(cloud):
    error = {"failedData": {"error": {"message": "Quota 'TPUS_PER_PROJECT' exceeded"}}}
    cloud.answer("queued-resources", "describe", stdout=json.dumps({"state": {"state": "FAILED", **error}}))
    with pytest.raises(UserError, match="TPUS_PER_PROJECT"):
        launch("create")
    assert cloud.verbs("create", "delete") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_creating_says_what_is_left(number, cloud, monkeypatch, capfd):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: os.kill(os.getpid(), number))
    assert launch("create") == 130
    told = capfd.readouterr().err
    assert f"interrupted; there is: queued resource ACTIVE, TPU VM {NAME} READY" in told
    assert f"python -m launch.tpu delete {NAME}" in told
    assert cloud.verbs("delete") == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_during_the_request_waits_for_its_answer(cloud, capfd):
    slow = cloud.folder / "bin" / "gcloud"
    slow.write_text(slow.read_text().replace("exec", 'case "$*" in *create*) sleep 1;; esac\nexec'))
    pressed = threading.Timer(0.6, os.kill, [os.getpid(), signal.SIGINT])
    while_creating = Runner.run

    def run(runner, argv, **options):
        if "create" in argv:
            pressed.start()
        return while_creating(runner, argv, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "run", run)
        assert launch("create") == 130
    assert "there is: queued resource ACTIVE" in capfd.readouterr().err


def test_ctrl_c_before_anything_is_there_says_so(cloud, monkeypatch, capfd):
    cloud.answer("create", status=1, stderr=NO_CAPACITY)
    monkeypatch.setattr(Runner, "sleep", lambda runner, seconds: os.kill(os.getpid(), signal.SIGINT))
    assert launch("create") == 130
    assert "interrupted; nothing has been created" in capfd.readouterr().err


def test_delete_and_stop_may_be_repeated(cloud, capfd):
    cloud.add()
    assert [launch("stop"), launch("delete"), launch("stop"), launch("delete")] == [0, 0, 0, 0]
    assert cloud.empty
    told = capfd.readouterr().err.splitlines()
    assert told[-3:] == [
        f"launch: {NAME} is deleted: nothing is left of it",
        f"launch: nothing runs on {NAME} in us-central2-b: nothing",
        f"launch: there is nothing called {NAME} in us-central2-b of proj",
    ]


def test_what_cannot_be_deleted_is_reported(cloud):
    cloud.add()
    cloud.answer("queued-resources", "delete", status=1, stderr="ERROR: (gcloud) PERMISSION_DENIED: no\n")
    with pytest.raises(
        UserError, match="is not deleted, and costs money: queued resource ACTIVE, TPU VM pod READY"
    ):
        launch("delete")


def test_a_delete_that_the_cloud_was_too_busy_for_is_repeated(cloud):
    cloud.add()
    cloud.answer("queued-resources", "delete", status=1, stderr="ERROR: (gcloud) UNAVAILABLE: try again\n")
    assert launch("delete") == 0
    assert cloud.empty


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.tpu.accelerator=tpu7x-16"],
            "available only on Google Kubernetes Engine: use python -m launch.kubernetes",
        ),
        (
            ["--config.tpu.accelerator=v4-33"],
            "config.tpu.accelerator: TPU type 'v4-33' does not exist: v4 comes as v4-8",
        ),
        (["--config.tpu.accelerator=v7-8"], "config.tpu.accelerator: TPU type 'v7-8' is not known"),
        (["--config.tpu.capacity=free"], "config.tpu.capacity='free' is not one of"),
        (["--config.tpu.slices=2", "--config.tpu.queued=False"], "config.tpu.queued=True"),
        (["--config.tpu.zone=europe-west4"], "config.tpu.zone='europe-west4' should be a zone, not a region"),
        (["--config.tpu.zome=x"], "did you mean 'zone'"),
        (["--dry-rum"], "dry_rum"),
    ],
)
def test_a_mistake_is_one_line_before_any_call(flags, message, cloud):
    for verb in ("up", "create", "delete"):
        with pytest.raises(UserError) as stopped:
            launch(
                verb,
                *flags,
                command=["python", "-m", "x", "--workdir=gs://bucket/x"] if verb == "up" else None,
            )
        assert message in str(stopped.value)
        assert "\n" not in str(stopped.value)
    assert cloud.calls == []


@pytest.mark.parametrize(("setting", "field"), [("project", "project"), ("compute/zone", "zone")])
def test_no_project_or_zone_is_one_line_before_anything_is_asked_for(setting, field, cloud):
    cloud.set(**{setting: ""})
    with pytest.raises(
        UserError, match=rf"no {field}: set config.tpu.{field}, or gcloud config set {setting}"
    ):
        tpu.main(["launch/tpu/__main__.py", "create", NAME])
    assert set(cloud.verbs()) == {"config"}


def test_project_and_zone_are_gclouds_own_by_default(cloud):
    assert tpu.main(["launch/tpu/__main__.py", "delete", NAME]) == 0
    assert all("--project=own-project" in call and "--zone=own-zone" in call for call in cloud.calls[2:])


@pytest.mark.parametrize("name", ["Pod", "1pod", "pod-", "po d", "$(pod)", "p" * 60])
def test_a_bad_name_is_refused(name, cloud):
    with pytest.raises(UserError, match="NAME="):
        tpu.main(["launch/tpu/__main__.py", "create", name, *PLACE])
    assert cloud.calls == []


def test_a_pod_that_is_lost_again_and_again_is_given_up(cloud, monkeypatch, capfd):
    cloud.set(hosts=2)
    monkeypatch.setattr(
        keep_running.Launch,
        "_run_once",
        lambda launch, fresh: keep_running.Verdict(keep_running.Stage.INTERRUPTED),
    )
    command = ["python", "-m", "show", "--workdir=gs://bucket/x"]
    assert launch("up", "--config.tpu.max_restarts=2", command=command) == 75
    assert (
        "was lost 3 times, more than config.tpu.max_restarts=2: the same command goes"
        in capfd.readouterr().err
    )

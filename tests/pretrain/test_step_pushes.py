"""Checkpoints of a run that trains go to branches of a repository; whatever fails there costs the run nothing."""

import json
import logging
import threading

import pytest
from etils import epath

from base import interruptible
from base.errors import UserError
from pretrain import step_pushes
from pretrain.export import Exported
from pretrain.publish import hub_upload
from pretrain.step_pushes import StepPushes, check, exports_of
from pretrain.train import train
from tests.pretrain.hub_branches import installed
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture
def hub(monkeypatch):
    return installed(monkeypatch)


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> epath.Path:
    """A run with checkpoints of steps 1 to 4 and 6; 6 is not committed yet."""
    for step in (1, 2, 3, 4, 6):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "saved.json").write_text('{"step": 4}')

    def exported(workdir, out, *, step, name):
        out.mkdir(parents=True)
        (out / "model.safetensors").write_text(step)
        return Exported(int(step), None)

    monkeypatch.setattr(step_pushes, "export", exported)
    return epath.Path(tmp_path)


def pushes_of(workdir: epath.Path) -> StepPushes:
    return StepPushes(workdir, "me/model", 2, private=True, write=exports_of(workdir))


def test_a_run_pushes_its_checkpoints_while_it_trains(tmp_path, hub):
    config = tiny_config(write_corpus(tmp_path / "corpus.txt"), steps=4, checkpoint={"every": 2, "keep": 3})
    with on_one_device(), pushes_of(epath.Path(tmp_path / "run")) as pushes:
        outcome = train(config, epath.Path(tmp_path / "run"))
        pushes.finish()
    assert outcome.step == 4 and hub.branches.keys() == {"main", "step-2", "step-4"}
    for branch in ("step-2", "step-4"):
        held = hub.branches[branch]
        assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= held.keys()
        assert held["message"] == f"Step {branch[5:]}".encode()
    assert hub.branches["step-2"]["model.safetensors"] != hub.branches["step-4"]["model.safetensors"]
    assert hub.branches["main"] == {}


def test_only_committed_checkpoints_that_are_due_are_pushed_and_none_twice(workdir, hub):
    pushes = pushes_of(workdir)
    while pushes.push_next():
        pass
    assert hub.branches.keys() == {"main", "step-2", "step-4"}
    assert json.loads((workdir / "pushed.json").read_text()) == {"repository": "me/model", "steps": [2, 4]}
    hub.branches.clear()
    assert not pushes_of(workdir).push_next()
    other = StepPushes(workdir, "me/other", 2, private=True, write=exports_of(workdir))
    hub.branches["main"] = {}
    assert other.push_next() and "step-2" in hub.branches, "another repository has none of them"


def test_a_failure_is_a_line_and_is_tried_again_a_few_times(workdir, hub, caplog):
    hub.refusals = 4
    pushes = pushes_of(workdir)
    with caplog.at_level(logging.INFO):
        while pushes.push_next():
            pass
    lines = [record.getMessage() for record in caplog.records]
    failed = [line for line in lines if "is not on the hub" in line]
    assert [line.partition(":")[0] for line in failed] == [
        "step 2 is not on the hub, it is tried again",
        "step 2 is not on the hub, it is tried again",
        "step 2 is not on the hub, it is left out",
        "step 4 is not on the hub, it is tried again",
    ]
    assert all("\n" not in line and "the hub is down" in line for line in failed)
    assert "step 4 is on the hub: me/model, branch step-4" in lines
    assert json.loads((workdir / "pushed.json").read_text())["steps"] == [4]


def test_an_upload_that_hangs_holds_nothing_up(workdir, hub, monkeypatch, caplog):
    """Python's exit waited for the threads of the hub's client."""
    for name in ("FINISH_SECONDS", "STOP_SECONDS"):
        monkeypatch.setattr(step_pushes, name, 0.01)
    interruptible.begin()
    hub.open.clear()
    with pushes_of(workdir) as pushes:
        assert not interruptible.broke_off()
        pushes.finish()
    assert "not on the hub after 0s, and left out: steps 2, 4; run the same command again" in caplog.text
    assert interruptible.broke_off(), "the process does not end at once"
    hub.open.set()
    interruptible.begin()


def test_the_end_of_a_run_pushes_what_is_left_with_a_pause_after_a_failure(workdir, hub, monkeypatch):
    hub.refusals, waits, wait = 2, list[float](), threading.Event.wait

    def waiting(event, seconds=None):
        if threading.current_thread().name == "pushes" and seconds not in (None, 60):
            waits.append(seconds)
            seconds = 0.001
        return wait(event, seconds)

    monkeypatch.setattr(step_pushes, "LOOK_SECONDS", 7.5)
    monkeypatch.setattr(threading.Event, "wait", waiting)
    pushes = pushes_of(workdir)
    pushes._last.set()
    with pushes:
        pushes.finish()
    assert hub.branches.keys() == {"main", "step-2", "step-4"}
    assert waits == [7.5, 7.5], "a pause after each failure, and none besides"
    assert not interruptible.broke_off()


def test_damaged_files_and_a_folder_without_a_run_are_passed_over(workdir, hub):
    (workdir / "saved.json").write_text("{")
    assert not pushes_of(workdir).push_next()
    assert not pushes_of(workdir / "none").push_next()
    (workdir / "saved.json").write_text('{"step": 4}')
    (workdir / "pushed.json").write_text("[]")
    assert pushes_of(workdir).push_next()


@pytest.mark.parametrize(
    ("every", "repo_id", "processes", "said"),
    [
        (3, "me/model", 1, r"--push_every=3 should be a multiple of config\.checkpoint\.every=2, or 0"),
        (-2, "me/model", 1, r"--push_every=-2 should be a multiple"),
        (2, "", 1, r"--push_every=2 has no effect without --push_to_hub=USER/NAME"),
        (2, "me/model", 4, r"--push_every=2 under 4 processes: .*python -m pretrain\.export"),
    ],
)
def test_what_cannot_act_is_refused(monkeypatch, every, repo_id, processes, said):
    monkeypatch.setattr(step_pushes.processes, "count", lambda: processes)
    with pytest.raises(UserError, match=said):
        check(every, repo_id, 2)
    with pytest.raises(UserError, match=r"config\.checkpoint\.every=0 should be 1 or more"):
        check(100, "me/model", 0)
    check(0, "", 2)


def test_a_branch_is_made_of_the_repository_and_loses_weights_of_another_model(tmp_path, hub):
    (tmp_path / "model.safetensors").write_bytes(b"new")
    hub.branches["main"] = {"model.onnx": b"old", "notes.md": b"mine"}
    removed = []
    hub.upload_folder = lambda **asked: removed.append((asked["revision"], asked["delete_patterns"]))
    hub_upload.push(tmp_path, "me/model", message="Step 2", revision="step-2")
    assert removed == [("step-2", ["model.onnx"])]

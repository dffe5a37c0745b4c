"""The loop of both stages: the order of its operations, signals, failures, resume, the finish marker."""

import contextlib
import json
import os
import signal
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from base import schema
from base.errors import UserError
from finetune.config import FinetuneConfig
from pretrain.config import LogConfig, MeshConfig, PretrainConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.reports.recorder import Recorder
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.loop import Loop, check_stage
from pretrain.runtime.workdir import FINISHED_FILE, write_finished


@dataclass
class Numbered:
    number: int
    wait: float = 0.5


class Counting:
    """A stage that counts to six in two stretches, and notes what the loop asks of it."""

    config, log, fingerprints, steps = PretrainConfig(), LogConfig(every=1), {"text": "x"}, 6
    log_at: tuple[int, ...] = ()

    def __init__(self, workdir, *, evaluate_at=(2, 6), best_at=2, save_at=(3,), fail_at=None, stop_at=None):
        self.workdir, self.said, self.mesh = workdir, [], make_mesh(MeshConfig())
        self.abstract = {"count": jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding(self.mesh, ()))}
        self.evaluate_at, self.best_at, self.save_at = evaluate_at, best_at, save_at
        self.fail_at, self.stop_at = fail_at, stop_at
        self.stop, self.recalled, self.guard = 0, None, Guard("abort", 0, ("one", "two"))
        self.rewinding = None

    def say(self, *words):
        self.said.append(" ".join(map(str, words)))

    def first_state(self):
        return {"count": jax.device_put(jnp.int32(0), self.abstract["count"].sharding)}

    def recall(self, run):
        self.recalled = {name: run[name] for name in ("config", "fingerprints", "mine")}
        return run["sums"]

    def remembered(self):
        return {"mine": [7]}

    def ended(self, step):
        return step >= self.steps

    @contextlib.contextmanager
    def stretch(self, step):
        self.stop = 4 if step < 4 else 6
        self.say("open", step)
        yield self
        self.say("close")

    def next(self, step):
        self.say("batch", step + 1)
        if step + 1 == self.fail_at:
            raise UserError("no text")
        return Numbered(step + 1)

    def compile(self, interruption):
        self.say("compile")

    def describe(self, step):
        self.say("describe", step)

    def dispatch(self, state, batch, flags):
        self.say("dispatch", batch.number)
        if batch.number == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        sums = {"loss_sum": jnp.float32(batch.number), "weight_sum": jnp.float32(1)}
        return {"count": state["count"] + 1}, sums

    def write_start(self, step):
        self.say("start", step)

    def write_before_checkpoint(self):
        self.say("save")

    def metric_folders(self):
        return [(self.workdir, {"steps": 6})]

    def summarise(self, sums):
        return {"loss": sums["loss_sum"] / sums["weight_sum"]}

    def rates(self, interval):
        return {"train/waited": interval.waited}

    def evaluation_due(self, step):
        return step in self.evaluate_at

    def evaluation_compiled(self, step):
        return step > self.evaluate_at[0]

    def evaluate(self, state, step, recorder):
        self.say("evaluate", int(state["count"]))
        recorder.evaluation(step, {"eval/loss": 1.0})
        return state, step == self.best_at

    def whole(self, state):
        return state

    def saving_due(self, step):
        return step in self.save_at

    def finish(self, step, *, before):
        self.say("finish", step, before)
        write_finished(self.workdir, step, self.steps)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.reports.metric_writer.EventWriter", lambda folder: None)
    return epath.Path(tmp_path / "run")


@pytest.fixture
def reads(monkeypatch):
    """Has a stage note which step's metrics are read."""

    def note(stage):
        read = Recorder._read
        monkeypatch.setattr(
            Recorder,
            "_read",
            lambda self, step, metrics: (stage.say("read", step), read(self, step, metrics)),
        )
        return stage

    return note


def loop(stage):
    with contextlib.closing(Checkpointer(stage.workdir, keep=9)) as checkpointer:
        return Loop(stage, stage.workdir, checkpointer).run()


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_the_order_of_operations_is_the_contract(workdir, reads):
    stage = reads(Counting(workdir))
    ended = loop(stage)
    assert stage.said == [
        *("open 0", "batch 1", "compile", "describe 0", "start 0"),
        *("dispatch 1", "batch 2"),
        *("dispatch 2", "read 1", "read 2", "evaluate 2", "save", "batch 3"),
        *("dispatch 3", "read 3", "save", "batch 4"),
        *("dispatch 4", "read 4", "close"),
        *("open 4", "batch 5", "compile", "describe 4"),
        *("dispatch 5", "batch 6"),
        *("dispatch 6", "read 5", "read 6", "evaluate 6", "save", "close", "finish 6 False"),
    ]
    assert (int(ended.state["count"]), ended.step, ended.interrupted, ended.requested) == (6, 6, "", "")
    assert ended.metrics["train/loss"] == 6.0 and ended.metrics["eval/loss"] == 1.0
    assert saved(workdir) == [2, 3, 6]
    assert losses(workdir) == {step: float(step) for step in range(1, 7)}


def test_the_wait_for_a_batch_counts_from_the_second_of_a_stretch(workdir):
    loop(Counting(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    waited = [line["train/waited"] for line in lines if "train/waited" in line]
    # An interval ends when its last step is read, one step late: the wait for the next has been counted by then.
    assert sum(waited) == 4 * 0.5 and waited[-1] <= 0.5


@pytest.mark.parametrize(("stop_at", "steps"), [(1, [1]), (3, [2, 3]), (4, [2, 3, 4]), (5, [2, 3, 5])])
def test_a_signal_ends_the_run_after_the_step_at_hand_and_the_next_call_goes_on(workdir, stop_at, steps):
    ended = loop(Counting(workdir, stop_at=stop_at))
    assert (ended.step, ended.interrupted, ended.requested) == (stop_at, "SIGTERM", "SIGTERM")
    assert saved(workdir) == steps and not (workdir / FINISHED_FILE).exists()
    stage = Counting(workdir)
    again = loop(stage)
    assert stage.recalled["fingerprints"] == {"text": "x"} and stage.recalled["mine"] == [7]
    assert stage.recalled["config"]["seed"] == 0
    assert (int(again.state["count"]), again.step, again.interrupted) == (6, 6, "")
    assert [word for word in stage.said if word.startswith("dispatch")] == [
        f"dispatch {step}" for step in range(stop_at + 1, 7)
    ]
    assert losses(workdir) == {step: float(step) for step in range(1, 7)}


def test_a_signal_in_the_last_step_leaves_a_finished_run_and_is_told(workdir):
    ended = loop(Counting(workdir, stop_at=6))
    assert (ended.step, ended.interrupted, ended.requested) == (6, "", "SIGTERM")
    assert json.loads((workdir / FINISHED_FILE).read_text()) == {"step": 6, "steps": 6}


def test_a_text_that_cannot_be_read_on_loses_no_step(workdir):
    with pytest.raises(UserError, match="no text"):
        loop(Counting(workdir, fail_at=5 - 1))
    assert saved(workdir) == [2, 3]
    with pytest.raises(UserError, match="no text"):
        loop(Counting(workdir, fail_at=6))
    assert saved(workdir) == [2, 3, 5]


def test_a_first_batch_that_cannot_be_read_leaves_nothing(workdir):
    stage = Counting(workdir, fail_at=1)
    with pytest.raises(UserError, match="no text"):
        loop(stage)
    assert stage.said == ["open 0", "batch 1"] and not (workdir / "metrics.jsonl").exists()


def test_a_run_that_has_ended_is_not_opened_again_and_one_made_longer_loses_its_marker(workdir):
    loop(Counting(workdir))
    stage = Counting(workdir)
    assert loop(stage).step == 6
    assert stage.said == ["finish 6 True"]
    longer = Counting(workdir, fail_at=7)
    longer.steps, longer.stop = 8, 8
    with pytest.raises(UserError, match="no text"):
        loop(longer)
    assert not (workdir / FINISHED_FILE).exists()


@pytest.mark.parametrize(
    ("saved", "here", "said"),
    [(FinetuneConfig, PretrainConfig, "fine-tuning"), (PretrainConfig, FinetuneConfig, "pretraining")],
)
def test_the_workdir_of_the_other_stage_is_refused(workdir, saved, here, said):
    check_stage(workdir, schema.as_dict(here()), here)
    with pytest.raises(UserError, match=rf"^--workdir=.* holds a run of {said}; set another --workdir"):
        check_stage(workdir, schema.as_dict(saved()), here)

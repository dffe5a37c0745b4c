"""Fault 12: a loss spike. The run goes back to its newest checkpoint and skips exactly the batches that it says."""

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from pretrain import train as train_module
from pretrain.config import SpikeConfig
from pretrain.optim.finite import first_bad
from pretrain.phases import check_values
from pretrain.runtime.loss_spikes import Rewind, Spikes
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.faults.test_resume import leaves, losses, stop_at
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job"):
        yield


class Feed:
    """The batches that steps were made of, by number: the first batch of the text is 1."""

    def __init__(self):
        self.order: list[str] = []
        self.fed: list[int] = []
        self.states: dict[int, dict] = {}
        self.opened: list[dict | None] = []
        """Where each reader began."""
        self.bad: set[int] = set()
        """Batches at which the weights are blown up."""
        self.by = 30.0
        self.killed_at: int | None = None

    def note(self, batch) -> int:
        digest = hashlib.sha256(batch.arrays["tokens"].tobytes()).hexdigest()
        if digest not in self.order:
            self.order.append(digest)
        number = self.order.index(digest) + 1
        self.states[number] = batch.states
        return number


@pytest.fixture
def feed(monkeypatch) -> Feed:
    """Blow the weights up at the batches `bad`, so that the loss is a spike; number the batches as they are read."""
    feed = Feed()
    dispatch, opening = train_module._PhaseSteps.dispatch, train_module.open_batches

    def dispatching(self, state, batch, flags):
        if len(feed.fed) == feed.killed_at:
            raise SystemExit("killed")
        number = feed.note(batch)
        feed.fed.append(number)
        if number in feed.bad:
            state = dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf * feed.by, state.params))
        return dispatch(self, state, batch, flags)

    def open_batches(*arguments, states, **more):
        feed.opened.append(states and json.loads(json.dumps(states)))
        return opening(*arguments, states=states, **more)

    read = train_module._PhaseSteps.next

    def reading(self, step):
        batch = read(self, step)
        feed.note(batch)
        return batch

    monkeypatch.setattr(train_module._PhaseSteps, "dispatch", dispatching)
    monkeypatch.setattr(train_module._PhaseSteps, "next", reading)
    monkeypatch.setattr(train_module, "open_batches", open_batches)
    return feed


def spiky(corpus, *, spike=None, every=4, steps=12, **changes):
    spike = {"factor": 2.0, "window": 3, "skip": 1} | (spike or {})
    return tiny_config(corpus, steps=steps, spike=spike, checkpoint={"every": every, "keep": 9}, **changes)


def steps_in(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same(one, other):
    for ours, its in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, its)


def test_a_spike_has_the_run_go_back_and_skip_exactly_the_stated_batches(
    corpus, tmp_path, feed, caplog, monkeypatch
):
    config, workdir = spiky(corpus, log={"every": 3}), epath.Path(tmp_path / "run")
    feed.bad = {7}
    outcome = train(config, workdir)
    (said,) = [line for line in caplog.messages if "going back" in line]
    assert said.startswith("step 7: the loss ") and " is over 2 x " in said
    assert said.endswith("; going back to step 4 and skipping the batches of steps 5 to 8")
    assert feed.fed == [*range(1, 9), *range(9, 17)] and outcome.step == 12
    assert steps_in(workdir) == [4, 8, 12] and sorted(losses(workdir)) == [3, 6, 9, 12]
    assert max(losses(workdir).values()) < 7
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 4

    # A run made by hand: the checkpoint of step 4, and a reader that drops four batches.
    hand = epath.Path(tmp_path / "hand")
    shutil.copytree(workdir, hand)
    for step in (8, 12):
        shutil.rmtree(hand / "checkpoints" / str(step))
    (hand / "finished.json").unlink()
    opening = train_module.open_batches

    @contextlib.contextmanager
    def dropping(*arguments, **more):
        with opening(*arguments, **more) as batches:
            assert [feed.note(next(batches)) for _ in range(4)] == [5, 6, 7, 8]
            yield batches

    feed.fed.clear()
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "open_batches", dropping)
        by_hand = train(spiky(corpus, spike={"factor": 0.0}, log={"every": 3}), hand)
    assert feed.fed == list(range(9, 17))
    assert_same(leaves(outcome.state), leaves(by_hand.state))
    assert losses(workdir) == losses(hand)

    # Stopped after it went back, and killed after it went back and before anything was saved: the same run.
    stopped = epath.Path(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        feed.fed.clear()
        feed.killed_at = 10
        with pytest.raises(SystemExit):
            train(config, stopped)
        assert steps_in(stopped) == [4] and feed.fed == [*range(1, 9), 9, 10]
        feed.killed_at = None
        stop_at(patch, 10)
        assert train(config, stopped).step == 10
    again = train(config, stopped)
    assert feed.fed[10:] == [*range(5, 9), *range(9, 17)]
    assert_same(leaves(outcome.state), leaves(again.state))
    assert losses(workdir) == losses(stopped)


def test_a_spike_that_comes_back_goes_back_one_checkpoint_further(corpus, tmp_path, feed, caplog):
    workdir = epath.Path(tmp_path / "run")
    feed.bad = {10, 11}
    outcome = train(spiky(corpus, spike={"skip": 0}, eval={"every": 4}), workdir)
    # Batch 10 is that of step 10; after the checkpoint of step 8, batch 11 is that of step 9.
    assert feed.fed == [*range(1, 12), 11, 12, *range(12, 20)] and outcome.step == 12
    said = [line for line in caplog.messages if line.startswith(("step 9: ", "step 10: "))]
    assert said[0].endswith("going back to step 8 and skipping the batches of steps 9 to 10")
    assert said[1] == "step 9: the spike is back; checkpoint 8 is deleted"
    assert said[2].endswith("going back to step 4 and skipping the batches of steps 5 to 9")
    assert steps_in(workdir) == [4, 8, 12]
    run = restore_params(workdir)[1]
    assert run["spikes"]["skipped"] == 7 and run["best"]["step"] in (4, 8, 12)
    assert [each["to"] for each in run["spikes"]["rewinds"]] == [8, 4]


def test_a_run_goes_back_as_often_as_it_may(corpus, tmp_path, feed):
    workdir = epath.Path(tmp_path / "run")
    feed.bad = {7, 13}
    with pytest.raises(
        UserError,
        match=r"^step 9: the loss .* is over 2 x .*, and the run has gone back 1 times \(config.spike.max_rewinds=1\); "
        "the run ends, and its newest checkpoint is from before: lower config.optimizer.learning_rate$",
    ):
        train(spiky(corpus, spike={"max_rewinds": 1}), workdir)
    assert steps_in(workdir) == [4, 8] and not (workdir / "finished.json").exists()


def test_numbers_that_are_not_finite_are_a_spike_under_rewind(corpus, tmp_path, feed, caplog, monkeypatch):
    workdir = epath.Path(tmp_path / "run")
    feed.bad, feed.by = {4}, math.nan  # the spike is at a step that is evaluated and saved
    evaluated, evaluate = [], train_module._Pretraining.evaluate
    monkeypatch.setattr(
        train_module._Pretraining, "evaluate", lambda *each: (evaluated.append(each[2]), evaluate(*each))[1]
    )
    outcome = train(
        spiky(corpus, spike={"factor": 0.0}, every=2, steps=8, on_nonfinite="rewind", eval={"every": 4}),
        workdir,
    )
    assert "step 4: the loss or the gradient is not finite; going back to step 2 and skipping" in caplog.text
    assert feed.fed == [*range(1, 5), *range(6, 12)] and outcome.step == 8
    assert evaluated == [4, 8] and not first_bad(restore_params(workdir)[0])


def test_a_run_of_epochs_ends_where_its_text_ends(corpus, tmp_path, feed, caplog):
    workdir = epath.Path(tmp_path / "run")
    config = spiky(corpus, steps=None, epochs=1, every=100, spike={"skip": 2})
    feed.bad = {5}
    outcome = train(config, workdir)
    assert "going back to step 0 and skipping the batches of steps 1 to 7" in caplog.text
    total = outcome.job.steps
    assert feed.fed == [*range(1, 7), *range(8, total + 1)] and outcome.step == total - 7
    assert json.loads((workdir / "finished.json").read_text()) == {"step": total - 7, "steps": total - 7}
    assert sorted(losses(workdir)) == list(range(1, total - 6))
    assert train(config, workdir).step == total - 7  # it is complete


def test_a_spike_in_the_next_phase_skips_the_batches_of_both(corpus, tmp_path, feed, caplog, monkeypatch):
    phases = [{"steps": 5, "seq_len": 16}, {"steps": 5, "seq_len": 32}]
    config = spiky(corpus, steps=None, phases=phases, spike={"window": 2})
    feed.bad = {8}
    begun, begin = [], Spikes.begin
    monkeypatch.setattr(Spikes, "begin", lambda self: (begun.append(self), begin(self)))
    assert train(config, epath.Path(tmp_path / "run")).step == 10
    assert "step 8: " in caplog.text
    assert "going back to step 4 and skipping the batches of steps 5 to 9" in caplog.text
    assert len(begun) == 3  # a window of losses for each phase that begins
    assert feed.opened[2] == json.loads(
        json.dumps(feed.states[9])
    )  # readers of phase 1, phase 2, phase 1 again


def looked(losses_of_steps, **config) -> Spikes:
    spikes = Spikes(SpikeConfig(**{"factor": 2.0, "window": 3} | config), nonfinite=False)
    for step, loss in enumerate(losses_of_steps, 1):
        spikes.look(step, loss, is_finite=math.isfinite(loss))
    return spikes


def test_a_spike_is_a_loss_over_so_many_times_the_median_of_the_window():
    assert looked([3.0, 9.0, 3.0, 6.0]).found is None  # over twice the median 3 it would be
    found = looked([3.0, 9.0, 3.0, 6.1, 50.0]).found
    assert (found.step, found.what) == (4, "the loss 6.1 is over 2 x 3")
    assert looked([9.0, 9.0, 3.0, 3.0, 3.0, 6.1]).found.step == 6  # the first two have left the window
    assert looked([3.0, 3.0, 30.0]).found is None  # the window is not full
    assert looked([3.0, 3.0, math.nan, 0.0, 30.0]).found is None  # nor do these count
    assert looked([3.0, 3.0, 3.0, 300.0], factor=0.0).found is None


def test_the_window_is_part_of_a_checkpoint_and_begins_again_with_a_phase():
    spikes, other = looked([3.0, 2.0, 4.1]), looked([])
    other.recall({"spikes": json.loads(json.dumps(spikes.remembered()))})
    other.look(4, 6.1, is_finite=True)
    assert other.found.what == "the loss 6.1 is over 2 x 3"
    spikes.begin()
    spikes.look(4, 6.1, is_finite=True)
    assert spikes.found is None
    other.recall({})  # of an older run
    assert other.remembered() == {"losses": [], "rewinds": [], "skipped": 0} and other.found is None


def test_skipped_batches_add_up():
    spikes = looked([3.0, 3.0, 3.0, 3.0, 9.0], skip=1)
    spikes.go_back({"step": 2}, None)  # batches 3 to 6
    assert spikes.skipped == 4 and spikes.remembered()["rewinds"] == [{"spike": 5, "to": 2, "last": 6}]
    for loss in (3.0, 3.0, 3.0, 9.0):
        spikes.look(4, loss, is_finite=True)
    assert spikes.is_suspect(2) and not spikes.is_suspect(3)
    spikes.go_back({"step": 2}, None)  # step 4 was of batch 8
    assert spikes.skipped == 7 and spikes._rewinds[-1] == Rewind(4, 2, 5)


def test_a_run_without_text_or_checkpoint_is_refused():
    spikes = looked([3.0, 3.0, 3.0, 3.0, 9.0])
    assert spikes.last(6) == 6 and spikes.last(None) == 105
    with pytest.raises(
        UserError, match=r"^step 5: .*; there is no checkpoint, and no text after the batches to skip"
    ):
        spikes.go_back(None, 6)


@pytest.mark.parametrize(
    ("spike", "message"),
    [
        (
            {"factor": 1.0},
            "config.spike.factor=1 should be 0 (looks for no spikes) or more than 1, and finite",
        ),
        ({"factor": -2.0}, "config.spike.factor=-2 should be 0"),
        ({"factor": math.inf}, "config.spike.factor=inf should be 0"),
        ({"window": 0}, "config.spike.window=0 should be greater than 0"),
        ({"skip": -1}, "config.spike.skip=-1 should be 0 or more"),
        ({"max_rewinds": 0}, "config.spike.max_rewinds=0 should be greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(corpus, spike, message):
    with pytest.raises(UserError) as error:
        check_values(tiny_config(corpus, spike=spike))
    assert message in str(error.value)

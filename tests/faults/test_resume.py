"""A run that is stopped and resumed is the run that was never stopped: params, moments, batches, losses, to the bit."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from base import schema
from base.errors import UserError
from pretrain import train as train_module
from pretrain.devices.mesh import make_mesh
from pretrain.job import _epoch_steps, assemble
from pretrain.reports.recorder import Recorder
from pretrain.resume import stream_states
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.tiny import tiny_config, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture
def batches(monkeypatch):
    """Digests of the batches fed so far."""
    digests = []
    feed = train_module.to_devices

    def recording(arrays, *arguments):
        digests.append(
            hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
        )
        return feed(arrays, *arguments)

    monkeypatch.setattr(train_module, "to_devices", recording)
    return digests


def stop_at(monkeypatch, *steps):
    """Send this process a SIGTERM while each of these steps is under way."""
    record = Recorder.step

    def stopping(self, step, metrics, *, waited):
        if step in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, step, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", stopping)


def on_devices(monkeypatch, count):
    monkeypatch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(config, jax.devices()[:count]))


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(state))]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def recording(function, results):
    """The function, noting the params that it restores: copies, as the first step takes the arrays themselves."""

    def recorded(*arguments):
        state, run = function(*arguments)
        results.append([np.array(leaf) for leaf in jax.tree.leaves(state.params)])
        return state, run

    return recorded


PHASES = [
    {"steps": 5, "seq_len": 16, "global_batch": 8, "masking_rate": 0.3},
    {"steps": 5, "seq_len": 32, "global_batch": 4, "masking_rate": 0.15, "grad_accum": 2},
]


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        pytest.param({"log": {"every": 3}}, [4], id="once, between two logs"),
        pytest.param({}, [1, 4, 6], id="three times"),
        pytest.param({"data": {"packing": "documents"}, "eval": {"every": 3}}, [3, 5], id="packed documents"),
        pytest.param(
            {"phases": PHASES, "steps": None}, [4, 5, 7], id="before, at and after a phase boundary"
        ),
        pytest.param(
            {"epochs": 2, "steps": None, "data": {"packing": "lines"}}, [5, 9], id="epochs of lines"
        ),
    ],
)
@pytest.mark.slow
def test_resume_equals_no_stop_to_the_bit(changes, stops, corpus, tmp_path, monkeypatch, batches):
    on_devices(monkeypatch, 2)
    config = tiny_config(corpus, **changes)
    whole = train(config, epath.Path(tmp_path / "whole"))
    fed_whole = list(batches)
    batches.clear()

    for stop in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            stopped = train(config, epath.Path(tmp_path / "parts"))
        assert (stopped.step, stopped.interrupted) == (stop, "SIGTERM")
    resumed = train(config, epath.Path(tmp_path / "parts"))

    assert not resumed.interrupted
    assert resumed.step == whole.step
    assert batches == fed_whole
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    every = config.log.every
    assert sorted(losses(tmp_path / "parts")) == sorted({*range(every, whole.step + 1, every), whole.step})
    for expected, actual in zip(leaves(whole.state), leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_positions_of_older_checkpoints_are_in_the_order_of_the_phase_that_read_last():
    saved = {"end": None, "size": 2, "rows": 3}
    old = {**saved, "start": [1, 2, 3]}
    mixed = {**saved, "start": {"draw": 9, "members": [[0, 1, 2], [0, 0, 0, False]]}}
    config = {
        "data": {"window": 64},
        "phases": [
            {"steps": 5, "data": None},
            {"steps": 5, "data": {"window": 1}},
            {"steps": 5, "data": {"window": 7}},
        ],
    }
    run = {
        "config": config,
        "data": {"0": {"3": old, "4": {**old, "start": None}}, "2": {"0": mixed}},
        "fingerprints": {},
    }
    job = SimpleNamespace(data_keys=("0", "0", "2"), fingerprints={})
    for step, order in ((5, True), (6, False), (10, False)):
        states = stream_states({**run, "step": step}, job)
        assert states["0"]["3"] == {**saved, "start": [1, 2, 3, order]}
        assert states["0"]["4"]["start"] is None
    states = stream_states({**run, "step": 11}, job)
    assert states["2"]["0"]["start"] == {"draw": 9, "members": [[0, 1, 2, True], [0, 0, 0, False]]}
    assert stream_states({**run, "step": 11}, job)["0"]["3"]["start"] == [1, 2, 3, False]


@pytest.mark.parametrize(
    ("corpora", "found"),
    [
        ({"0": "A", "2": "B"}, {"0": "of A", "2": "of B"}),  # the first phase is two now
        ({"0": "C", "1": "A", "2": "B"}, {"1": "of A", "2": "of B"}),  # a phase came before it
        ({"0": "B", "1": "A"}, {"0": "of B", "1": "of A"}),
        ({"0": "A", "1": "D"}, {"0": "of A", "1": "of B"}),  # another corpus in the place of B
    ],
)
def test_a_corpus_goes_on_where_it_stood_although_phases_have_other_numbers(corpora, found):
    def states(name):
        return {"0": {"start": [1, 2, 3, True], "of": name}}

    run = {
        "config": {"data": {"window": 1}, "phases": [{"steps": 5}, {"steps": 5}]},
        "step": 7,
        "data": {"0": states("of A"), "1": states("of B")},
        "fingerprints": {"tokenizer": "T", "corpus 0": "A", "corpus 1": "B"},
    }
    fingerprints = {"tokenizer": "T", **{f"corpus {number}": corpus for number, corpus in corpora.items()}}
    job = SimpleNamespace(data_keys=tuple(corpora), fingerprints=fingerprints)
    assert {key: each["0"]["of"] for key, each in stream_states(run, job).items()} == found


def test_a_signal_in_the_last_step_leaves_a_finished_run(corpus, tmp_path, monkeypatch):
    on_devices(monkeypatch, 2)
    config, workdir = tiny_config(corpus, eval={"every": 8}), epath.Path(tmp_path / "run")
    stop_at(monkeypatch, 8)
    outcome = train(config, workdir)
    assert (outcome.step, outcome.interrupted) == (8, "")
    assert json.loads((workdir / "finished.json").read_text()) == {"step": 8, "steps": 8}
    assert outcome.metrics["eval/loss"] > 0
    again = train(config, workdir)
    assert (again.step, again.interrupted) == (8, "")


def test_the_epochs_of_a_run_are_counted_once(corpus, tmp_path, monkeypatch):
    on_devices(monkeypatch, 1)
    first, workdir = epath.Path(tmp_path / "first"), epath.Path(tmp_path / "run")
    assemble(tiny_config(corpus), first, None)
    changes = {"steps": None, "epochs": 1, "seq_len": 64, "tokenizer": {"path": str(first / "tokenizer")}}
    steps = train(tiny_config(corpus, **changes), workdir).job.steps

    def counted_again(*arguments, **more):
        raise AssertionError("the corpus was counted again")

    monkeypatch.setattr("pretrain.job.count_steps", counted_again)
    assert train(tiny_config(corpus, **changes, data={"prefetch": 2}), workdir).job.steps == steps
    with pytest.raises(AssertionError, match="counted again"):
        train(tiny_config(corpus, **{**changes, "epochs": 2}), workdir, accept_changes=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"global_batch": 16},
            r"config.global_batch of a run of config.epochs cannot .*was 8, is 16; put it",
        ),
        ({"seq_len": 16}, r"config.seq_len of a run of config.epochs cannot change"),
        ({"data": {"packing": "documents"}}, r"config.data.packing of a run of config.epochs cannot change"),
        ({"data": {"packing": "lines"}}, r"config.data.packing of a run of config.epochs cannot change"),
    ],
)
def test_steps_of_epochs_are_not_counted_again_with_other_rows(corpus, change, message):
    saved = {"config": schema.as_dict(tiny_config(corpus, steps=None, epochs=1)), "steps": 40, "data": {}}
    with pytest.raises(UserError, match=message):
        _epoch_steps(tiny_config(corpus, steps=None, epochs=1, **change), None, saved)


def test_epochs_that_an_older_run_counted_by_one_document_a_row_are_not_packed(corpus, monkeypatch):
    data = {"packing": "documents", "window": 1}
    config = tiny_config(corpus, steps=None, epochs=1, data=data)
    saved = {"config": schema.as_dict(config), "steps": 40, "data": {"0": {"0": {"end": None}}}}
    assert _epoch_steps(config, None, saved) == 40
    saved["data"]["0"]["0"] = {}
    with pytest.raises(UserError, match="--accept_changes to go on so"):
        _epoch_steps(config, None, saved)
    monkeypatch.setattr("pretrain.job.count_steps", lambda *arguments, **more: 40)
    lines = tiny_config(corpus, steps=None, epochs=1, data={**data, "packing": "lines"})
    assert _epoch_steps(lines, SimpleNamespace(encode=None), saved) == 40


@pytest.mark.slow
def test_phases_with_and_without_a_shuffling_window_read_every_document_once(tmp_path, monkeypatch, batches):
    on_devices(monkeypatch, 1)
    texts = []
    for shard in range(20):
        lines = [f"{chr(97 + shard % 26)}{shard} {number}" for number in range(16)]
        (tmp_path / f"{shard:02}.txt").write_text("\n".join(lines) + "\n")
        texts += lines
    data = {"packing": "lines", "window": 64, "eval_fraction": 0.0}
    config = tiny_config(
        tmp_path / "*.txt",
        steps=None,
        data=data,
        seq_len=16,
        tokenizer={"vocab_size": 270},
        phases=[
            {"steps": 20},
            {
                "steps": 20,
                "data": {**dataclasses.asdict(tiny_config(tmp_path / "*.txt").data), **data, "window": 1},
            },
        ],
    )
    seen = []
    feed = train_module.to_devices
    monkeypatch.setattr(
        train_module,
        "to_devices",
        lambda arrays, *rest: (seen.append(arrays["tokens"].copy()), feed(arrays, *rest))[1],
    )
    with monkeypatch.context() as patch:
        stop_at(patch, 27)
        train(config, epath.Path(tmp_path / "run"))
    outcome = train(config, epath.Path(tmp_path / "run"))
    tokenizer = outcome.job.tokenizer
    rows = [[int(t) for t in row if t not in tokenizer.special_ids] for batch in seen for row in batch]
    expected = [ids.tolist() for ids in tokenizer.encode(texts)]
    assert sorted(rows) == sorted(expected)


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_goes_on_with_any_number(corpus, tmp_path, monkeypatch, batches):
    fsdp, changes = {"data": 1, "fsdp": -1}, {"matmul_precision": "highest", "steps": 5}
    config = tiny_config(corpus, **changes, mesh=fsdp)
    whole = train(config, epath.Path(tmp_path / "8"))
    fed_whole, losses_whole = list(batches), losses(tmp_path / "8")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        train(config, epath.Path(tmp_path / "saved"))

    saved = leaves(restore_params(tmp_path / "saved")[0])
    for count, mesh in ((4, {}), (2, {}), (1, {}), (8, {"data": 2, "zero1": 2, "fsdp": 2})):
        workdir = tmp_path / f"on {count} {len(mesh)}"
        shutil.copytree(tmp_path / "saved", workdir)
        batches.clear()
        with monkeypatch.context() as patch:
            on_devices(patch, count)
            restored = []
            patch.setattr(Checkpointer, "restore", recording(Checkpointer.restore, restored))
            resumed = train(
                tiny_config(corpus, **changes, mesh=mesh or fsdp), epath.Path(workdir), accept_changes=True
            )
        for expected, actual in zip(saved, restored[0], strict=True):
            np.testing.assert_array_equal(actual, expected)
        assert batches == fed_whole[2:]
        now = losses(workdir)
        np.testing.assert_allclose(
            [now[s] for s in range(3, 6)], [losses_whole[s] for s in range(3, 6)], rtol=1e-5
        )
        assert resumed.step == whole.step

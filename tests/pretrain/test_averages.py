"""Averages of weights: the moving average in training, evaluated, saved and exported; the mean of checkpoints."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from etils import epath

from base.errors import UserError
from pretrain.export import export
from pretrain.job import assemble
from pretrain.models.huggingface import load_pretrained
from pretrain.models.vocabulary import with_rows
from pretrain.optim.averages import averaged
from pretrain.origin import origin_params
from pretrain.resume import RULES
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.faults.test_resume import leaves, stop_at
from tests.tiny import on_one_device, tiny_config, write_corpus

DECAY = 0.6


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with on_one_device():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run with an average, and with what else is new in the state of an optimiser."""
    return tiny_config(
        write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt"),
        steps=6,
        optimizer={"name": "normuon", "moment_dtype": "bfloat16", "matrix_weight_decay": 0.1},
        objective={"z_loss": 1e-3},
        average={"decay": DECAY},
        eval={"every": 3},
        checkpoint={"every": 2, "keep": 9},
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp("runs") / "whole")
    return workdir, train(config, workdir)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_average_follows_its_definition():
    optimizer = averaged(optax.sgd(1.0), 0.5)
    params, random = {"w": np.zeros(3, np.float32)}, np.random.default_rng(0)
    state = optimizer.init(params)
    expected = np.zeros(3)
    for count in range(9):
        updates, state = optimizer.update({"w": random.normal(size=3).astype(np.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * np.asarray(params["w"])
        np.testing.assert_allclose(state.average["w"], expected, rtol=1e-5)
    assert int(state.updates) == 9
    plain = optax.adam(1e-3)
    assert jax.tree.structure(averaged(plain, 0.0).init(params)) == jax.tree.structure(plain.init(params))


def test_a_run_is_evaluated_with_both_weights_and_its_loss_is_without_z_loss(finished):
    evaluations = [line for line in lines(finished[0]) if "eval/loss" in line]
    assert [line["step"] for line in evaluations] == [3, 6]
    for line in evaluations:
        assert line["eval/average_loss"] != line["eval/loss"] and 0 <= line["eval/average_accuracy"] <= 1
        assert abs(line["eval/average_loss"] - line["eval/loss"]) < 1
        assert "eval/z_loss" not in line
    assert all(line["train/z_loss"] > 0 for line in lines(finished[0]) if "train/loss" in line)


def test_a_run_that_is_stopped_has_the_same_average_to_the_bit(config, finished, tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path / "parts")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(config, workdir).step == 3
    resumed = train(config, workdir)
    for mine, theirs in zip(leaves(resumed.state), leaves(finished[1].state), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


def test_the_average_of_a_checkpoint_is_read_and_exported(finished, tmp_path):
    workdir, outcome = finished
    average, run = restore_params(workdir, weights="average")
    jax.tree.map(np.testing.assert_array_equal, average, jax.device_get(outcome.state.opt_state.average))
    assert run["step"] == 6
    out = epath.Path(tmp_path / "out")
    export(workdir, out, weights="average")
    encoder, params = load_pretrained(str(out))
    padded = outcome.job.encoder
    jax.tree.map(np.testing.assert_array_equal, params, with_rows(padded, average, encoder.vocab_size))
    card = (out / "README.md").read_text()
    assert f"| weights | moving average, decay {DECAY} |" in card
    assert "pretrain.export --workdir=DIR --step=6 --weights=average --out=OUT" in card
    (last,) = [line for line in lines(workdir) if line["step"] == 6 and "eval/loss" in line]
    assert f"| held-out, last | 6 | {last['eval/average_loss']:.4f} |" in card


def test_the_mean_of_checkpoints_is_exported(finished, tmp_path):
    workdir, outcome = finished
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    parts = [restore_params(workdir, step)[0] for step in kept[-3:]]
    expected = jax.tree.map(lambda *each: np.mean(np.stack(each).astype(np.float64), axis=0), *parts)
    out = epath.Path(tmp_path / "out")
    assert export(workdir, out, mean_of=3).step == 6
    encoder, params = load_pretrained(str(out))
    expected = with_rows(outcome.job.encoder, expected, encoder.vocab_size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected)
    card = (out / "README.md").read_text()
    assert "| weights | mean of 3 checkpoints |" in card
    assert "held-out, last" not in card and "model-index" not in card, "nothing has evaluated the mean"
    with pytest.raises(UserError, match=r"--mean_of=2 should be from 1 to 1, .* up to step 2 \(\[2\]\)"):
        restore_params(workdir, 2, mean_of=2)


def test_the_mean_leaves_out_a_best_checkpoint_from_long_before(tmp_path):
    """A run keeps its best checkpoint when it deletes those around it."""
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in range(2, 11, 2):
        run = {"config": {"checkpoint": {"every": 2}}, "best": {"step": 2}}
        checkpointer.save(step, {"params": {"w": np.full(3, float(step))}}, run)
    checkpointer.wait()
    assert checkpointer.steps == [2, 8, 10]
    checkpointer.close()
    params, _ = restore_params(tmp_path, mean_of=2)
    np.testing.assert_array_equal(params["w"], np.full(3, 9.0))
    with pytest.raises(UserError, match=r"--mean_of=3 should be from 1 to 2, .* \(\[8, 10\]\)"):
        restore_params(tmp_path, mean_of=3)


def test_a_run_starts_from_the_average_of_another(config, finished, tmp_path):
    workdir, _ = finished
    start = dataclasses.replace(config, init_from=str(workdir), init_weights="average")
    outcome = train(start, epath.Path(tmp_path / "next"))
    average = restore_params(workdir, weights="average")[0]
    jax.tree.map(np.testing.assert_array_equal, origin_params(outcome.job), average)
    assert outcome.step == int(outcome.state.opt_state.updates) == 6
    assert "the start of a run cannot change" in RULES.refusal("init_weights", "raw", "average")


def test_weights_that_are_not_there_are_refused(config, finished, tmp_path):
    workdir, _ = finished
    out = epath.Path(tmp_path / "model")
    export(workdir, out)
    start = dataclasses.replace(config, init_from=str(out), init_weights="average")
    job = assemble(start, epath.Path(tmp_path / "next"), None)
    with pytest.raises(UserError, match=r"config.init_weights='average' is for a workdir of pretraining"):
        origin_params(job)
    copy = epath.Path(tmp_path / "plain")
    train(dataclasses.replace(config, steps=2, average=type(config.average)()), copy)
    with pytest.raises(UserError, match=r"has no average of its weights .config.average.decay was 0."):
        restore_params(copy, weights="average")
    with pytest.raises(UserError, match=r"config.average.decay was 0.0, is 0.6"):
        train(dataclasses.replace(config, steps=2), copy, accept_changes=True)

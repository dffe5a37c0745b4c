"""Members that make their steps one after another are the runs that they stand for, and go on to the bit."""

import os
import signal
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from finetune.population.in_turn import Apart, chosen, joined, taken_apart
from finetune.population.state import PopulationState, population_mesh
from finetune.train import train
from pretrain.config import MeshConfig
from pretrain.reports.metric_writer import read_metrics
from pretrain.reports.recorder import Recorder
from tests.finetune.tiny_task import tiny_finetune


@pytest.fixture(scope="module", autouse=True)
def one_device():
    def one(config, members):
        return population_mesh(config, members, jax.devices()[:1])

    with mock.patch("finetune.job.population_mesh", one):  # not by monkeypatch: see tests.tiny.on_one_device
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    tiny_finetune(folder)
    return folder


def config(place, **changes):
    values = {"epochs": 2, "lengths": [48], "eval": {"every": 3}, "log": {"every": 3}, **changes}
    return tiny_finetune(place, **values)


@pytest.fixture(scope="module")
def whole(place):
    workdir = epath.Path(place / "whole")
    return workdir, train(config(place, seeds=2, average={"decay": 0.9}), workdir)


def losses(outcome, member):
    return [each["members"][member]["loss"] for each in outcome.tracking.history]


def test_a_member_is_the_run_of_its_seed_to_the_bit(place, whole):
    workdir, outcome = whole
    assert outcome.job.in_turn and isinstance(outcome.state, PopulationState)
    alone = train(config(place, seed=1, average={"decay": 0.9}), epath.Path(place / "alone"))
    assert not alone.job.in_turn
    for ours, theirs in zip(jax.tree.leaves(outcome.state), jax.tree.leaves(alone.state), strict=True):
        if ours.ndim:
            np.testing.assert_array_equal(ours[1:], theirs)
    np.testing.assert_allclose(losses(outcome, 1), losses(alone, 0), rtol=1e-6)
    logged = [read_metrics(folder / "metrics.jsonl") for folder in (workdir / "runs/seed1", place / "alone")]
    ours, theirs = ([line["train/loss"] for line in lines if "train/loss" in line] for lines in logged)
    assert ours == theirs and len(ours) == 5


def test_a_stopped_run_goes_on_to_the_bit(place, whole, monkeypatch):
    workdir, record = epath.Path(place / "parts"), Recorder.step

    def stop_at_step_five(self, step, metrics, *, waited):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, step, metrics, waited=waited)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "step", stop_at_step_five)
        assert train(config(place, seeds=2, average={"decay": 0.9}), workdir).step == 5
    resumed = train(config(place, seeds=2, average={"decay": 0.9}), workdir)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole[1].state)
    assert resumed.tracking == whole[1].tracking


def test_states_that_are_taken_apart_and_joined_are_the_same_and_are_there_once():
    mesh = population_mesh(MeshConfig(), 1, jax.devices()[:1])
    layout = jax.NamedSharding(mesh, jax.P())
    arrays = {"w": np.arange(12.0).reshape(3, 2, 2), "b": np.arange(3.0)}
    placed = jax.device_put(arrays, layout)
    kept = jax.tree.map(np.array, placed)
    apart = taken_apart(PopulationState(jax.numpy.int32(4), placed, (placed["b"] + 1,), best=None))
    assert isinstance(apart, Apart) and all(leaf.is_deleted() for leaf in jax.tree.leaves(placed))
    assert [member.params["w"].shape for member in apart.members] == [(1, 2, 2)] * 3
    assert [int(member.step) for member in apart.members] == [4] * 3
    parts = [leaf for member in apart.members for leaf in jax.tree.leaves((member.params, member.opt_state))]
    state = joined(apart)
    jax.tree.map(np.testing.assert_array_equal, state.params, kept)
    np.testing.assert_array_equal(state.opt_state[0], kept["b"] + 1)
    assert all(part.is_deleted() for part in parts) and joined(state) is state


@pytest.mark.parametrize(
    ("run_members", "seeds", "devices", "expected"),
    [
        ("auto", 2, 1, True),
        ("auto", 1, 1, False),
        ("auto", 2, 2, False),
        ("in_turn", 2, 2, True),
        ("together", 2, 1, False),
    ],
)
def test_members_take_turns_on_one_cpu_or_where_the_config_says_so(
    place, run_members, seeds, devices, expected
):
    mesh = population_mesh(MeshConfig(), 1, jax.devices()[:devices])
    assert chosen(tiny_finetune(place, run_members=run_members, seeds=seeds), mesh) is expected

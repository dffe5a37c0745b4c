"""Batches that grow over the first steps of a run, as stretches of its first phase."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.schema import build
from pretrain.config import MeshConfig, PretrainConfig
from pretrain.devices.mesh import mesh_sizes
from pretrain.job import assemble
from pretrain.phases import check_lengths, check_phase, resolve_phases
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.faults.test_resume import leaves, losses, stop_at
from tests.tiny import on_one_device, tiny_config, write_corpus

WARMUP = {"batch_warmup_steps": 6, "batch_warmup_from": 2}


def phases(**values):
    return resolve_phases(build(PretrainConfig, {"steps": 20, "global_batch": 16, **WARMUP, **values}))


def test_batches_double_after_equal_numbers_of_steps():
    found = phases(grad_accum=4, phases=[{"steps": 20}, {"steps": 5, "seq_len": 64}], steps=None)
    assert [(p.start, p.stop, p.global_batch, p.grad_accum) for p in found] == [
        (0, 2, 2, 1), (2, 4, 4, 1), (4, 6, 8, 2), (6, 20, 16, 4), (20, 25, 16, 4)
    ]  # fmt: skip
    assert [p.index for p in found] == [0, 1, 2, 3, 4]
    assert [p.number for p in found] == [0, 0, 0, 0, 1], "held-out rows are kept by this number"
    assert [(p.whole.start, p.whole.stop, p.whole.global_batch) for p in found[:2]] == [(0, 20, 16)] * 2


def test_micro_batches_of_smaller_batches_are_whole_and_no_larger_than_those_of_the_phase():
    found = phases(global_batch=64, grad_accum=16, batch_warmup_from=7, batch_warmup_steps=8)
    assert [(p.global_batch, p.grad_accum) for p in found] == [(7, 7), (14, 7), (28, 7), (56, 14), (64, 16)]


def test_a_corpus_has_the_same_key_with_and_without_a_warmup(tmp_path):
    """So a run whose warm-up is done may go on without it, and no text is lost."""
    first, second = (write_corpus(tmp_path / f"{seed}.txt", seed=seed) for seed in range(2))
    config = tiny_config(first, data={"streams": 2}, steps=None, phases=[{"steps": 8}])
    data = dataclasses.replace(config.data, path=str(second))
    config = dataclasses.replace(
        config, phases=(*config.phases, dataclasses.replace(config.phases[0], data=data))
    )
    warming = dataclasses.replace(config, batch_warmup_steps=4, batch_warmup_from=2)
    with on_one_device():
        jobs = [assemble(each, epath.Path(tmp_path / "run"), None) for each in (config, warming)]
    assert [job.data_keys for job in jobs] == [("0", "1"), ("0", "0", "0", "1")]
    assert jobs[0].fingerprints == jobs[1].fingerprints


def test_without_a_warmup_there_is_one_phase():
    (phase,) = phases(batch_warmup_steps=0)
    assert (phase.of, phase.whole) == (None, phase)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_warmup_from": 16}, "batch_warmup_from=16 should be 1 or more, and less than config.global_batch=16"),
        ({"batch_warmup_steps": 2}, "=2 should be 3 or more, one for each of the batches of 2, 4, 8 rows"),
        ({"batch_warmup_steps": 20}, "less than the 20 steps of the first phase"),
    ],
)  # fmt: skip
def test_impossible_warmups_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        phases(**values)


def test_first_batches_that_devices_or_streams_do_not_divide_are_refused_where_they_are_set():
    found = phases(grad_accum=4)
    rows = r"a batch of {} rows in the batch warm-up \(config.batch_warmup_from, then twice as many\)"
    with pytest.raises(
        UserError, match=rows.format(2) + " should be a multiple of 8: 8 devices that share it x 1 micro"
    ):
        check_phase(found[0], mesh_sizes(MeshConfig(), 8))
    with pytest.raises(
        UserError, match=rows.format(8) + r" should be .* of 16: 8 devices that share it x 2 micro"
    ):
        check_phase(found[2], mesh_sizes(MeshConfig(), 8))
    with pytest.raises(UserError, match=rows.format(4) + " should be a multiple of config.data.streams=8"):
        check_phase(found[1], mesh_sizes(MeshConfig(), 1))


def test_a_run_of_epochs_has_no_warmup():
    with pytest.raises(UserError, match=r"set config\.steps instead of config\.epochs"):
        check_lengths(build(PretrainConfig, {"epochs": 1, **WARMUP}))


def test_a_stopped_run_is_the_same_and_its_evaluations_compare(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    corpus = write_corpus(tmp_path / "text.txt")
    config = tiny_config(
        corpus,
        steps=8,
        batch_warmup_steps=4,
        batch_warmup_from=2,
        data={"streams": 2},
        eval={"every": 2, "steps": 1},
        checkpoint={"every": 3, "keep": 9},
        schedule={"name": "constant"},
    )
    whole, parts = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "parts")
    with on_one_device():
        outcome = train(config, whole)
        assert [line for line in caplog.messages if "batch warm-up" in line] == [
            "step 2: the batch warm-up goes on: global_batch 2 -> 4",
            "step 4: the batch warm-up is over: global_batch 4 -> 8",
        ]
        for stop in (1, 2, 4, 5):
            with monkeypatch.context() as patch:
                stop_at(patch, stop)
                assert train(config, parts).step == stop
        resumed = train(config, parts)
    assert losses(whole) == losses(parts)
    for expected, actual in zip(leaves(outcome.state), leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(actual, expected)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    evaluations = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert sorted(evaluations) == [2, 4, 6, 8]
    assert len({line["eval/frequency_loss"] for line in lines if "eval/loss" in line}) == 1
    for workdir in (whole, parts):
        assert [path.name for path in workdir.glob("heldout_*")] == ["heldout_0.npz"]
    assert restore_params(whole, 3)[1]["best"]["step"] == 2, "a larger batch begins no new best"
    best = restore_params(whole, "best")[1]["step"]
    assert best == min(evaluations, key=evaluations.__getitem__)

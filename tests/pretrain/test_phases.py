"""How long a run is, what its phases hold, and what is refused before anything is read."""

import pytest

from data.errors import UserError
from data.schema import build
from pretrain.config import MeshConfig, PretrainConfig
from pretrain.phases import check_lengths, check_phase, check_values, resolve_phases
from pretrain.sharding import make_mesh


def config(**values):
    return build(PretrainConfig, values)


def test_one_phase_spans_the_run():
    (phase,) = resolve_phases(config(steps=10, seq_len=64, global_batch=16))
    assert (phase.start, phase.stop, phase.seq_len, phase.global_batch) == (0, 10, 64, 16)


def test_phases_follow_one_another_and_inherit_from_the_run():
    phases = resolve_phases(
        config(
            seq_len=128,
            masking={"rate": 0.3},
            phases=[{"steps": 9}, {"steps": 1, "seq_len": 512, "masking_rate": 0.15}],
        )
    )
    assert [(p.start, p.stop, p.seq_len, p.masking_rate) for p in phases] == [
        (0, 9, 128, 0.3),
        (9, 10, 512, 0.15),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set exactly one of config.steps, config.epochs and config.phases; none of them is set"),
        ({"steps": 1, "epochs": 1}, "config.steps and config.epochs are set"),
        ({"epochs": 0}, "config.epochs=0 should be 1 or more"),
    ],
)
def test_the_length_is_given_once(values, message):
    with pytest.raises(UserError, match=message):
        check_lengths(config(**values))


def test_a_run_without_steps_is_refused():
    with pytest.raises(UserError, match=r"config\.phases\[1\]\.steps=0 should be 1 or more"):
        resolve_phases(config(phases=[{"steps": 1}, {}]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval": {"every": -1}}, "config.eval.every=-1 should be 0"),
        ({"masking": {"mask_fraction": 0.9, "random_fraction": 0.2}}, "add up to more than 1"),
        (
            {"optimizer": {"learning_rate": -1.0}},
            "config.optimizer.learning_rate=-1.0 should be greater than 0",
        ),
        ({"checkpoint": {"every": 0}}, "config.checkpoint.every=0 should be greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        check_values(config(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq_len": 513}, "config.seq_len=513 should be 4 to 512, the positions of the model"),
        ({"global_batch": 0}, "config.global_batch=0 should be 1 or more"),
        ({"grad_accum": -1}, "config.grad_accum=-1 should be 1 or more"),
        ({"masking": {"rate": 1.5}}, "config.masking.rate=1.5 should be above 0 and at most 1"),
        ({"masking": {"rate": 0.0}}, "config.masking.rate=0.0 should be above 0"),
        ({"data": {"streams": 0}}, "config.data.streams=0 should be 1 or more"),
        ({"global_batch": 20}, "config.global_batch=20 should be a multiple of 8: 8 devices that share it"),
        ({"global_batch": 24, "grad_accum": 2}, "should be a multiple of 16"),
        ({"global_batch": 16, "data": {"streams": 5}}, "should be a multiple of config.data.streams=5"),
    ],
)
def test_batches_and_rows_that_do_not_fit_are_refused(values, message):
    (phase,) = resolve_phases(config(steps=1, **values))
    with pytest.raises(UserError, match=message):
        check_phase(phase, 512, make_mesh(MeshConfig()))

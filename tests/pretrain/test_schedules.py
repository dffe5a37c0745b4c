"""Learning rates at the corners of each shape."""

import jax
import numpy as np
import pytest

from base.errors import UserError
from base.schema import build
from pretrain.config import PretrainConfig, ScheduleConfig
from pretrain.optim.learning_rates import learning_rate_schedule, schedule_of_phases
from pretrain.phases import resolve_phases

PEAK = 0.5


def rates(steps, total=100, **fields):
    schedule = learning_rate_schedule(ScheduleConfig(**fields), PEAK, total)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "inverse_sqrt", "constant"])
def test_warmup_rises_from_zero_to_the_peak(name):
    np.testing.assert_allclose(
        rates([0, 5, 10], name=name, warmup_steps=10), [0.0, PEAK / 2, PEAK], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("fields", "steps", "shares"),
    [
        ({"name": "linear"}, [10, 55, 100, 200], [1, 0.5, 0, 0]),
        ({"name": "linear", "final_fraction": 0.2}, [10, 55, 100], [1, 0.6, 0.2]),
        ({"name": "cosine"}, [10, 40, 55, 100], [1, 0.75, 0.5, 0]),
        ({"name": "cosine", "final_fraction": 0.1}, [55, 100], [0.55, 0.1]),
        ({"name": "wsd", "decay_fraction": 0.4}, [10, 60, 70, 100, 120], [1, 1, 0.5, 0, 0]),
        ({"name": "wsd", "decay_fraction": 0.4, "final_fraction": 0.2}, [70, 100], [0.6, 0.2]),
        ({"name": "inverse_sqrt"}, [10, 40, 90], [1, 0.5, 1 / 3]),
        ({"name": "constant"}, [10, 100], [1, 1]),
    ],
)
def test_shape_after_warmup(fields, steps, shares):
    got = rates(steps, warmup_steps=10, **fields)
    np.testing.assert_allclose(got, PEAK * np.asarray(shares), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "inverse_sqrt", "constant"])
def test_without_warmup_the_first_step_has_the_peak(name):
    assert rates([0], name=name, warmup_steps=0) == [PEAK]


def test_warmup_as_long_as_the_run_is_a_ramp():
    np.testing.assert_allclose(
        rates([0, 50, 99], name="linear", warmup_steps=100), [0, 0.25, 0.495], rtol=1e-6
    )


def test_the_same_value_under_jit():
    schedule = learning_rate_schedule(ScheduleConfig(warmup_steps=7), PEAK, 30)
    assert [float(jax.jit(schedule)(step)) for step in range(30)] == pytest.approx(
        [float(schedule(step)) for step in range(30)], rel=1e-6
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup_steps": 101}, "warmup_steps=101 is longer than the run of 100 steps; set it to 10 or so"),
        ({"warmup_steps": -1}, "warmup_steps=-1 should be 0 or more"),
        ({"warmup_steps": 1, "final_fraction": 1.5}, "final_fraction=1.5 should be between 0 and 1"),
        (
            {"name": "wsd", "warmup_steps": 60, "decay_fraction": 0.5},
            "config.schedule.warmup_steps=60 and 50 steps of decay",
        ),
    ],
)
def test_impossible_schedules_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        rates([0], **fields)


def rates_of_phases(phases, steps, **fields):
    config = build(
        PretrainConfig, {"phases": phases, "schedule": fields, "optimizer": {"learning_rate": PEAK}}
    )
    schedule = schedule_of_phases(config.schedule, PEAK, resolve_phases(config))
    return [float(schedule(step)) for step in steps]


def test_the_three_phases_of_modernbert_a_stable_rate_a_lower_one_and_its_decay():
    phases = [
        {"steps": 50},
        {"steps": 20, "learning_rate": 0.2},
        {"steps": 40, "learning_rate": 0.2, "schedule": "1-sqrt"},
    ]
    got = rates_of_phases(phases, [5, 10, 49, 50, 69, 70, 80, 110], name="constant", warmup_steps=10)
    np.testing.assert_allclose(got, [0.25, 0.5, 0.5, 0.2, 0.2, 0.2, 0.1, 0.0], rtol=1e-6, atol=1e-7)


def test_a_phase_with_a_peak_of_its_own_follows_the_shape_of_the_run():
    got = rates_of_phases([{"steps": 50}, {"steps": 50, "learning_rate": 0.2}], [25, 50, 75], warmup_steps=0)
    np.testing.assert_allclose(got, [0.375, 0.1, 0.05], rtol=1e-6)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.6), ("cosine", 0.6), ("constant", 1.0)])
def test_the_shape_of_a_phase_spans_the_phase_alone(shape, middle):
    phases = [{"steps": 20, "schedule": "constant"}, {"steps": 80, "schedule": shape}]
    got = rates_of_phases(phases, [0, 20, 60], warmup_steps=0, final_fraction=0.2)
    np.testing.assert_allclose(got, [PEAK, PEAK, PEAK * middle], rtol=1e-6)


def test_the_shape_of_a_phase_spans_its_batch_warmup_too():
    values = {
        "phases": [{"steps": 80, "schedule": "linear"}, {"steps": 1}],
        "batch_warmup_steps": 40,
        "batch_warmup_from": 64,
        "schedule": {"warmup_steps": 0},
        "optimizer": {"learning_rate": PEAK},
    }
    config = build(PretrainConfig, values)
    schedule = schedule_of_phases(config.schedule, PEAK, resolve_phases(config))
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 20, 40)], [0.5, 0.375, 0.25], rtol=1e-6)


def test_phases_without_a_rate_of_their_own_change_no_schedule():
    phases = [{"steps": 50}, {"steps": 50, "seq_len": 16}]
    steps = range(0, 100, 7)
    assert rates_of_phases(phases, steps, name="wsd", warmup_steps=10) == rates(
        steps, name="wsd", warmup_steps=10
    )

"""Learning rates at the corners of each shape."""

import jax
import numpy as np
import pytest

from base.errors import UserError
from pretrain.config import ScheduleConfig
from pretrain.optim.learning_rates import learning_rate_schedule

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

"""The learning rate scaled by the tokens of a batch, by phase."""

import numpy as np
import optax
import pytest

from base.errors import UserError
from pretrain.checks import check_fields
from pretrain.config import PretrainConfig
from pretrain.optim.batch_scaling import rate_factor, rate_text, scaled_by_batch
from pretrain.optim.config import OptimizerConfig
from pretrain.phases import resolve_phases
from tests.settings import with_field

CONFIG = with_field(
    PretrainConfig(seq_len=8),
    "phases",
    [{"steps": 2, "global_batch": 4}, {"steps": 3, "global_batch": 16}, {"steps": 1, "global_batch": 8}],
)


@pytest.mark.parametrize(("exponent", "factor"), [(0.0, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_the_factor_is_a_power_of_the_ratio(exponent, factor):
    config = OptimizerConfig(reference_batch=256, batch_exponent=exponent)
    assert rate_factor(config, 1024) == factor
    assert rate_factor(config, 64) == 1 / factor
    assert rate_factor(OptimizerConfig(batch_exponent=exponent), 1024) == 1.0


def test_each_phase_has_the_rate_of_its_batch():
    schedule = optax.linear_schedule(1.0, 0.0, 6)
    config = OptimizerConfig(reference_batch=32)
    scaled = scaled_by_batch(schedule, config, resolve_phases(CONFIG))
    factors = [1.0, 1.0, 2.0, 2.0, 2.0, 2.0**0.5]
    found = [float(scaled(step)) for step in range(6)]
    np.testing.assert_allclose(found, [factor * float(schedule(step)) for step, factor in enumerate(factors)])


def test_without_a_reference_the_schedule_is_as_it_was():
    schedule = optax.constant_schedule(1.0)
    assert scaled_by_batch(schedule, OptimizerConfig(), resolve_phases(CONFIG)) is schedule


def test_the_summary_has_the_rate_that_is_used():
    second = resolve_phases(with_field(CONFIG, "optimizer.learning_rate", 1e-3))[1]
    text = rate_text(OptimizerConfig(reference_batch=32), second)
    assert text == "peak 0.002 = 0.001 x (128 / 32 tokens)^0.5"
    assert rate_text(OptimizerConfig(), second) == ""


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.reference_batch", -1, "should be a number of tokens, or 0"),
        ("optimizer.batch_exponent", 2.0, "should be between 0 and 1"),
        ("optimizer.matrix_weight_decay", -0.1, "should be 0 or more, or None"),
        ("optimizer.normuon_beta2", 1.0, "should be 0 or more, and less than 1"),
        ("objective.z_loss", -1e-4, "should be 0 .off. or more"),
        ("average.decay", 1.0, "should be 0 .off. or more, and less than 1"),
    ],
)
def test_values_out_of_range_are_refused(field, value, message):
    with pytest.raises(UserError, match=f"config.{field}={value} {message}"):
        check_fields(with_field(CONFIG, field, value))

"""The mask rate as a curve over the steps of a run: static shapes, the same numbers on every device."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.schema import build
from pretrain.config import MaskingConfig, PretrainConfig
from pretrain.job import assemble
from pretrain.objective.mask_rates import ONE, MaskRates, rates_of_run
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables, predictions_per_row
from pretrain.phases import check_phase, check_values, resolve_phases
from pretrain.train import train
from tests.tiny import on_one_device, tiny_config, write_corpus

TABLES = MaskingTables(0.8, 0.1, 4, (0, 1, 2, 3, 4), 300)


def masking(**values):
    return MaskingConfig(rate_shape="linear", **{"rate": 0.3, "final_rate": 0.15, **values})


def rate_at(rates, step):
    return rates.parts[sum(first <= step for first in rates.starts) - 1] / ONE


def test_a_linear_curve_goes_from_the_first_rate_to_the_last():
    rates = rates_of_run(masking(), 10_000)
    expected = [0.3 - 0.15 * step / 10_000 for step in range(0, 10_000, 100)]
    np.testing.assert_allclose(
        [rate_at(rates, step) for step in range(0, 10_000, 100)], expected, atol=0.15 / 255
    )
    assert rates.ends == (round(0.3 * ONE) / ONE, round(0.15 * ONE) / ONE)


def test_steps_of_equal_length():
    rates = rates_of_run(MaskingConfig(0.4, "steps", 0.1, rate_levels=4), 8)
    assert [round(rate_at(rates, step), 4) for step in range(8)] == [0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1]


def test_a_short_run_has_a_level_for_each_step():
    assert rates_of_run(masking(), 2).starts == (0, 1)
    assert rates_of_run(masking(), 1).parts == (round(0.3 * ONE),)


def test_a_constant_rate_has_no_curve_and_keeps_its_number_of_predictions():
    (phase,) = resolve_phases(build(PretrainConfig, {"steps": 5, "masking": {"rate": 0.3}}))
    assert phase.mask_rates is None
    assert MaskedLM(TABLES, 0.3).predictions(128) == predictions_per_row(0.3, 128) == 38


def test_a_phase_has_its_part_of_the_curve_unless_it_sets_a_rate():
    values = {
        "masking": {"rate": 0.4, "rate_shape": "steps", "final_rate": 0.1},
        "phases": [{"steps": 3}, {"steps": 3}, {"steps": 2, "masking_rate": 0.2}],
    }
    first, second, third = resolve_phases(build(PretrainConfig, values))
    assert [round(rate_at(first.mask_rates, step), 4) for step in range(3)] == [0.4, 0.4, 0.3]
    assert [round(rate_at(second.mask_rates, step), 4) for step in range(3, 6)] == [0.3, 0.2, 0.2]
    assert (round(second.masking_rate, 4), third.mask_rates, third.masking_rate) == (0.3, None, 0.2)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_number_of_predictions_of_a_step_is_the_rounded_share_and_at_least_one(rate):
    rates, maskable = rates_of_run(masking(final_rate=rate), 50), np.arange(300)
    budgets = jax.jit(rates.budgets)
    for step in (0, 7, 49, 1000):
        share = rates.parts[sum(first <= step for first in rates.starts) - 1] / ONE
        expected = np.minimum(np.maximum(np.floor(share * maskable + 0.5), 1), maskable)
        np.testing.assert_array_equal(budgets(jnp.int32(step), maskable), expected)


def test_the_longest_rows_do_not_overflow():
    whole = MaskRates((0,), (ONE,))
    assert int(whole.budgets(jnp.int32(0), jnp.array([ONE - 1]))[0]) == ONE - 1
    assert whole.predictions(ONE - 1) == (ONE - 1,) * 3


def test_steps_of_one_program_predict_fewer_and_fewer_tokens():
    rates = rates_of_run(masking(rate=0.5, final_rate=0.1), 5)
    objective = MaskedLM(TABLES, rates.largest, rates)
    rows = np.arange(5, 45, dtype=np.int32).reshape(2, 20)
    batch = {"tokens": rows, "segments": np.ones_like(rows), "positions": np.zeros_like(rows)}
    prepare = jax.jit(lambda step: objective.prepare(jax.random.key(0), np.arange(2), batch, step))
    seen = [prepare(jnp.int32(step)) for step in range(5)]
    assert prepare._cache_size() == 1
    assert [each.weights.sum(axis=1).tolist() for each in seen] == [
        [count, count] for count in (10, 8, 6, 4, 2)
    ]
    assert all(each.predicted.shape == (2, 10) for each in seen)
    for each in seen:  # of the weights' places, and of no other, the inputs differ
        changed = np.take_along_axis(np.asarray(each.inputs != rows), np.asarray(each.predicted), 1)
        assert not np.any(changed[np.asarray(each.weights) == 0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"final_rate": 1.5}, "config.masking.final_rate=1.5 should be between 0 and 1"),
        ({"rate": -0.5, "rate_shape": "linear"}, "config.masking.rate=-0.5 should be between 0 and 1"),
        ({"rate_levels": 1}, "config.masking.rate_levels=1 should be 2 or more"),
        (
            {"rate": 0.0, "final_rate": 0.0, "rate_shape": "steps"},
            "config.masking.rate and config.masking.final_rate are both 0; one should be above 0",
        ),
    ],
)
def test_impossible_curves_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        check_values(build(PretrainConfig, {"masking": values}))


@pytest.mark.parametrize("rates", [{"rate": 0.0, "final_rate": 0.4}, {"rate": 0.4, "final_rate": 0.0}])
def test_a_curve_from_0_or_to_0_is_taken_by_a_run_of_epochs_too(tmp_path, rates):
    """Its steps are counted after the checks."""
    corpus = write_corpus(tmp_path / "text.txt")
    config = tiny_config(corpus, steps=None, epochs=1, masking={**rates, "rate_shape": "linear"})
    with on_one_device():
        (phase,) = assemble(config, epath.Path(tmp_path / "run"), None).phases
    assert round(phase.masking_rate, 4) == 0.4 and sorted(phase.mask_rates.ends)[0] == 0


def test_a_phase_without_a_rate_is_refused_where_its_rate_can_be_set():
    curve = {"rate": 0.3, "final_rate": 0.0, "rate_shape": "steps", "rate_levels": 2}
    config = build(PretrainConfig, {"masking": curve, "phases": [{"steps": 4}, {"steps": 4}]})
    last = resolve_phases(config)[1]
    with pytest.raises(UserError, match=r"is 0 in all of config.phases\[1\]: raise config.masking.rate or"):
        check_phase(last, dict.fromkeys(("replica", "data", "zero1", "fsdp", "tensor"), 1))


def test_a_row_whose_products_could_overflow_is_refused():
    config = build(PretrainConfig, {"steps": 2, "seq_len": ONE, "masking": {"rate_shape": "linear"}})
    (phase,) = resolve_phases(config)
    with pytest.raises(
        UserError, match=r"config.seq_len=65536 should be 65535 or less with a config.masking"
    ):
        check_phase(phase, dict.fromkeys(("replica", "data", "zero1", "fsdp", "tensor"), 1))


def test_a_run_logs_the_share_that_each_step_predicts_and_says_so_at_its_start(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "text.txt")
    config = tiny_config(
        corpus, steps=4, masking={"rate": 0.5, "rate_shape": "steps", "final_rate": 0.2, "rate_levels": 2}
    )
    with on_one_device():
        job = train(config, epath.Path(tmp_path / "run")).job
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["train/predicted_share"] for line in lines if "train/loss" in line]
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.2, 0.2], atol=0.02)
    assert "up to 16 a row at first, up to 6 at last" in " ".join(capsys.readouterr().out.split())
    assert (job.objectives[0].predictions(32), job.evaluations[0].rate) == (16, 0.15)
    assert job.evaluations[0].rates is None

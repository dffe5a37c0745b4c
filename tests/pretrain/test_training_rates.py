"""The speeds of a run's intervals, and the peak that its MFU is a share of."""

import pytest

from pretrain.devices.hardware import Peak
from pretrain.reports.recorder import Interval
from pretrain.reports.training_rates import TrainingRates


class _Work:
    """A step of 600 FLOPs."""

    def flops(self, **of):
        assert of == {"tokens": 40.0, "attended": 9.0, "predictions": 6.0}
        return 600.0


def interval():
    totals = {"tokens": 40, "places": 50, "attended": 9, "weight_sum": 6}
    return Interval(start=0.0, waited=0.5, steps=2, totals=totals, seconds=2.0)


def test_a_peak_that_was_measured_far_too_low_does_not_make_the_mfu_of_a_whole_run_wrong():
    peaks = iter([Peak(1000.0, "measured", "2 cores")])
    rates = TrainingRates(_Work(), 2, Peak(50.0, "measured", "2 cores"), lambda: next(peaks))
    expected = {
        "train/tokens_per_second": 20.0, "train/step_seconds": 1.0, "train/data_wait": 0.25, "train/padding": 0.2,
        "train/mfu": 0.15
    }  # fmt: skip
    assert rates.of(interval()) == rates.of(interval()) == pytest.approx(expected)
    assert rates.peak == Peak(1000.0, "measured", "2 cores")


def test_without_a_peak_there_is_no_mfu():
    assert "train/mfu" not in TrainingRates(_Work(), 2, None, lambda: None).of(interval())

"""The speeds of a pretraining run: tokens a second, seconds a step, the wait for data, padding, and the MFU."""

from collections.abc import Callable

from pretrain.devices.flops import StepWork
from pretrain.devices.hardware import Peak, plausible_peak
from pretrain.reports.recorder import Interval


class TrainingRates:
    """Makes the speeds of intervals, and keeps the peak that MFU is a share of."""

    def __init__(self, work: StepWork, devices: int, peak: Peak | None, measure: Callable[[], Peak | None]):
        """Take the peak of the run's start.

        Args:
          work: the arithmetic of the network's steps.
          devices: those of the mesh.
          peak: what one of them can do; None where that is not known.
          measure: measures it again.
        """
        self._work, self._devices, self._measure = work, devices, measure
        self.peak = peak

    def of(self, interval: Interval) -> dict[str, float]:
        """Make the speeds of an interval that has ended."""
        seconds, totals = interval.seconds, {name: float(value) for name, value in interval.totals.items()}
        rates = {
            "train/tokens_per_second": totals["tokens"] / seconds,
            "train/step_seconds": seconds / interval.steps,
            "train/data_wait": min(interval.waited / seconds, 1.0),
            "train/padding": 1 - totals["tokens"] / totals["places"],
        }
        if self.peak is not None:
            flops = self._work.flops(
                tokens=totals["tokens"], attended=totals["attended"], predictions=totals["weight_sum"]
            )
            reached = flops / seconds / self._devices
            self.peak = plausible_peak(self.peak, reached, self._measure)
            rates["train/mfu"] = reached / self.peak.flops_per_second
        return rates

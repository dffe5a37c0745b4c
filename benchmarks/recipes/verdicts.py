"""Whether a rung has won: means, the spread of seeds, and two standard deviations of a difference."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.objective.token_frequencies import MARGIN

Results = Sequence[Mapping[str, Any]]
"""Results of the seeds of a rung, as `benchmarks.recipes.runs.write_result` writes them."""
MEASURES = {"tokens": "tokens", "wall": "seconds", "processor": "processor seconds"}


@dataclass(frozen=True)
class Difference:
    """A rung's mean held-out loss less that of the rung that it stands on."""

    loss: float
    deviation: float
    """Standard deviation of the difference."""

    @property
    def verdict(self) -> str:
        """won (a lower loss), nil or lost, at two standard deviations; unknown without a spread."""
        if not self.deviation > 0:
            return "unknown"
        if abs(self.loss) <= 2 * self.deviation:
            return "nil"
        return "won" if self.loss < 0 else "lost"


def final(result: Mapping[str, Any], name: str = "loss") -> float:
    """The last score of a run."""
    return result["curve"][-1][name]


def mean(results: Results, name: str = "loss") -> float:
    """The mean of the last scores of a rung's seeds."""
    return statistics.fmean(final(result, name) for result in results)


def own_spread(results: Results) -> float:
    """The standard deviation of the last loss over seeds; 0 for a single seed."""
    return statistics.stdev(map(final, results)) if len(results) > 1 else 0.0


def pooled_spread(rungs: Mapping[str, Results]) -> float:
    """The standard deviation over seeds, pooled over all rungs with several seeds; 0 if there are none."""
    several = [results for results in rungs.values() if len(results) > 1]
    freedom = sum(len(results) - 1 for results in several)
    if not freedom:
        return 0.0
    return math.sqrt(sum((len(results) - 1) * own_spread(results) ** 2 for results in several) / freedom)


def difference(mine: Results, below: Results, pooled: float) -> Difference:
    """Compare two rungs.

    The spread of a seed is the largest of the pooled one and the two rungs' own: runs that leave the plateau of word
    frequencies at different times differ more than runs that stay on it.
    """
    spread = max(pooled, own_spread(mine), own_spread(below))
    return Difference(mean(mine) - mean(below), spread * math.sqrt(1 / len(mine) + 1 / len(below)))


def reached(result: Mapping[str, Any], loss: float, measure: str) -> float:
    """What a run had spent when its loss was first at most `loss`, linear between two scores; infinite if never.

    Args:
      result: the run's.
      loss: nats.
      measure: tokens, wall or processor.
    """
    before = None
    for point in result["curve"]:
        if point["loss"] <= loss:
            if before is None:
                return float(point[measure])
            share = (before["loss"] - loss) / (before["loss"] - point["loss"])
            return float(before[measure] + share * (point[measure] - before[measure]))
        before = point
    return math.inf


def shares(mine: Results, baseline: Results) -> dict[str, float]:
    """What a rung needs for the baseline's last loss, as a share of what the baseline has spent, by measure."""
    goal = mean(baseline)
    return {
        measure: statistics.fmean(reached(result, goal, measure) for result in mine) / mean(baseline, measure)
        for measure in MEASURES
    }


def left_at(results: Results, frequency_loss: float) -> float:
    """Tokens after which the mean run was `MARGIN` below the loss of token frequencies; infinite if some were not."""
    return statistics.fmean(reached(result, frequency_loss - MARGIN, "tokens") for result in results)


def best_of(rungs: Mapping[str, Results], start: str) -> str | None:
    """The baseline with the lowest mean loss whose name is `start` and a learning rate."""
    names = [name for name in rungs if name.startswith(start) and _is_number(name.removeprefix(f"{start}-"))]
    return min(names, key=lambda name: mean(rungs[name]), default=None)


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False

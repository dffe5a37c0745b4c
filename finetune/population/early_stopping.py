"""What a population remembers of its evaluations: each member's history, its best, and whether it has stopped early."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from base.errors import UserError
from data.labelled.tasks import Task


@dataclass
class Tracking:
    """Every member's evaluations so far; JSON-able, part of each checkpoint."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """[{"step": ..., "epoch": ..., "members": [{metric: value}]}], oldest first."""
    best: list[int] = field(default_factory=list)
    """For each member, the index in `history` of its best evaluation."""

    def add(
        self, step: int, epoch: float, members: Sequence[Mapping[str, float]], metric: str, patience: int
    ) -> list[bool]:
        """Take an evaluation; returns which members are better than ever, by `metric`.

        A member that has stopped early is never better again: its run alone would have ended.
        """
        stopped = self.stopped(patience)
        self.history.append({"step": step, "epoch": round(epoch, 4), "members": [dict(m) for m in members]})
        now = len(self.history) - 1
        if now == 0:
            self.best = [0] * len(members)
            return [True] * len(members)
        better = [
            not done and is_better(metric, values[metric], self.history[self.best[i]]["members"][i][metric])
            for i, (values, done) in enumerate(zip(members, stopped or [False] * len(members), strict=True))
        ]
        self.best = [now if improved else old for improved, old in zip(better, self.best, strict=True)]
        return better

    def stopped(self, patience: int) -> list[bool]:
        """Which members had `patience` evaluations in a row without a better one; none with a patience of 0."""
        return [bool(patience) and len(self.history) - 1 - best >= patience for best in self.best]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"history": self.history, "best": self.best}


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether a value of a metric is better: lower for losses, higher for scores; any number is better than NaN."""
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value < than if metric.rpartition("/")[2] == "loss" else value > than


def choosing_metric(given: str, task: Task) -> str:
    """The metric that chooses the best model.

    Raises:
      UserError: the config names one that the task does not have.
    """
    known = (*task.metrics, "loss")
    if given and given not in known:
        raise UserError(
            f"config.eval.metric={given!r} is not a metric of {task.title}; it has {', '.join(known)}"
        )
    return given or task.chooses

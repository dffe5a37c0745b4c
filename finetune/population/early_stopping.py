"""The evaluations of a population: each member's history and best evaluation, and early stopping."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from base.errors import UserError
from data.labelled.own_pairs import RANKING_METRICS, SIMILARITY_METRICS
from data.labelled.tasks import EMBEDDING, SIMILARITY, Task


@dataclass
class Tracking:
    """All evaluations of every member so far. Each checkpoint holds them as JSON."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """[{"step": ..., "epoch": ..., "members": [{metric: value}]}], oldest first."""
    best: list[int] = field(default_factory=list)
    """For each member, the index in `history` of its best evaluation."""
    told_to_end: bool = False
    """Whether a callback has ended the run."""
    own_metrics: list[str] | None = None
    """Names of the user's own metrics; None of a run that an earlier version saved."""

    @classmethod
    def recalled(cls, saved: Mapping[str, Any], task: Task) -> "Tracking":
        """The evaluations of a checkpoint, for a run that goes on.

        Args:
          saved: what `as_dict` gave.
          task: that of the run, with the user's own metrics.

        Raises:
          UserError: the user's own metrics are others than before: the evaluations would differ in what they have.
        """
        found, now = cls(**saved), own_names(task)
        if found.own_metrics is not None and sorted(found.own_metrics) != sorted(now):
            before, after = (", ".join(names) or "none" for names in (found.own_metrics, now))
            raise UserError(
                f"this run was made with other metrics of your own: compute_metrics gave {before}, and now {after}. "
                "Give the same function, or set another workdir"
            )
        return replace(found, own_metrics=now)

    def add(
        self, step: int, epoch: float, members: Sequence[Mapping[str, float]], metric: str, patience: int
    ) -> list[bool]:
        """Add an evaluation.

        A member that has stopped early cannot improve any more: if it were trained alone, its run would have ended.

        Args:
          step: number of the step.
          epoch: number of passes over the examples so far.
          members: the metrics of each member.
          metric: name of the metric that chooses the best model.
          patience: number of evaluations without an improvement after which a member stops; 0 never stops.

        Returns:
          For each member, whether this evaluation is its best so far.
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
        """For each member, whether its last `patience` evaluations brought no improvement. All False if it is 0."""
        return [bool(patience) and len(self.history) - 1 - best >= patience for best in self.best]

    def as_dict(self) -> dict[str, Any]:
        """The evaluations as an object that JSON can hold."""
        return {
            "history": self.history,
            "best": self.best,
            "told_to_end": self.told_to_end,
            "own_metrics": self.own_metrics,
        }


def own_names(task: Task) -> list[str]:
    """The names of the user's own metrics of a task."""
    return [] if task.own_metrics is None else list(task.own_metrics.names)


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether a metric's value is better than another. A lower loss and a higher score are better; NaN is the worst."""
    if math.isnan(value):
        return False
    if math.isnan(than):
        return True
    return value < than if is_loss(metric) else value > than


def is_loss(metric: str) -> bool:
    """Whether a metric is the loss of an evaluation set."""
    return metric.rpartition("/")[2] == "loss"


def better_of(
    metric: str, raw: Sequence[Mapping[str, float]], average: Sequence[Mapping[str, float]]
) -> tuple[list[dict[str, float]], list[bool]]:
    """The better evaluation of each member: of its weights, or of their average.

    Args:
      metric: name of the metric that chooses the best model.
      raw: the metrics of each member's weights.
      average: those of each member's average.

    Returns:
      The metrics of each member's better one, with average_chosen (1 or 0), and whether it is the average.
    """
    chosen = [
        math.isnan(own[metric]) or is_better(metric, theirs[metric], own[metric])
        for own, theirs in zip(raw, average, strict=True)
    ]
    values = [
        {**(theirs if is_average else own), "average_chosen": float(is_average)}
        for own, theirs, is_average in zip(raw, average, chosen, strict=True)
    ]
    return values, chosen


def choosing_metric(given: str, task: Task, evaluated: str = "") -> str:
    """The metric that chooses the best model: `given`, or else the task's own.

    Args:
      given: config.eval.metric.
      task: the task.
      evaluated: where the examples to evaluate on come from. Their metrics depend on it for pairs of texts.

    Raises:
      UserError: the task does not have the metric `given`.
    """
    known = (*task.scores, "loss")
    if given and given not in known:
        raise no_metric("config.eval.metric", given, task, evaluated, known)
    return given or task.chooses


def no_metric(setting: str, given: str, task: Task, evaluated: str, known: Sequence[str]) -> UserError:
    """The one line for a metric that a task does not have.

    Args:
      setting: the field that names it.
      given: its value.
      task: the task.
      evaluated: see `choosing_metric`.
      known: the metrics that it has.
    """
    place = evaluated if evaluated and task.kind in (EMBEDDING, SIMILARITY) else task.title
    line = f"{setting}={given!r} is not a metric of {place.removeprefix('files ')}; it has {', '.join(known)}"
    if task.kind == EMBEDDING:
        line += f"; pairs with scores (config.data.score) have {', '.join(SIMILARITY_METRICS)}"
    if task.kind == SIMILARITY:
        line += f"; pairs without scores have {', '.join(RANKING_METRICS)}"
    return UserError(line)

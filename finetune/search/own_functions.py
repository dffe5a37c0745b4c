"""Functions of the user's own in a search: what is searched, and what is optimised."""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import UserError
from finetune.results.own_metrics import ComputeMetrics, failed

if TYPE_CHECKING:
    import optuna

HpSpace = Callable[["optuna.Trial"], Mapping[str, Any]]
"""Draws the values of a trial: {"optimizer.learning_rate": trial.suggest_float("lr", 1e-5, 1e-4, log=True)}."""
ComputeObjective = Callable[[Mapping[str, float]], float]
"""Makes the number that is optimised of the metrics of an evaluation, means over the seeds."""
DIRECTIONS = ("maximize", "minimize")
NOT_OF_A_TRIAL = ("learning_rates", "search.", "benchmark.")
"""Beginnings of the fields that make several runs of one; a trial has one score."""
OBJECTIVE = "objective"
"""What tables call a number of the user's own."""


@dataclass(frozen=True)
class OwnFunctions:
    """The user's functions of a search; None takes what the config says."""

    hp_space: HpSpace | None = None
    compute_objective: ComputeObjective | None = None
    direction: str = DIRECTIONS[0]
    """Whether a higher or a lower number of `compute_objective` is better, as optuna has it."""
    compute_metrics: ComputeMetrics | None = None

    def check(self, objective: str) -> None:
        """Refuse a direction that is none, or has no effect.

        Args:
          objective: config.search.objective.

        Raises:
          UserError: it is none or has no effect, or two objectives are given.
        """
        if self.compute_objective is not None and objective:
            raise UserError(
                f"config.search.objective={objective!r} and compute_objective are given; leave one of them out"
            )
        if self.direction not in DIRECTIONS:
            raise UserError(f"direction={self.direction!r} should be {' or '.join(DIRECTIONS)}")
        if self.direction != DIRECTIONS[0] and self.compute_objective is None:
            raise UserError(
                f"direction={self.direction!r} is of compute_objective, which is not given; the direction of a metric "
                "is known"
            )

    def draw(self, trial: "optuna.Trial") -> dict[str, Any]:
        """The values of a trial, by paths of fields.

        Raises:
          UserError: the function fails, gives no values, or values of fields that a trial cannot set.
        """
        assert self.hp_space is not None
        try:
            values = self.hp_space(trial)
        except Exception as error:
            if "dynamic value space" in str(error):
                raise UserError(
                    "hp_space draws a parameter from other choices than before, but optuna keeps the choices of a name "
                    "for a whole search; give the parameter another name, or set another workdir"
                ) from error
            raise failed("hp_space", error) from error
        if not isinstance(values, Mapping) or not values:
            raise UserError(
                f"hp_space gave {values!r:.60}; it should give a dict of values by fields, such as "
                "{'optimizer.learning_rate': trial.suggest_float('learning_rate', 1e-5, 1e-4, log=True)}"
            )
        for name in values:
            if not isinstance(name, str):
                raise UserError(f"hp_space gave the field {name!r:.60}; the name of a field should be a text")
            if name.removeprefix("config.").startswith(NOT_OF_A_TRIAL):
                raise UserError(
                    f"hp_space gave {name!r}, but a trial has one learning rate and one task; leave it out, or draw "
                    "'optimizer.learning_rate'"
                )
        return dict(values)

    def value(self, metrics: Mapping[str, float]) -> float:
        """The number of an evaluation; NaN where the model has diverged.

        Raises:
          UserError: the function fails, or gives no number.
        """
        assert self.compute_objective is not None
        if any(math.isnan(value) for name, value in metrics.items() if name.rpartition("/")[2] == "loss"):
            return math.nan
        try:
            value = self.compute_objective(dict(metrics))
        except KeyError as error:
            raise UserError(
                f"compute_objective asks for {error.args[0]!r}; an evaluation has {', '.join(metrics)}"
            ) from error
        except Exception as error:
            raise failed("compute_objective", error) from error
        if not isinstance(value, numbers.Real | np.number):
            raise UserError(f"compute_objective gave {value!r:.60}; it should give a number")
        return float(value)

"""What becomes of a run whose loss or gradient is not finite: `config.on_nonfinite`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from pretrain.optim.finite import NONFINITE, all_finite

logger = logging.getLogger(__name__)

REMEDY = "lower config.optimizer.learning_rate"


class Guard:
    """Looks at the metrics of each step, and at the params before they are saved.

    A population trains several runs in one program. A run of it that goes bad is named once, and the others go on; the
    population ends when all of its runs are bad.
    """

    def __init__(self, policy: str, most: int, members: Sequence[str] = ("",)):
        """Guard a run, or the runs of a population.

        Args:
          policy: "abort" ends the run at the first bad step; "skip" lets the step leave the state as it was; "rewind"
            leaves bad steps to `pretrain.runtime.loss_spikes`.
          most: bad steps in a row that "skip" passes over.
          members: a name for each run of a population.
        """
        self._members, self._named = members, set[str]()
        self._remedy = REMEDY + ", or set config.on_nonfinite=skip to leave such steps out" * (
            policy == "abort"
        )
        self._policy, self._most = policy, most if policy == "skip" else 0
        self.in_a_row = [0] * len(members)
        """Bad steps in a row of each run, up to the last step that was looked at."""

    def look(self, step: int, values: Mapping[str, Any]) -> None:
        """Look at the metrics of step number `step` (counted from 1).

        Raises:
          UserError: the run, or every run of a population, is bad and must not go on.
        """
        bad = np.broadcast_to(np.asarray(values.get(NONFINITE, 0)) > 0, len(self._members))
        if not bad.any() or self._policy == "rewind":
            self.in_a_row = [0] * len(self._members)
            return
        self.in_a_row = [count + 1 if now else 0 for count, now in zip(self.in_a_row, bad)]
        what = f"step {step}: the loss or the gradient is not finite"
        over = [name for name, count in zip(self._members, self.in_a_row) if count > self._most]
        if len(over) == len(self._members):
            raise UserError(
                f"{what}{self._in_all()}; the run ends, and its newest checkpoint is from before: {REMEDY}"
            )
        for name in over:
            if name not in self._named:
                self._named.add(name)
                logger.warning("%s in run %s; it has diverged, and the others go on", what, name)
        if self._policy == "skip" and len(over) < sum(bad):
            logger.warning("%s; the step is skipped", what)

    def _in_all(self) -> str:
        row = f" in {self._most + 1} steps in a row (config.max_skipped={self._most})" if self._most else ""
        return row + " in all runs" * (len(self._members) > 1)

    def check_params(self, step: int, state: Any) -> None:
        """Refuse to save a state whose params are not finite: an update may overflow although its gradient is finite.

        Raises:
          UserError: they are not. Those of a population may be: a run of it may have diverged.
        """
        if len(self._members) == 1 and not bool(all_finite(state.params)):
            raise UserError(
                f"step {step}: the weights are not finite; the run ends, and does not save them: {self._remedy}"
            )

"""Loss spikes: `config.spike`. A run goes back to a checkpoint, and goes on with the text after the spike.

The remedy is PaLM's (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1): training was started again from a
checkpoint about 100 steps before a spike, without the 200 to 500 batches before and during it.
"""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from base.errors import UserError
from pretrain.config import SpikeConfig
from pretrain.runtime.bad_numbers import REMEDY
from pretrain.runtime.checkpointer import Run


@dataclass(frozen=True)
class Spike:
    """A step whose loss is a spike."""

    step: int
    """Its number, from 1."""
    what: str
    """What is wrong with it, for messages."""


@dataclass(frozen=True)
class Rewind:
    """How a run went back."""

    spike: int
    """The step of the spike."""
    to: int
    """The step of the checkpoint; 0 where there was none."""
    last: int
    """The last step whose batch is skipped; the first one is `to` + 1."""


class Spikes:
    """Looks at the loss of each step, and remembers how often the run went back.

    A spike is a step whose loss is more than `factor` times the median of the losses of the `window` steps before it.
    No step is a spike while there are fewer such losses. The window begins again with each phase. All processes read
    the same losses, which the devices have summed, so all of them find the same spike at the same step.
    """

    def __init__(self, config: SpikeConfig, *, nonfinite: bool):
        """Look for spikes.

        Args:
          config: how.
          nonfinite: whether a step whose loss or gradient is not finite is a spike.
        """
        self._config, self._nonfinite = config, nonfinite
        self._losses: deque[float] = deque(maxlen=config.window)
        self._rewinds: list[Rewind] = []
        self.skipped = 0
        """Batches that the run has skipped: the batch of step n is the one numbered n + skipped."""
        self.found: Spike | None = None
        """The spike for which the run has to go back."""

    def begin(self) -> None:
        """Begin the window again, because losses that do not compare with the earlier ones follow."""
        self._losses.clear()

    def look(self, step: int, loss: float, *, is_finite: bool) -> None:
        """Look at the loss of step number `step` (from 1), in nats; the loss of a step without predictions is 0.

        Raises:
          UserError: it is a spike, and the run has gone back as often as it may.
        """
        if self.found is not None:  # a step that was dispatched before the loss of the spike was read
            return
        what = self._flaw(loss) if is_finite else "the loss or the gradient is not finite" * self._nonfinite
        if not what:
            if self._config.factor and is_finite and loss > 0:
                self._losses.append(loss)
            return
        if len(self._rewinds) >= self._config.max_rewinds:
            raise UserError(
                f"step {step}: {what}, and the run has gone back {len(self._rewinds)} times (config.spike.max_rewinds="
                f"{self._config.max_rewinds}); the run ends, and its newest checkpoint is from before: {REMEDY}"
            )
        self.found = Spike(step, what)

    def _flaw(self, loss: float) -> str:
        factor = self._config.factor
        if not factor or len(self._losses) < self._config.window:
            return ""
        median = statistics.median(self._losses)
        return f"the loss {loss:.4g} is over {factor:g} x {median:.4g}" * (loss > factor * median)

    def last(self, steps: int | None) -> int:
        """The last step whose batch is skipped for the spike that was found.

        Args:
          steps: steps that the text is enough for; None where it has no end.
        """
        assert self.found is not None
        last = self.found.step + self._config.skip
        return last if steps is None else max(self.found.step, min(last, steps))

    def is_suspect(self, step: int) -> bool:
        """Whether the checkpoint of `step`, the newest, may itself be the cause of the spike that was found.

        It may if the run went back to it the last time, and has not come past the spike of that time.
        """
        assert self.found is not None
        return (
            bool(self._rewinds)
            and self._rewinds[-1].to == step
            and self.found.step <= self._rewinds[-1].spike
        )

    def go_back(self, run: Run | None, steps: int | None) -> str:
        """Note that the run goes back to a checkpoint; returns the message that says so.

        Args:
          run: the checkpoint's `run` item; None where there is no checkpoint.
          steps: as for `last`.

        Raises:
          UserError: the run would begin again without any text.
        """
        assert self.found is not None
        spike, last, to = self.found, self.last(steps), run["step"] if run else 0
        if run is None and last == steps:
            raise UserError(
                f"step {spike.step}: {spike.what}; there is no checkpoint, and no text after the batches to skip: "
                "lower config.spike.skip or config.checkpoint.every"
            )
        skipped = last + self.skipped
        rewinds = [*self._rewinds, Rewind(spike.step, to, last)]
        self.recall(run or {})
        self._rewinds, self.skipped = rewinds, skipped - to
        batches = f"the batches of steps {to + 1} to {last}" if last > to + 1 else f"the batch of step {last}"
        return f"step {spike.step}: {spike.what}; going back to step {to} and skipping {batches}"

    def recall(self, run: Mapping[str, Any]) -> None:
        """Restore what `remembered` has put into a checkpoint's `run` item; older runs have none."""
        saved = run.get("spikes", {})
        self._losses.clear()
        self._losses.extend(saved.get("losses", ()))
        self._rewinds = [Rewind(**each) for each in saved.get("rewinds", ())]
        self.skipped, self.found = saved.get("skipped", 0), None

    def remembered(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        return {
            "losses": list(self._losses),
            "rewinds": [asdict(each) for each in self._rewinds],
            "skipped": self.skipped,
        }

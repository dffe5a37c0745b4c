"""What a stage says to the loop of both stages (`pretrain.runtime.loop`), which does the rest."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
from etils import epath
from jax.sharding import Mesh

from pretrain.config import LogConfig
from pretrain.reports.recorder import Interval, Recorder
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.checkpointer import Run
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.loss_spikes import Spikes

MetricFolders = Sequence[tuple[epath.Path, Mapping[str, Any] | None]]
"""Folders of metrics, the run's own first, each with the hyperparameters that TensorBoard shows of it."""


class StepBatch(Protocol):
    """What one step takes."""

    @property
    def wait(self) -> float:
        """Seconds for which the loop waited for it."""


class Stretch(Protocol):
    """Steps that one reader feeds."""

    @property
    def stop(self) -> int:
        """The number of steps that the run has made when the stretch is over."""

    def next(self, step: int) -> Any:
        """Return the `StepBatch` of step number `step` (from 0).

        Raises:
          UserError: the text or the examples cannot be read on.
        """

    def compile(self, interruption: Interruption) -> None:
        """Compile the steps, before the first of them is made."""

    def describe(self, step: int) -> None:
        """Show what is about to be done, memory included; called on every process."""

    def dispatch(
        self, state: Any, batch: Any, flags: Mapping[str, jax.Array]
    ) -> tuple[Any, Mapping[str, Any]]:
        """Have the devices make a step: returns the next state and the step's metrics (see `Recorder.step`).

        Args:
          state: the state, whose memory is used again.
          batch: what `next` returned.
          flags: what the interruption adds to the batch.
        """


class Rewinding(Protocol):
    """The parts of a stage that can go back to a checkpoint and skip text."""

    @property
    def spikes(self) -> Spikes:
        """Looks for loss spikes."""

    def pass_over(self, step: int) -> None:
        """Have the run go on after the batches that the spike which was found makes it skip.

        Called in the stretch of the spike, after `step` steps were dispatched: that of the spike, and at most one more.
        """

    def go_back(self, run: Run | None) -> tuple[str, Mapping[str, Any]]:
        """Restore the values of `remembered` from a checkpoint's `run` item, but for the place in the text.

        Args:
          run: the item; None where the run begins again.

        Returns:
          The message that says so, and the recorder's sums.
        """


class Stage(Protocol):
    """The parts of a run that differ between the stages; the loop does the rest."""

    @property
    def config(self) -> Any:
        """The config that checkpoints save, a dataclass."""

    @property
    def log(self) -> LogConfig:
        """`config.log`."""

    @property
    def mesh(self) -> Mesh:
        """Where the state lies."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""

    @property
    def log_at(self) -> Collection[int]:
        """Steps to log at beside every `config.log.every`."""

    @property
    def abstract(self) -> Any:
        """The state's tree with shape, dtype and sharding at each leaf."""

    def whole(self, state: Any) -> Any:
        """A state that `Stretch.dispatch` has returned, in the layout of `abstract`, as checkpoints take it."""

    @property
    def guard(self) -> Guard:
        """Looks for losses, gradients and weights that are not finite."""

    @property
    def rewinding(self) -> Rewinding | None:
        """Where the run can go back; None where it cannot."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """What must not change when the run goes on, by its name."""

    def first_state(self) -> Any:
        """Make the state of step 0."""

    def recall(self, run: Run) -> Mapping[str, Any]:
        """Restore the values of `remembered` from a checkpoint's `run` item. Returns the recorder's sums."""

    def remembered(self) -> Mapping[str, Any]:
        """What the run remembers besides its arrays, JSON-able; called on every process before each checkpoint."""

    def ended(self, step: int) -> bool:
        """Whether nothing is left to train after so many steps."""

    def stretch(self, step: int) -> contextlib.AbstractContextManager[Stretch]:
        """Open the stretch of step number `step` (from 0)."""

    def write_start(self, step: int) -> None:
        """Write the files that describe the run; called on the first process."""

    def write_before_checkpoint(self) -> None:
        """Write what must be there before a checkpoint is; called on the first process."""

    def metric_folders(self) -> MetricFolders:
        """Where metrics go."""

    def summarise(self, sums: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make losses and scores of sums (see `Recorder`)."""

    def rates(self, interval: Interval) -> Mapping[str, float]:
        """Make speeds of an interval (see `Recorder`)."""

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate after so many steps."""

    def evaluation_compiled(self, step: int) -> bool:
        """Whether the evaluation after so many steps has nothing to compile."""

    def evaluate(self, state: Any, step: int, recorder: Recorder) -> tuple[Any, bool]:
        """Evaluate and log; returns the state, and whether to save it for being the best so far."""

    def saving_due(self, step: int) -> bool:
        """Whether to save after so many steps."""

    def finish(self, step: int, *, before: bool) -> None:
        """Write the outputs of a run that has ended (`before`: before this call). Called on every process."""

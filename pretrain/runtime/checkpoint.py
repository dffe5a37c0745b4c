"""Checkpoints: the one file that knows Orbax.

A checkpoint of step N holds two items: `state`, the arrays of the TrainState, and `run`, a small JSON dict (positions
of all data streams, resolved config, fingerprints of tokenizer and corpus, best evaluation so far). It is written
asynchronously into a temporary directory, which is renamed when it is complete. In a bucket, a rename would be a copy,
so the checkpoint is marked as complete instead. A killed run leaves whole checkpoints only.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from base.errors import UserError
from base.storage import check_damage, explained, is_remote, move_folder
from pretrain.runtime import processes

Run = dict[str, Any]

MISMATCH = re.compile(
    r"tree structures do not match|Requested shape: .* is not compatible with the stored shape"
)
"""How Orbax says that a checkpoint is whole, but of another state."""

logger = logging.getLogger(__name__)


class _KeepLastAndBest(checkpoint_managers.PreservationPolicy):
    """Keep the newest `last` checkpoints and the best one."""

    def __init__(self, last: int):
        self._last = last
        self.best: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: Any,
    ) -> list[bool]:
        newest = {info.step for info in sorted(checkpoints, key=lambda info: info.step)[-self._last :]}
        return [info.step in newest or info.step == self.best for info in checkpoints]


class Checkpointer:
    """Saves, lists and restores the checkpoints of one workdir."""

    def __init__(self, workdir: epath.PathLike, *, keep: int = 1, create: bool = True):
        """Open WORKDIR/checkpoints, keeping the newest `keep` and the best.

        Raises:
          UserError: the folder cannot be made, or is in a bucket that cannot be read.
        """
        self._policy = _KeepLastAndBest(keep)
        self._path = epath.Path(workdir) / "checkpoints"
        try:
            with explained(self._path):
                self._manager = ocp.CheckpointManager(
                    self._path if is_remote(self._path) else self._path.resolve(),
                    options=ocp.CheckpointManagerOptions(
                        create=create, preservation_policy=self._policy, enable_async_checkpointing=True
                    ),
                    item_handlers={
                        "state": ocp.PyTreeCheckpointHandler(),
                        "run": ocp.JsonCheckpointHandler(),
                    },
                )
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self._path}: {error}; set --workdir") from error

    @property
    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, oldest first."""
        return sorted(self._manager.all_steps(read=False))

    def save(self, step: int, state: Any, run: Run) -> None:
        """Start writing the checkpoint of a step; returns once the arrays are copied to the host."""
        if step in self.steps:
            return
        self._policy.best = run["best"]["step"] if run.get("best") else None
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=arguments, force=True)

    def wait(self) -> None:
        """Block until what was saved is committed; raises what went wrong in writing it."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the threads."""
        self._manager.close()

    def read_run(self) -> Run | None:
        """The `run` item of the newest readable checkpoint, with its step as run["step"]; None where there is none."""
        bad: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                return self._read_run(step) | {"step": step}
            except Exception as error:  # damage shows itself as errors of many kinds
                check_damage(error, f"checkpoint {step} in {self._path}")
                bad[step] = _first_line(error)
        self._refuse_fresh_start(bad)
        return None

    def restore(self, abstract_state: Any) -> tuple[Any, Run] | None:
        """State (laid out as `abstract_state` says) and run of the newest whole checkpoint; None where there is none.

        Args:
          abstract_state: the state's tree with a jax.ShapeDtypeStruct (shape, dtype, sharding) at each leaf.

        Raises:
          UserError: there are checkpoints but none can be read, so that a run never starts afresh silently. Or a
            checkpoint holds other arrays, or cannot be read for a reason that may pass; it is left as it is.
        """
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        bad: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeRestore(item=abstract_state, restore_args=arguments),
                        run=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:  # damage shows itself as errors of many kinds
                if MISMATCH.search(str(error)):
                    raise UserError(
                        f"checkpoint {step} in {self._path} holds other arrays than the config asks for: put "
                        "config.model and config.optimizer back as they were, or start in another --workdir"
                    ) from error
                check_damage(error, f"checkpoint {step} in {self._path}")
                bad[step] = _first_line(error)
                logger.error("checkpoint %d cannot be read, trying the one before: %s", step, bad[step])
                continue
            run = restored["run"]
            self._policy.best = run["best"]["step"] if run.get("best") else None
            self._set_aside(bad)
            return restored["state"], run | {"step": step}
        self._refuse_fresh_start(bad)
        return None

    def _set_aside(self, bad: Mapping[int, str]) -> None:
        """Rename checkpoints that cannot be read, so that they are kept and the steps can be saved anew."""

        def rename_and_look_again() -> None:
            for step in bad if processes.is_first() else ():
                move_folder(self._path / str(step), self._path / f"{step}.unreadable")
            self._manager.reload()

        processes.check_same({"the checkpoints that cannot be read": sorted(bad)})
        if bad:
            processes.first_then_all(rename_and_look_again)

    def _read_run(self, step: int) -> Run:
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def _refuse_fresh_start(self, bad: Mapping[int, str]) -> None:
        if bad:
            newest = max(bad)
            raise UserError(
                f"none of the checkpoints in {self._path} (steps {sorted(bad)}) can be read ({newest}: {bad[newest]}); "
                "move them away to start afresh, or set another --workdir"
            )

    def params(self, step: int) -> dict[str, Any]:
        """The params of a step as a nested dict of numpy arrays."""
        tree = self._manager.item_metadata(step)["state"].tree["params"]
        item = {"params": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)}
        arguments = {"params": jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)}
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
            ),
        )
        return restored["state"]["params"]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def newest_step(workdir: epath.PathLike) -> int:
    """The step of a run's newest committed checkpoint; 0 where there is none. Waits for no other process."""
    return max(ocp.utils.checkpoint_steps(epath.Path(workdir) / "checkpoints"), default=0)


def restore_params(workdir: epath.PathLike, step: int | str | None = None) -> tuple[dict[str, Any], Run]:
    """Params of a run, as numpy arrays, and the `run` item of their checkpoint (its step as run["step"]).

    Args:
      workdir: the run's folder.
      step: a step, "best" (lowest eval/loss; the newest without evaluations), or None or "last" for the newest.

    Raises:
      UserError: no such checkpoint; the message lists those there are.
    """
    if not (epath.Path(workdir) / "checkpoints").exists():
        raise _no_checkpoint(workdir)
    checkpointer = Checkpointer(workdir, create=False)
    try:
        run = checkpointer.read_run()
        if run is None:
            raise _no_checkpoint(workdir)
        wanted = _wanted_step(step, run)
        if wanted not in checkpointer.steps:
            raise UserError(
                f"there is no checkpoint of step {step} in {workdir}; there are {checkpointer.steps}"
            )
        try:
            return checkpointer.params(wanted), checkpointer._read_run(wanted) | {"step": wanted}
        except Exception as error:  # damage shows itself as errors of many kinds
            check_damage(error, f"checkpoint {wanted} in {workdir}")
            others = [step for step in checkpointer.steps if step != wanted]
            raise UserError(
                f"checkpoint {wanted} in {workdir} cannot be read ({_first_line(error)}); other steps: {others}"
            ) from error
    finally:
        checkpointer.close()


def _no_checkpoint(workdir: epath.PathLike) -> UserError:
    return UserError(f"the run in {workdir} has no checkpoint yet; run its command again to go on with it")


def _wanted_step(step: int | str | None, newest: Mapping[str, Any]) -> int:
    if step is None or step == "last":
        return int(newest["step"])
    if step == "best":
        return int(newest["best"]["step"]) if newest.get("best") else int(newest["step"])
    try:
        return int(step)
    except ValueError:
        raise UserError(f"--step={step!r} should be a number, 'best' or 'last'") from None

"""Checkpoints: the one file that knows Orbax.

A checkpoint of step N has three items: `state`, the arrays of the TrainState; `run`, a small JSON dict (positions of
all data streams, resolved config, fingerprints of tokenizer and corpus, best evaluation so far); and `manifest`, a
digest of every file of the other two (`pretrain.runtime.manifest`). It is written asynchronously into a temporary
directory, which is renamed when it is complete. In a bucket, a rename would be a copy, so the checkpoint is marked as
complete instead. A killed run leaves whole checkpoints only.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from base import formatting
from base.errors import UserError
from base.storage import (
    StorageError,
    check_damage,
    explained,
    free_name,
    is_remote,
    is_storage_failure,
    move_folder,
    patiently,
    storage_flaw,
)
from pretrain.runtime import manifest, mismatch, orbax_messages, processes
from pretrain.runtime.nested import at_path, placed

Run = dict[str, Any]

SAVED_FILE = "saved.json"
"""{"step": N}, the newest checkpoint that was committed; it tells a run that has lost its checkpoints."""

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


class _ManifestHandler(ocp.JsonCheckpointHandler):
    """Writes the manifest of a checkpoint when its other items are complete: it is the last of them."""

    def finalize(self, directory: epath.Path) -> None:
        """Write it; Orbax calls this on the first process, before the checkpoint is committed."""
        manifest.write(directory)


@ocp.args.register_with_handler(_ManifestHandler, for_save=True, for_restore=True)
class _SaveManifest(ocp.args.JsonSave):
    """Asks for a manifest."""


class DamagedError(ValueError):
    """A checkpoint is not as it was written."""


class Checkpointer:
    """Saves, lists and restores the checkpoints of one workdir."""

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        keep: int = 1,
        create: bool = True,
        verify: bool = True,
        before_save: Callable[[], None] | None = None,
    ):
        """Open WORKDIR/checkpoints, keeping the newest `keep` and the best.

        Args:
          workdir: the run's folder.
          keep: newest checkpoints kept.
          create: whether to make the folder.
          verify: whether checkpoints get a manifest, and are compared with it before they are read.
          before_save: called before each save; may refuse it.

        Raises:
          UserError: the folder cannot be made, or is in a bucket that cannot be read.
        """
        orbax_messages.leave_out()
        self._policy = _KeepLastAndBest(keep)
        self._path = epath.Path(workdir) / "checkpoints"
        self._verify = verify
        self._before_save = before_save
        self.changed: Mapping[str, tuple[Any, Any]] = {}
        """Fields of the config that differ from the checkpoint's, (old, new) by path, for messages."""
        self._writing: int | None = None
        """The step whose checkpoint is being written, or whose end has not been looked at."""
        self._committed = 0
        """The step that was committed last, until `report` has said so."""
        self._sound = 0  # the step whose files `read_run` has found as they were written
        try:
            with explained(self._path):
                self._manager = self._open(create)
        except OSError as error:
            raise UserError(f"cannot write checkpoints to {self._path}: {error}; set --workdir") from error

    def _open(self, create: bool) -> ocp.CheckpointManager:
        handlers = {"state": ocp.PyTreeCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(
            self._path if is_remote(self._path) else self._path.resolve(),
            options=ocp.CheckpointManagerOptions(
                create=create, preservation_policy=self._policy, enable_async_checkpointing=True
            ),
            item_handlers=handlers | ({manifest.FOLDER: _ManifestHandler()} if self._verify else {}),
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, oldest first; also the one that is being written."""
        return sorted(self._manager.all_steps(read=False))

    def save(self, step: int, state: Any, run: Run, *, first: Callable[[], None] = lambda: None) -> None:
        """Start writing the checkpoint of a step; returns once the arrays are copied to the host.

        A checkpoint that cannot be written costs a single process no more than that checkpoint: the log says so, and
        the older ones are kept. `first` writes what has to be there before it.
        """
        self.wait()
        if step in self.steps:
            return
        self.check_place()
        if flaw := self._lack_of_space(state):
            self._give_up(step, flaw)
            return
        self._policy.best = run["best"]["step"] if run.get("best") else None
        items: dict[str, Any] = {
            "state": ocp.args.PyTreeSave(state),
            "run": ocp.args.JsonSave({**run, "step": step, "manifest": self._verify}),
        }
        if self._verify:
            items[manifest.FOLDER] = _SaveManifest({})
        self._writing = step
        try:
            first()
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            self._failed(error)

    def report(self) -> int:
        """Say whether the last save has failed, once it has ended; waits for nothing.

        Returns:
          The step that has been committed since the last call; 0 where there is none.
        """
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.wait()
        committed, self._committed = self._committed, 0
        return committed

    def wait(self) -> None:
        """Block until what was saved is committed, or say that it could not be.

        Raises:
          StorageError: it could not, and there are several processes.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed(error)
        if self._writing is not None:
            self._committed = self._writing
        self._writing = None

    def _failed(self, error: Exception) -> None:
        self.check_place()
        if self._writing is None or not is_storage_failure(error):
            raise error
        if processes.count() > 1:
            raise StorageError(
                f"the checkpoint of step {self._writing} could not be saved ({storage_flaw(error)}): of several "
                f"processes this ends the run; once it is mended, run the same command again to go on from the "
                "checkpoint before"
            ) from error
        step, self._writing = self._writing, None
        with contextlib.suppress(Exception):  # it raises the error again
            self._manager.close()
        for folder in self._path.glob(f"{step}.orbax-checkpoint-tmp*"):
            with contextlib.suppress(OSError):
                folder.rmtree()  # it takes room on a disk that may be full
        self._manager = self._open(create=True)
        self._give_up(step, storage_flaw(error))

    def _give_up(self, step: int, flaw: str) -> None:
        newest = max(self.steps, default=0)
        kept = f"that of step {newest} is kept" if newest else "there is no earlier one"
        logger.error(
            "the checkpoint of step %d could not be saved (%s); %s, and the run goes on", step, flaw, kept
        )

    def _lack_of_space(self, state: Any) -> str:
        """What is missing for a checkpoint of the state; '' where there is room, or where that is not known."""
        if is_remote(self._path) or processes.count() > 1:
            return ""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._path).free
        return f"it needs {formatting.size(needed)}, of which {formatting.size(free)} are free" * (
            needed > free
        )

    def delete(self, step: int) -> None:
        """Delete the checkpoint of a step; every process calls it."""
        self._manager.delete(step)

    def close(self) -> None:
        """Wait, then release the threads."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # it raises again what `wait` has told of
                self._manager.close()

    def check_place(self) -> None:
        """Refuse to save into a folder that is gone, or that another run has taken over.

        Raises:
          UserError: it is so.
        """
        if self._before_save is not None:
            self._before_save()
        if not is_remote(self._path) and not self._path.exists():
            raise UserError(
                f"the folder {self._path} is gone: the run ends; put it back, and run the same command again"
            )

    def read_run(self, *, whole: bool = False) -> Run | None:
        """The `run` item of the newest readable checkpoint, with its step as run["step"]; None where there is none.
        `whole`: all of its files are compared; every process calls it."""
        bad: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                if whole:
                    self.check(step)
                    self._sound = step
                return self.run(step)
            except Exception as error:  # damage shows itself as errors of many kinds
                check_damage(error, self._name(step))
                bad[step] = first_line(error)
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
        state_item = ocp.args.PyTreeRestore(item=abstract_state, restore_args=arguments)
        bad: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                if step != self._sound:
                    self.check(step)
                run = self.run(step)
                restored = self._read(step, state=state_item)
                _check_step(step, getattr(restored["state"], "step", step))
            except Exception as error:  # damage shows itself as errors of many kinds
                if mismatch.SIGN.search(str(error)):
                    stored = self._manager.item_metadata(step)["state"].tree
                    said = mismatch.message(self._name(step), stored, abstract_state, self.changed)
                    raise UserError(said) from error
                check_damage(error, self._name(step))
                bad[step] = first_line(error)
                then = ", trying the one before" if step != self.steps[0] else ""
                logger.error("checkpoint %d cannot be read%s: %s", step, then, bad[step])
                continue
            self._sound = 0
            self._policy.best = run["best"]["step"] if run.get("best") else None
            self._set_aside(bad)
            return restored["state"], run
        self._refuse_fresh_start(bad)
        return None

    def _read(self, step: int, **items: Any) -> Any:
        """Items of a checkpoint, each by what is asked of Orbax."""
        wanted = ocp.args.Composite(**items)
        return patiently(lambda: self._manager.restore(step, args=wanted), self._name(step))

    def _name(self, step: int) -> str:
        return f"checkpoint {step} in {self._path}"

    def _set_aside(self, bad: Mapping[int, str]) -> None:
        """Rename checkpoints that cannot be read, so that they are kept and the steps can be saved anew."""

        def rename_and_look_again() -> None:
            for step in bad if processes.is_first() else ():
                move_folder(self._path / str(step), free_name(self._path, f"{step}.unreadable"))
            self._manager.reload()

        processes.check_same({"the checkpoints that cannot be read": sorted(bad)})
        if bad:
            processes.first_then_all(rename_and_look_again, "setting damaged checkpoints aside")

    def check(self, step: int, part: str = "") -> None:
        """Compare the files of a checkpoint, or of one of its items, with its manifest.

        Several processes share the files of a whole checkpoint among them.

        Raises:
          DamagedError: a file differs; the message names it.
        """
        folder = self._path / str(step)
        if not self._verify or not manifest.exists(folder):
            return
        number, count = (0, 1) if part else (processes.number(), processes.count())
        try:
            listed = manifest.read(folder)
            names = [name for name in sorted(listed) if name.startswith(part)][number::count]
            flaw = patiently(lambda: manifest.flaw(folder, listed, names), self._name(step))
        except ValueError as error:
            flaw = str(error)
        if count > 1:
            flaws = processes.gather(flaw)
            flaw = processes.from_first(lambda: next(filter(None, flaws), ""))
        if flaw:
            raise DamagedError(flaw)

    def run(self, step: int) -> Run:
        """The `run` item of a step, with its step as run["step"].

        Raises:
          DamagedError: it is not as it was written.
        """
        self.check(step, "run/")
        run: Run = self._read(step, run=ocp.args.JsonRestore())["run"]
        _check_step(step, run.get("step", step))
        if run.get("manifest") and self._verify and not manifest.exists(self._path / str(step)):
            raise DamagedError(f"its manifest ({manifest.FOLDER}/{manifest.FILE}) is missing")
        return run | {"step": step}

    def _refuse_fresh_start(self, bad: Mapping[int, str]) -> None:
        if bad:
            newest = max(bad)
            raise UserError(
                f"none of the checkpoints in {self._path} (steps {sorted(bad)}) can be read ({newest}: {bad[newest]}); "
                "move them away to start afresh, or set another --workdir"
            )

    def params(self, step: int, at: Sequence[str] = ("params",)) -> dict[str, Any] | None:
        """The numpy params at a path of a step's state as nested dicts; None where nothing is there."""
        self.check(step)
        tree = at_path(self._manager.item_metadata(step)["state"].tree, at)
        if tree is None:
            return None
        item = placed(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree), at)
        arguments = placed(jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree), at)
        wanted = ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
        return at_path(self._read(step, state=wanted)["state"], at)


def _check_step(folder: int, step: Any) -> None:
    """Refuse a checkpoint of another step than its folder is named by.

    Raises:
      DamagedError: it is.
    """
    if int(step) != folder:
        raise DamagedError(f"it is of step {int(step)}, and its folder is named {folder}")


def first_line(error: BaseException) -> str:
    """What an exception says, on one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def newest_step(workdir: epath.PathLike) -> int:
    """The step of a run's newest committed checkpoint; 0 where there is none. Waits for no other process."""
    return max(ocp.utils.checkpoint_steps(epath.Path(workdir) / "checkpoints"), default=0)

"""`--push_every`: checkpoints of a run that trains, as branches step-N of a repository on the Hugging Face hub.

A thread of the first process looks for checkpoints that are due, and writes and uploads one at a time. Training does
not know of it, and waits for nothing. A failure is a line of the log; the checkpoint is tried again a few times. The
end of a command waits for the thread for a limited time.
"""

import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from etils import epath

from base import interruptible
from base.errors import UserError
from base.formatting import duration, one_line
from base.json_files import json_object
from pretrain.export import export
from pretrain.publish import hub_upload
from pretrain.runtime import processes
from pretrain.runtime.checkpointer import SAVED_FILE
from pretrain.runtime.workdir import write_text

logger = logging.getLogger(__name__)

PUSHED_FILE = "pushed.json"
"""{"repository": ..., "steps": [...]}: what is on the hub of a run's checkpoints."""
ATTEMPTS = 3
LOOK_SECONDS = 10.0
"""Seconds between two looks for checkpoints, and after a failure."""
FINISH_SECONDS = 600.0
"""Seconds that a run which has finished waits for what is left, at most."""
STOP_SECONDS = 5.0
"""Seconds that a command waits at its end for an upload that is at work, at most."""

Write = Callable[[str, epath.Path, str], str]
"""(step, folder, repository) -> the message of the commit: writes the model of a checkpoint to a folder."""


class UnfitError(UserError):
    """A checkpoint that another attempt could not push either."""


def check(every: int, repo_id: str, checkpoint_every: int) -> None:
    """Refuse a --push_every that cannot act, before the run.

    Raises:
      UserError: no repository, a number that checkpoints do not hit, or several processes.
    """
    if not every:
        return
    if checkpoint_every < 1:
        raise UserError(
            f"--push_every={every} counts steps, so config.checkpoint.every={checkpoint_every} should be 1 or more"
        )
    if every < 0 or every % checkpoint_every:
        raise UserError(
            f"--push_every={every} should be a multiple of config.checkpoint.every={checkpoint_every}, or 0"
        )
    if not repo_id:
        raise UserError(
            f"--push_every={every} has no effect without --push_to_hub=USER/NAME, which is not given"
        )
    if processes.count() > 1:
        raise UserError(
            f"--push_every={every} under {processes.count()} processes: reading a checkpoint would take them all; "
            "leave it out, and push from another machine (python -m pretrain.export --push_to_hub for pretraining)"
        )


def push_step(write: Write, step: str, repo_id: str, *, private: bool, revision: str = "") -> str:
    """Write the model of a checkpoint and upload it; returns the repository's address.

    Args:
      write: writes the model.
      step: the checkpoint, a number or "last".
      repo_id: USER/NAME.
      private: of a new repository only.
      revision: the branch, which is made if need be; '' is the main one.

    Raises:
      UserError: no such checkpoint, or whatever the hub refuses.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = epath.Path(place) / "model"
        message = write(step, folder, repo_id)
        return hub_upload.push(folder, repo_id, private=private, message=message, revision=revision)


def exports_of(workdir: epath.Path) -> Write:
    """Writes checkpoints of a run of pretraining.

    Args:
      workdir: the run's folder.
    """
    return lambda step, folder, repo_id: f"Step {export(workdir, folder, step=step, name=repo_id).step}"


class StepPushes:
    """The thread that pushes checkpoints while the context is open."""

    def __init__(self, workdir: epath.Path, repo_id: str, every: int, *, private: bool, write: Write):
        """Push nothing yet.

        Args:
          workdir: the run's folder.
          repo_id: USER/NAME.
          every: steps between two checkpoints that are pushed.
          private: of a new repository only.
          write: writes the model of a checkpoint.
        """
        self._workdir, self._repo_id, self._every, self._private = workdir, repo_id, every, private
        self._write = write
        self._failures: dict[int, int] = {}
        self._last, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="pushes", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look for checkpoints."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no more. An upload that is at work has `STOP_SECONDS` more, then it ends with the process."""
        self._stop.set()
        self._last.set()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            interruptible.leave_running()  # Python would wait for the threads of the client

    def finish(self) -> None:
        """Push what is left of a run that has ended, and wait for it, `FINISH_SECONDS` at most."""
        self._last.set()
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive() and (steps := ", ".join(map(str, self.due()))):
            logger.warning(
                "not on the hub after %s, and left out: steps %s; run the same command again to push them",
                *(duration(FINISH_SECONDS), steps),
            )

    def push_next(self) -> bool:
        """Push the oldest checkpoint that is due; returns whether there was one."""
        step = next(iter(self.due()), None)
        if step is None:
            return False
        branch = f"step-{step}"
        try:
            push_step(self._write, str(step), self._repo_id, private=self._private, revision=branch)
        except Exception as error:  # whatever it is, the run goes on
            tried = ATTEMPTS if isinstance(error, UnfitError) else 1
            self._failures[step] = self._failures.get(step, 0) + tried
            ends = self._failures[step] >= ATTEMPTS
            words = "it is left out" if ends else "it is tried again"
            logger.warning("step %d is not on the hub, %s: %s", step, words, one_line(str(error)))
            return True
        logger.info("step %d is on the hub: %s, branch %s", step, self._repo_id, branch)
        self._note(step)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            last, failures = self._last.is_set(), sum(self._failures.values())
            was_due = self.push_next()
            if sum(self._failures.values()) > failures:
                self._stop.wait(LOOK_SECONDS)
            elif not was_due and last:
                return
            elif not was_due:
                self._last.wait(LOOK_SECONDS)

    def due(self) -> list[int]:
        """Steps with a checkpoint that are to be pushed, oldest first."""
        try:
            newest = int(json_object(self._workdir / SAVED_FILE)["step"])
            names = [each.name for each in (self._workdir / "checkpoints").iterdir()]
        except (OSError, ValueError, LookupError, TypeError):
            return []  # nothing is committed yet
        steps = sorted(int(name) for name in names if name.isdecimal())
        done = {*self._pushed(), *(step for step, count in self._failures.items() if count >= ATTEMPTS)}
        return [step for step in steps if 0 < step <= newest and step % self._every == 0 and step not in done]

    def _pushed(self) -> list[int]:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            noted = json_object(self._workdir / PUSHED_FILE)
            if noted["repository"] == self._repo_id:
                return [int(step) for step in noted["steps"]]
        return []

    def _note(self, step: int) -> None:
        noted = {"repository": self._repo_id, "steps": [*self._pushed(), step]}
        try:
            write_text(self._workdir / PUSHED_FILE, json.dumps(noted) + "\n")
        except Exception as error:  # every file system has errors of its own
            self._failures[step] = ATTEMPTS  # so that this process does not push it again
            logger.warning("%s cannot be written: %s", PUSHED_FILE, one_line(str(error)))

"""Params of a run's checkpoints, for what reads runs."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from base.errors import UserError
from base.storage import check_damage
from pretrain.runtime.checkpointer import SAVED_FILE, Checkpointer, Run, first_line


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
            return checkpointer.params(wanted), checkpointer.run(wanted)
        except Exception as error:  # damage shows itself as errors of many kinds
            check_damage(error, f"checkpoint {wanted} in {workdir}")
            others = [step for step in checkpointer.steps if step != wanted]
            raise UserError(
                f"checkpoint {wanted} in {workdir} cannot be read ({first_line(error)}); other steps: {others}"
            ) from error
    finally:
        checkpointer.close()


def _no_checkpoint(workdir: epath.PathLike) -> UserError:
    if (epath.Path(workdir) / SAVED_FILE).exists():
        return UserError(
            f"the run in {workdir} has saved checkpoints ({SAVED_FILE}), and they are gone: put its folder "
            "checkpoints back"
        )
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

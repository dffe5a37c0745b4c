"""Params of a run's checkpoints, for what reads runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from base.errors import UserError
from base.storage import check_damage
from pretrain.runtime.checkpointer import SAVED_FILE, Checkpointer, Run, first_line

PATHS = {"raw": ("params",), "average": ("opt_state", "average"), "best": ("best",)}
"""Where the state of a checkpoint has each kind of weights; "best" are those of fine-tuning."""


def restore_params(
    workdir: epath.PathLike, step: int | str | None = None, weights: str = "raw", mean_of: int = 1
) -> tuple[dict[str, Any], Run]:
    """Params of a run, as numpy arrays, and the `run` item of their checkpoint (its step as run["step"]).

    Args:
      workdir: the run's folder.
      step: a step, "best" (lowest eval/loss; the newest without evaluations), or None or "last" for the newest.
      weights: as they were trained ("raw"), their moving average ("average"), or those of each member's best evaluation
        ("best", of fine-tuning).
      mean_of: the mean of the weights of so many checkpoints that were saved one after another, of which that of `step`
        is the last.

    Raises:
      UserError: no such checkpoint or no such weights; the message lists those there are.
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
        steps = [wanted]
        if mean_of != 1:
            every = checkpointer.run(wanted)["config"]["checkpoint"]["every"]
            steps = _last_steps(checkpointer.steps, wanted, mean_of, every, workdir)
        params = _read(checkpointer, steps[0], weights, workdir)
        for count, each in enumerate(steps[1:], start=2):
            more = _read(checkpointer, each, weights, workdir)
            params = jax.tree.map(lambda mean, new, count=count: mean + (new - mean) / count, params, more)
        return params, checkpointer.run(wanted)
    finally:
        checkpointer.close()


def _last_steps(
    kept: Sequence[int], wanted: int, count: int, every: int, workdir: epath.PathLike
) -> list[int]:
    """The last `count` steps up to `wanted`, none of whose checkpoints between them has been deleted.

    The best checkpoint is kept when those around it are deleted. Then it is more than `every` steps before the next.

    Args:
      kept: the steps that have a checkpoint, ascending.
      wanted: the last of them.
      count: their number.
      every: config.checkpoint.every of the run.
      workdir: the run's folder, for messages.

    Raises:
      UserError: there are fewer, or the count is less than 1.
    """
    before = [wanted]
    for step in reversed([step for step in kept if step < wanted]):
        if before[0] - step > every:
            break
        before.insert(0, step)
    if not 1 <= count <= len(before):
        raise UserError(
            f"--mean_of={count} should be from 1 to {len(before)}, the number of checkpoints in {workdir} that were "
            f"saved one after another up to step {wanted} ({before}); config.checkpoint.keep keeps more in a run"
        )
    return before[-count:]


def _read(checkpointer: Checkpointer, step: int, weights: str, workdir: epath.PathLike) -> dict[str, Any]:
    try:
        params = checkpointer.params(step, PATHS[weights])
    except Exception as error:  # damage shows itself as errors of many kinds
        check_damage(error, f"checkpoint {step} in {workdir}")
        others = [each for each in checkpointer.steps if each != step]
        raise UserError(
            f"checkpoint {step} in {workdir} cannot be read ({first_line(error)}); other steps: {others}"
        ) from error
    if params is None:
        raise UserError(
            f"the run in {workdir} has no average of its weights (config.average.decay was 0); take the raw weights"
        )
    return params


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

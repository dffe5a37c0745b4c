"""A branch of a run: one of its checkpoints in a workdir of its own, from which another run goes on.

So one run at a constant learning rate has several decays (Hägele et al. 2024, "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations"), or goes on with other phases, and can itself be continued.
"""

import json
import os
import shutil
from pathlib import Path

from etils import epath

from base.errors import UserError
from base.storage import is_remote
from pretrain.models import huggingface
from pretrain.reports.metric_writer import FILE_NAME, read_metrics
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.checkpointer import Checkpointer, DamagedError, Run, first_line
from pretrain.trained_network import network_at

COPIED = ("tokenizer", "config.json", "heldout_*.npz", "token_counts_*.npz")
"""Files and folders that a branch has of the run, beside the checkpoint and what is written for its step."""


def branch(workdir: epath.Path, out: epath.Path, step: int | None = None) -> int:
    """Copy a checkpoint, with all that a run needs to go on from it, into a new workdir.

    Args:
      workdir: the run's folder. It is not changed, and may be training.
      out: the folder to make.
      step: the checkpoint's step; None takes the newest.

    Returns:
      The step.

    Raises:
      UserError: no such checkpoint, a damaged one, or `out` holds something already.
    """
    for place, name in ((workdir, "WORKDIR"), (out, "--out")):
        if is_remote(place):
            raise UserError(
                f"{name}={place} is in a bucket, where branch copies nothing: copy the folders checkpoints/N and "
                "tokenizer, and the files model.json, config.json and saved.json, with gcloud storage cp -r"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is there already; name a new folder")
    checkpointer = Checkpointer(workdir, create=False)
    try:
        steps = checkpointer.steps
        chosen = max(steps) if step is None else step
        if chosen not in steps:
            raise UserError(f"there is no checkpoint of step {step} in {workdir}; there are {steps}")
        run = _whole(checkpointer, chosen)
    finally:
        checkpointer.close()
    if "task" in run["config"]:
        raise UserError(
            f"{workdir} holds a run of fine-tuning, which has no branches; name one of pretraining"
        )
    unfinished = out.parent / f".{out.name}.unfinished-{os.getpid()}"
    try:
        _copy(workdir, unfinished, run)
        _check_copy(unfinished, workdir, chosen)
        if out.exists():
            Path(out).rmdir()
        unfinished.rename(out)
    except OSError as error:
        if not (workdir / "checkpoints" / str(chosen)).exists():
            raise _deleted(workdir, chosen) from error
        raise UserError(f"--out={out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return chosen


def _whole(checkpointer: Checkpointer, step: int) -> Run:
    """The `run` item of a checkpoint whose files are as they were written."""
    try:
        checkpointer.check(step)
        return checkpointer.run(step)
    except Exception as error:  # damage shows itself as errors of many kinds
        raise UserError(f"checkpoint {step} cannot be copied: it is damaged ({first_line(error)})") from error


def _check_copy(copy: epath.Path, workdir: epath.Path, step: int) -> None:
    """Refuse a copy of which files are missing, since the run deleted its checkpoint meanwhile."""
    checkpointer = Checkpointer(copy, create=False)
    try:
        checkpointer.check(step)
    except DamagedError as error:
        raise _deleted(workdir, step) from error
    finally:
        checkpointer.close()


def _deleted(workdir: epath.Path, step: int) -> UserError:
    return UserError(
        f"checkpoint {step} in {workdir} was deleted by its run while it was copied; branch a newer one (config."
        "checkpoint.keep keeps more)"
    )


def _copy(workdir: epath.Path, out: epath.Path, run: Run) -> None:
    """Fill the folder `out`."""
    step = run["step"]
    shutil.copytree(workdir / "checkpoints" / str(step), out / "checkpoints" / str(step))
    for pattern in COPIED:
        for source in workdir.glob(pattern):
            if source.is_dir():
                shutil.copytree(source, out / source.name)
            else:
                shutil.copy2(source, out / source.name)
    network = json.dumps(huggingface.config_dict(network_at(workdir, run)), indent=2) + "\n"
    (out / workdirs.MODEL_FILE).write_text(network)
    lines = [line for line in read_metrics(workdir / FILE_NAME) if line["step"] <= step]
    (out / FILE_NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    workdirs.write_saved(out, step)

"""The network of a run from one of its checkpoints, for exports, predictions and later runs."""

from dataclasses import dataclass

from etils import epath

from base.errors import UserError
from pretrain.models import EncoderConfig, Params
from pretrain.models.huggingface import parse_config, read_config
from pretrain.models.vocabulary import with_rows
from pretrain.optim.finite import first_bad
from pretrain.runtime.checkpointer import Checkpointer, Run
from pretrain.runtime.saved_params import restore_params
from pretrain.runtime.workdir import MODEL_FILE, has_network


@dataclass(frozen=True)
class TrainedNetwork:
    """A network and its params."""

    encoder: EncoderConfig
    params: Params
    """Numpy arrays. The vocabulary has a row for each token, and no padding rows."""
    run: Run
    """The checkpoint's `run` item."""


def trained_network(
    workdir: epath.Path, step: int | str | None = None, weights: str = "raw", mean_of: int = 1
) -> TrainedNetwork:
    """The network of a run at one of its checkpoints.

    Args:
      workdir: the run's folder.
      step: a step, "best" (lowest eval/loss), or None or "last" for the newest checkpoint.
      weights: "raw" or "average", the moving average.
      mean_of: the mean over so many checkpoints, saved one after another, of which that of `step` is the last.

    Raises:
      UserError: no such checkpoint or weights, a damaged file, or weights that are not finite.
    """
    params, run = restore_params(workdir, step, weights, mean_of)
    if place := first_bad(params):
        raise UserError(
            f"step {run['step']} of the run in {workdir} has weights that are not finite ({place}); take an earlier "
            "--step"
        )
    encoder = network_at(workdir, run)
    return TrainedNetwork(encoder, with_rows(encoder, params, encoder.vocab_size), run)


def network_at(workdir: epath.Path, run: Run) -> EncoderConfig:
    """The network of a run at the checkpoint whose `run` item is given; model.json is that of the newest one.

    Raises:
      UserError: model.json is missing or damaged.
    """
    encoder = network_of(workdir)
    bases = run.get("rotary")
    return encoder.with_own(**bases) if bases else encoder


def newest_network(workdir: epath.Path) -> EncoderConfig:
    """The network of a run at its newest checkpoint; without a checkpoint, that of its start.

    Raises:
      UserError: model.json is missing or damaged.
    """
    if not (workdir / "checkpoints").exists():
        return network_of(workdir)
    checkpointer = Checkpointer(workdir, create=False)
    try:
        run = checkpointer.read_run() or {}
    finally:
        checkpointer.close()
    if "task" in run.get("config", {}):
        raise UserError(
            f"{workdir} is a run of fine-tuning; name its folder model/, or the workdir of a run of pretraining"
        )
    return network_at(workdir, run)


def check_weights(weights: str, init_from: str) -> None:
    """Refuse the average of a model that has none.

    Args:
      weights: config.init_weights.
      init_from: a model that is no workdir.

    Raises:
      UserError: its average is asked for.
    """
    if weights != "raw":
        raise UserError(
            f"config.init_weights={weights!r} is for a workdir of pretraining, and config.init_from={init_from!r} is "
            "none; set init_weights=raw"
        )


def network_of(workdir: epath.Path) -> EncoderConfig:
    """The network that a run's MODEL_FILE describes: that of the checkpoint which was written last, or was to be.

    Raises:
      UserError: it is missing or damaged.
    """
    file = workdir / MODEL_FILE
    if not has_network(workdir):
        raise UserError(
            f"{file} is missing or damaged; run the command of that run again, which makes it again from its config"
        )
    return parse_config(read_config(str(file)), str(file))

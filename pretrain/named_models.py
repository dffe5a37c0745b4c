"""Models by the names that a command line gives them: runs, exports, and models of the hub."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath

from base.errors import UserError
from base.storage import check_readable
from pretrain.models import Model, Params, build, huggingface
from pretrain.objective.names import TRAITS
from pretrain.phases import objective_at, saved_phases
from pretrain.runtime.checkpointer import Run
from pretrain.runtime.workdir import MODEL_FILE, is_workdir
from pretrain.trained_network import trained_network
from tokenizer.load import Loaded, load
from tokenizer.run_tokenizer import tokenizer_folder


@dataclass(frozen=True, eq=False)
class NamedModel:
    """A model that is ready to score text."""

    name: str
    """What the command line calls it, with the step of a run."""
    model: Model
    params: Params
    """Numpy arrays."""
    tokenizer: Loaded
    objective: str = "mlm"
    """What it has learned last, by its name in `config.objective`."""
    workdir: epath.Path | None = None
    """The folder of the run that it is a checkpoint of; None if it is no run's."""
    run: Run | None = None
    """The checkpoint's `run` item."""

    def check_fills_blanks(self) -> None:
        """Refuse a model that predicts the next token.

        Raises:
          UserError: it does.
        """
        if not TRAITS[self.objective].hides_tokens:
            raise UserError(
                f"{self.name} has learned to predict the next token (config.objective.name={self.objective}), and does "
                "not fill blanks; take a --step of a phase that learns mlm"
            )


def open_models(
    names: Sequence[str], *, steps: Sequence[str] = ("last",), weights: str = "raw"
) -> list[NamedModel]:
    """Open the models of a command line, in its order.

    Args:
      names: each the workdir of a pretraining run, a folder in transformers' format, or a hub id.
      steps: for each run, the checkpoints: numbers, "last" or "best".
      weights: those of a run: "raw", or "average", their moving average.

    Raises:
      UserError: there is no such model, or `steps` or `weights` are set without a run.
    """
    places = {name: epath.Path(name).expanduser() for name in names}
    for place in places.values():
        check_readable(place, "MODEL")
    runs = [name for name, place in places.items() if is_workdir(place)]
    if not runs and (tuple(steps) != ("last",) or weights != "raw"):
        flag = f"--weights={weights}" if weights != "raw" else f"--step={','.join(steps)}"
        raise UserError(f"{flag} is for the workdir of a run, and {', '.join(names)} is none; leave it out")
    models: list[NamedModel] = []
    for name, place in places.items():
        if name in runs:
            models += [_of_run(name, place, step, weights) for step in steps]
        else:
            encoder, params = huggingface.load_pretrained(name)
            models.append(NamedModel(name, build(encoder), params, load(name)))
    return models


def _of_run(name: str, workdir: epath.Path, step: str, weights: str) -> NamedModel:
    if not (workdir / MODEL_FILE).exists():
        raise UserError(
            f"{name} has checkpoints, but no {MODEL_FILE}: it is no pretraining run; of a fine-tuning run, "
            "python -m finetune.evaluate scores the classifier"
        )
    network = trained_network(workdir, step, weights)
    number, saved = network.run["step"], network.run["config"]
    return NamedModel(
        name=f"{os.fspath(name)} step {number}" + (", average" if weights == "average" else ""),
        model=build(network.encoder),
        params=network.params,
        tokenizer=load(str(tokenizer_folder(workdir))),
        objective=objective_at(saved_phases(saved, number), number),
        workdir=workdir,
        run=network.run,
    )

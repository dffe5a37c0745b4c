"""What a run remembers besides its arrays, and what must be as it was when it goes on."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from data.errors import UserError
from pretrain import huggingface, processes
from pretrain.job import Job
from pretrain.recorder import Sums
from pretrain.workdir import MODEL_FILE

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """What a run remembers besides its arrays; goes into every checkpoint."""

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Positions of the streams of each data config that the phases read (see phases.data_key)."""
    best: dict[str, float] | None = None
    """The best evaluation so far: {"step": ..., "eval/loss": ...}."""
    sums: Sums = field(default_factory=Sums)
    """Of the steps since the last log."""


def check_network(job: Job, workdir: epath.Path) -> None:
    """Refuse to go on with a network of another shape than the run began with, whatever was accepted."""
    was = json.loads((workdir / MODEL_FILE).read_text())
    now = huggingface.config_dict(job.encoder)
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name) and not name.endswith("dropout_prob"):
            raise UserError(
                f"the network of a run cannot change: config.model.{name} was {was.get(name)!r}, is {now.get(name)!r}; "
                "put it back, or start in another --workdir with --config.init_from"
            )


def check_fingerprints(job: Job, saved: dict[str, str], *, accept: bool) -> None:
    """Refuse to go on with another tokenizer or corpus than the run began with."""
    for name, was in saved.items():
        now = job.fingerprints.get(name)
        if now is None or now == was:
            continue
        what = "tokenizer" if name == "tokenizer" else "corpus"
        message = (
            f"the {what} is not the one this run was made with (fingerprint {was[:12]} then, {now[:12]} now)"
        )
        if not accept:
            raise UserError(f"{message}; put it back, or pass --accept_changes to go on with what is there")
        logger.warning("%s", message)


def of_all_processes(states: dict[str, Any]) -> dict[str, Any]:
    """The stream states of every process, by stream, on the first, which writes them; `states` are this one's."""
    merged: dict[str, Any] = {}
    for each in processes.gather(states):
        merged |= each
    return merged

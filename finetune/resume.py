"""What may change when a fine-tuning run goes on."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from finetune.config import FinetuneConfig, length_of
from finetune.job import Job
from finetune.unused_fields import unused_fields
from pretrain.runtime import changes as of_any_stage
from pretrain.runtime.changes import SAFE_IN_FINETUNING, Changes, Rules

logger = logging.getLogger(__name__)

FIXED = {
    "init_from": "the model that a run starts from",
    "init_weights": "the model that a run starts from",
    "task": "the task of a run",
    "kind": "the task of a run",
    "data.pieces": "the task of a run",
    "embedding.pooling": "the task of a run",
    **dict.fromkeys(
        ("questions.max_answer_length", "questions.no_answer_threshold"),
        "the answers that choose the best model",
    ),
    "data.score": "the examples that choose the best model",
    "data.regression": "the task of a run",
    "data.label_names": "the task of a run",
    "eval.metric": "the metric that chooses the best model",
    "data.validation": "the examples that choose the best model",
    "data.validation_share": "the examples that choose the best model",
    "data.max_eval_examples": "the examples that choose the best model",
    "seeds": "the number of runs that are trained together",
    "learning_rates": "the number of runs that are trained together",
}
"""The part of a run that each field fixes for the whole run."""


def rules(room: int | None = None, safe: Sequence[str] = SAFE_IN_FINETUNING) -> Rules[FinetuneConfig]:
    """How the config of a run that goes on is compared with the saved one.

    Args:
      room: most tokens that the model takes; None if the model has not been read. Then a length that is left to the
        model is not compared with a length that is set.
      safe: beginnings of the fields that may differ.
    """

    def means_the_same(
        name: str, old: Any, new: Any, saved: Mapping[str, Any], config: FinetuneConfig
    ) -> bool:
        if name == "max_length" and 0 in (old, new):
            return room is None or length_of(old, room, config.kind) == length_of(new, room, config.kind)
        if of_any_stage.same_examples(old, new):
            return True
        idle = (*unused_fields(schema.restored(FinetuneConfig, saved)), *unused_fields(config))
        return any(each.covers(name) for each in idle)

    return Rules(FinetuneConfig, safe, means_the_same, _refusal)


def _refusal(name: str, old: Any, new: Any) -> str:
    """Why a field cannot change, whatever is accepted; empty where it can."""
    if name not in FIXED or (name == "learning_rates" and max(len(old), 1) == max(len(new), 1)):
        return ""
    return (
        f"this run was made with another config: config.{name} was {old!r}, is {new!r}. {FIXED[name].capitalize()} "
        "cannot change: undo the change, or set another --workdir"
    )


def changes(
    saved: Mapping[str, Any],
    config: FinetuneConfig,
    safe: Sequence[str] = SAFE_IN_FINETUNING,
    *,
    room: int | None = None,
) -> Changes:
    """Fields that bear on a run and differ from the config that `saved` has; see `rules`."""
    return of_any_stage.changes(rules(room, safe), saved, config)


def check_unchanged(
    saved: Mapping[str, Any],
    config: FinetuneConfig,
    safe: Sequence[str] = SAFE_IN_FINETUNING,
    *,
    room: int | None = None,
) -> None:
    """Refuse to go on with another config than the one that `saved` has; see `rules`.

    Raises:
      UserError: there are differences; the message names them.
    """
    of_any_stage.check_unchanged(rules(room, safe), saved, config, accept=False, acceptable=False)


def check_same_input(
    fingerprints: Mapping[str, str], job: Job, workdir: epath.Path, *, accept: bool = False
) -> None:
    """Refuse to go on with other examples or another tokenizer, unless that is accepted.

    Raises:
      UserError: their fingerprints are not the job's.
    """
    if fingerprints == job.fingerprints:
        return
    flaw = (
        f"the examples or the tokenizer of config.init_from have changed since the run in {workdir} began; "
        "put them back, or set another --workdir"
    )
    if not accept:
        raise UserError(flaw)
    logger.warning("the examples or the tokenizer have changed; the run goes on with what is there")

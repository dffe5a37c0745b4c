"""What may change when a run goes on: the fields that are safe in each stage, and the check of all others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from base import schema
from base.errors import UserError

C = TypeVar("C")

# Prefixes of the fields that may change. They change no training step.
ALWAYS_SAFE = (
    "log.",
    "checkpoint.",
    "card.",
    "compilation_cache",
    "distributed",
    "mesh.",
    "on_nonfinite",
    "max_skipped",
    "time_limit",
)
SAFE_IN_PRETRAINING = (*ALWAYS_SAFE, "eval.", "spike.", "data.prefetch", "data.bad_documents")
SAFE_IN_FINETUNING = (*ALWAYS_SAFE, "inference", "eval.batch", "eval.tests", "search.", "benchmark.")

Changes = dict[str, tuple[Any, Any]]
"""Fields that differ: {'a.b': (saved, now)}."""


@dataclass(frozen=True)
class Rules(Generic[C]):
    """How a stage compares the config of a run that goes on with the config that the run was saved with."""

    config: type[C]
    safe: Sequence[str]
    """Beginnings of the fields that may change."""
    means_the_same: Callable[[str, Any, Any, Mapping[str, Any], C], bool]
    """Whether a field (name, saved value, value now, saved config, config now) differs without effect."""
    refusal: Callable[[str, Any, Any], str]
    """Why a field (name, saved value, value now) cannot change, whatever is accepted; empty where it can."""


def changes(rules: Rules[C], saved: Mapping[str, Any], config: C) -> Changes:
    """The fields that bear on the steps to come and differ from those of `saved`, a config as nested dicts."""
    before = schema.completed(saved, rules.config)
    return {
        name: pair
        for name, pair in schema.differences(before, schema.as_dict(config)).items()
        if not name.startswith(tuple(rules.safe)) and not rules.means_the_same(name, *pair, before, config)
    }


def check_unchanged(
    rules: Rules[C], saved: Mapping[str, Any], config: C, *, accept: bool, acceptable: bool = True
) -> Changes:
    """Compare the config of a run that goes on with the one that it was saved with.

    Args:
      rules: the stage's.
      saved: the config in the checkpoint.
      config: the config of the command line.
      accept: True accepts every difference that `rules.refusal` does not refuse.
      acceptable: whether the command has a flag --accept_changes, which the message names.

    Returns:
      The differences that bear on the steps to come.

    Raises:
      UserError: there are such differences, and `accept` is False; or one that no flag lets pass.
    """
    changed = changes(rules, saved, config)
    for name, (old, new) in changed.items():
        if why := rules.refusal(name, old, new):
            raise UserError(why)
    if changed and not accept:
        listed = "; ".join(f"config.{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items())
        ways = "set another --workdir, or pass --accept_changes to go on with the new values"
        raise UserError(
            f"this run was made with another config: {listed}. "
            f"Undo the change, {ways if acceptable else 'or set another --workdir'}"
        )
    return changed

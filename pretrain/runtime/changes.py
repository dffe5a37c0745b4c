"""What may change when a run goes on: the fields that are safe in each stage, and the check of all others."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from etils import epath

from base import schema
from base.errors import UserError
from base.set_fields import default_of

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
SAFE_IN_FINETUNING = (
    *ALWAYS_SAFE,
    "inference",
    "run_members",
    "eval.batch",
    "eval.tests",
    "search.",
    "benchmark.",
)

Changes = dict[str, tuple[Any, Any]]
"""Fields that differ: {'a.b': (saved, now)}."""
EXAMPLES = re.compile(r"(?:(?:\\,|[^,])*/)?examples/((?:train|validation|test)-[0-9a-f]{12}\.parquet)")
"""The file of a workdir that a program keeps its examples in (`unmask.examples`); its name has a digest of them."""
GROUP_ENDS = re.compile(r"(?<=\])(?=\.)|(?<=\]\.data)(?=\.)|(?<=eval_source)(?=\.)")
"""Where the path of a group ends that a config may lack: a phase, its data, a member of a mix, eval_source."""
ALWAYS_SET = ("steps", "source")
"""Fields that such a group always sets; if they were not set before, it is new."""


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


def same_examples(old: Any, new: Any) -> bool:
    """Whether two values of a field name the same examples of a program, whatever the path of the workdir."""
    names = [EXAMPLES.fullmatch(value) for value in (old, new) if isinstance(value, str)]
    return len(names) == 2 and all(names) and len({name and name[1] for name in names}) == 1


def told(changed: Changes, config: type) -> dict[str, tuple[str, str]]:
    """The old and the new value of what has changed, as messages show them, by path.

    A group that has come, such as a phase, is one entry. It has the fields whose values are not their defaults. So has
    a group that has gone.

    Args:
      changed: the fields that differ, as `changes` gives them.
      config: the config's type.
    """
    shown: dict[str, tuple[str, str]] = {}
    for name, pair in changed.items():
        groups = [name[: found.start()] for found in GROUP_ENDS.finditer(name)]
        group = next((each for each in groups if None in _sides(changed, each, config)), None)
        if group is not None:
            before, now = _sides(changed, group, config)
            shown[group] = before or "nothing", now or "nothing"
        elif not any(other.startswith(f"{name}[") for other in changed):  # a list is told by its members
            shown[name] = repr(pair[0]), repr(pair[1])
    return shown


def _sides(changed: Changes, group: str, config: type) -> tuple[str | None, str | None]:
    """What has changed in a group, before and now; None for the side where there is no such group."""
    members = {name: pair for name, pair in changed.items() if name.startswith(f"{group}.")}
    always = next((pair for name, pair in members.items() if name[len(group) + 1 :] in ALWAYS_SET), (0, 0))

    def side(index: int) -> str | None:
        if always[index] is None:
            return None
        values = {name: pair[index] for name, pair in members.items()}
        return ", ".join(
            f"{name[len(group) + 1 :]}={value!r}"
            for name, value in values.items()
            if value is not None and value != default_of(config, name)
        )

    return side(0), side(1)


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
        listed = "; ".join(
            f"config.{name} was {old}, is {new}" for name, (old, new) in told(changed, rules.config).items()
        )
        ways = "set another --workdir, or pass --accept_changes to go on with the new values"
        raise UserError(
            f"this run was made with another config: {listed}. "
            f"Undo the change, {ways if acceptable else 'or set another --workdir'}"
        )
    return changed


def check_stage(workdir: epath.Path, saved: Mapping[str, Any], config: type) -> None:
    """Refuse the workdir of the other stage.

    Args:
      workdir: the run's folder.
      saved: the config of its newest checkpoint.
      config: the config dataclass of the stage at hand.

    Raises:
      UserError: it is.
    """
    names = {field.name for field in dataclasses.fields(config)}
    if ("task" in saved) != ("task" in names):
        stage = "fine-tuning" if "task" in saved else "pretraining"
        raise UserError(f"--workdir={workdir} holds a run of {stage}; set another --workdir")

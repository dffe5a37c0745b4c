"""What stands in a label's place, made a class or a score, or refused with the place where it stands."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.errors import UserError

MOST_SHOWN = 10

ReadLabel = Callable[[Any, str], Any]
"""(what stands there, its place) -> label."""


def read_score(setting: str) -> ReadLabel:
    """Reads labels that are scores; `setting` is what the user might change ('' for nothing).

    The reader raises a UserError where there is no finite number.
    """

    def read(raw: Any, place: str) -> float:
        try:
            value = (
                float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
            )
        except (ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{place}: label {_shown(raw)} should be a number, for a score{_or(setting)}")
        return value

    return read


def read_name(setting: str) -> ReadLabel:
    """Reads labels that are names of classes not known before; numbers and booleans are named as JSON writes them.

    The reader raises a UserError where there is nothing, or a list or object.
    """

    def read(raw: Any, place: str) -> str:
        name = raw.strip() if isinstance(raw, str) else raw
        if name is None or name == "" or isinstance(name, list | dict):
            raise UserError(f"{place}: label {_shown(raw)} should be the name of a class{_or(setting)}")
        return name if isinstance(name, str) else json.dumps(name)

    return read


def read_class(names: Sequence[str], setting: str) -> ReadLabel:
    """Reads labels that are one of `names`, or its id where no name is a number itself, as ids.

    The reader raises a UserError for any other.
    """
    known = {name: index for index, name in enumerate(names)}
    if not any(_is_integer(name) for name in names):
        known |= {str(index): index for index in range(len(names))}
    name_of = read_name(setting)

    def read(raw: Any, place: str) -> int:
        name = name_of(raw, place)
        if name not in known:
            raise UserError(
                f"{place}: label {_shown(raw)} is not one of the classes {_listed(names)}{_or(setting)}"
            )
        return known[name]

    return read


def as_array(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Labels that were read: int32 ids where there are names of classes, else float32 scores."""
    return np.array(labels, np.int32 if names else np.float32)


def sorted_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The different names among labels, by value where all are whole numbers, else by spelling."""
    names = set(labels)
    if all(_is_integer(name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def are_scores(names: Sequence[str]) -> bool:
    """Whether what should be classes are numbers, and not all whole."""
    try:
        values = [float(name) for name in names]
    except ValueError:
        return False
    return any(not value.is_integer() for value in values)


def require_two_classes(labels: np.ndarray, names: Sequence[str], origin: str, hint: str) -> None:
    """Refuse a training set in which all labels are the same class.

    Raises:
      UserError: they are.
    """
    if names and len(np.unique(labels)) < 2:
        raise UserError(
            f"{origin}: all {len(labels)} labels are {names[int(labels[0])]!r}; a classifier needs examples of "
            f"two classes at least{hint}"
        )


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} of them)" if len(names) > MOST_SHOWN else ""
    return ", ".join(map(repr, names[:MOST_SHOWN])) + more


def _shown(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _or(setting: str) -> str:
    return f"; mend it, or set {setting}" if setting else ""

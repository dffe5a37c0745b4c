"""Reads the labels of files as classes or scores, and refuses those that are neither, with their place."""

import json
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from data.labelled.classes import Classes, groups, key, look, marks_nothing, may_be_marks, number

logger = logging.getLogger(__name__)

MOST_SHOWN = 10
DIFFERENCE = "case, Unicode form, white space or leading zeros only"
UNLABELLED = -1
"""Stands for a class where an example has none; for a score NaN does."""

ReadLabel = Callable[[Any, str], Any]
"""(what stands there, its place) -> label; None where what stands there says that there is none."""


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
        if isinstance(name, str) and name:
            return name
        if isinstance(name, bool | int) or (isinstance(name, float) and math.isfinite(name)):
            return json.dumps(name)
        raise UserError(f"{place}: label {_shown(raw)} should be the name of a class{_or(setting)}")

    return read


def read_class(classes: Classes, setting: str) -> ReadLabel:
    """Reads labels that name one of the classes, as their ids; None for a mark of no label that is none of them.

    A label that only looks as one class does (another case, Unicode form, white space, leading zeros) is taken for it,
    with a warning for the first.

    The reader raises a UserError for any other.
    """
    name_of = read_name(setting)
    warned = False

    def read(raw: Any, place: str) -> int | None:
        nonlocal warned
        name = name_of(raw, place)
        index = classes.find(name)
        if index is not None or marks_nothing(name):
            return index
        index = classes.find_alike(name)
        if index is None:
            raise UserError(
                f"{place}: label {_shown(raw)} is not one of the classes {_listed(classes.names)}{_or(setting)}"
            )
        if not warned:
            logger.warning(
                "%s: label %s is taken for the class %s, from which it differs by %s; so are others like it",
                *(place, ascii(name), ascii(classes.names[index]), DIFFERENCE),
            )
            warned = True
        return index

    return read


def read_if_known(read: ReadLabel, unknown: list[str]) -> ReadLabel:
    """Reads labels that a run does not depend on: None where there is none, and where `read` refuses it.

    What it says of those that it refuses is put into `unknown`.
    """

    def read_or_none(raw: Any, place: str) -> Any:
        if raw is None or (isinstance(raw, str) and not raw.strip()):
            return None
        try:
            return read(raw, place)
        except UserError as error:
            unknown.append(str(error))
            return None

    return read_or_none


def as_array(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Labels that were read: int32 ids where there are names of classes, else float32 scores."""
    absent, dtype = (UNLABELLED, np.int32) if names else (math.nan, np.float32)
    return np.array([absent if label is None else label for label in labels], dtype)


def warn_of_unlabelled(count: int, of: int, origin: str, hint: str = "") -> None:
    """Say that so many of a set's examples are passed over; nothing where none is."""
    if count:
        logger.warning(
            "%s: %d of %d examples are marked as without a label (-1 or '-') and passed over%s",
            *(origin, count, of, hint),
        )


def tell_of_classes(labels: Collection[str], names: Sequence[str], origin: str) -> None:
    """Say where labels of several spellings are one class, and warn of classes that may not be meant as such."""
    if equal := groups(labels, key):
        logger.info(
            "%s: labels that are equal numbers or booleans are one class: %s", origin, _shown_groups(equal)
        )
    if alike := groups(names, look):
        logger.warning("%s: classes that differ by %s: %s", origin, DIFFERENCE, _shown_groups(alike))
    if may_be_marks(names):
        logger.warning(
            "%s: -1 is a class; where it marks examples without a label, set config.data.label_names to the others",
            origin,
        )


def _shown_groups(found: Sequence[Sequence[str]]) -> str:
    return "; ".join(" and ".join(map(ascii, each)) for each in found[:MOST_SHOWN])


def are_scores(names: Sequence[str]) -> bool:
    """Whether what should be classes are numbers, and not all whole."""
    values = [number(name) for name in names]
    return all(value is not None for value in values) and any(
        value != int(value) for value in values if value
    )


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


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} of them)" if len(names) > MOST_SHOWN else ""
    return ", ".join(map(repr, names[:MOST_SHOWN])) + more


def _shown(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _or(setting: str) -> str:
    return f"; mend it, or set {setting}" if setting else ""

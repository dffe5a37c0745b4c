"""Reads labels of files as classes or scores; the error for a wrong label names its place."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from data.labelled.classes import Classes, groups, key, look, marks_nothing, may_be_marks, number

logger = logging.getLogger(__name__)

MOST_SHOWN = 10
DIFFERENCE = "case, Unicode form, white space or leading zeros only"
UNLABELLED = -1
"""The class id of an example without a label; a missing score is NaN."""

ReadLabel = Callable[[Any, str], Any]
"""Function (value in the file, its place) -> label; None if the value marks an example without a label."""


def read_score(setting: str, what: str = "label") -> ReadLabel:
    """Make a reader of scores. It raises UserError for a value that is no finite number.

    Args:
      setting: the setting that the user might change, for messages; '' for none.
      what: what the value is called in messages.
    """

    def read(raw: Any, place: str) -> float:
        try:
            value = (
                float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
            )
        except (ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            purpose = ", for a score" if what == "label" else ""
            raise UserError(f"{place}: {what} {_shown(raw)} should be a number{purpose}{_or(setting)}")
        return value

    return read


def read_name(setting: str) -> ReadLabel:
    """Make a reader of class names that are not known beforehand. Numbers and booleans become their JSON text.

    It raises UserError for an empty value, a list or an object.

    Args:
      setting: the setting that the user might change, for messages; '' for none.
    """

    def read(raw: Any, place: str) -> str:
        name = raw.strip() if isinstance(raw, str) else raw
        if isinstance(name, str) and name:
            return name
        if isinstance(name, list):
            raise UserError(
                f"{place}: label {_shown(raw)} is a list where one label is due; give each example one label, or each "
                "a list"
            )
        if isinstance(name, bool | int) or (isinstance(name, float) and math.isfinite(name)):
            return json.dumps(name)
        raise UserError(f"{place}: label {_shown(raw)} should be the name of a class{_or(setting)}")

    return read


def read_class(classes: Classes, setting: str) -> ReadLabel:
    """Make a reader of labels that name a known class. It returns the class's id, or None for a mark of no label.

    A label may look like one class but differ by case, Unicode form, white space or leading zeros. It is then read as
    that class, and the first such label causes a warning. Any other label raises UserError.

    Args:
      classes: the known classes.
      setting: the setting that the user might change, for messages; '' for none.
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
                "%s: label %s is read as the class %s; they differ by %s. Similar labels are read in the same way",
                *(place, ascii(name), ascii(classes.names[index]), DIFFERENCE),
            )
            warned = True
        return index

    return read


def read_list(read: ReadLabel) -> ReadLabel:
    """Make a reader of lists of labels, for examples that have any number of them: a list of what `read` returns.

    A list of nothing but marks of no label is None; marks beside labels are left out. It raises UserError for a value
    that is no list, and for a list with one label twice.
    """

    def read_each(raw: Any, place: str) -> list[Any] | None:
        if not isinstance(raw, list):
            raise UserError(
                f"{place}: label {_shown(raw)} should be a list of labels, like that of the first example; correct it"
            )
        labels = [read(each, place) for each in raw]
        refuse_twice(raw, list(map(_certain, labels)), place)
        known = [label for label in labels if label is not None]
        return known if known or not raw else None

    return read_each


def _certain(label: Any) -> Any:
    """What is equal for labels of one class; None for what is, or may turn out to be, a mark of no label."""
    return (None if marks_nothing(label) else key(label)) if isinstance(label, str) else label


def refuse_twice(labels: Sequence[Any], same: Sequence[Any], place: str) -> None:
    """Refuse an example's list of labels if one of them is there twice, as 0 is in a list of zeros and ones.

    Args:
      labels: the labels, for the message.
      same: for each label a value that is equal for labels of one class; None for a label that does not count.
      place: where the list is.

    Raises:
      UserError: a label is there twice.
    """
    counts = Counter(each for each in same if each is not None)
    if twice := [label for label, each in zip(labels, same, strict=True) if counts[each] > 1]:
        raise UserError(
            f"{place}: label {_shown(list(labels))} has {_shown(twice[0])} twice; a list should name the classes of "
            "the example"
        )


def read_if_known(read: ReadLabel, unknown: list[str]) -> ReadLabel:
    """Make a reader of labels that a run does not depend on: None for an empty value, and if `read` raises.

    Args:
      read: the reader of labels.
      unknown: list that collects the messages of the errors that `read` raises.
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
    """Labels as an array: int32 ids if there are names of classes, else float32 scores."""
    absent, dtype = (UNLABELLED, np.int32) if names else (math.nan, np.float32)
    return np.array([absent if label is None else label for label in labels], dtype)


def as_sets(labels: Sequence[Sequence[int] | None], names: Sequence[str]) -> np.ndarray:
    """Lists of class ids as an array float32 [n, C]: 1 for a class that an example has, NaN where that is not known."""
    sets = np.zeros((len(labels), len(names)), np.float32)
    for row, label in enumerate(labels):
        sets[row, [] if label is None else list(label)] = 1.0
        if label is None:
            sets[row] = math.nan
    return sets


def warn_of_unlabelled(count: int, of: int, origin: str, hint: str = "") -> None:
    """Warn that `count` of a set's `of` examples are skipped; silent if `count` is 0."""
    if count:
        logger.warning(
            "%s: skipped %d of %d examples: the label (-1 or '-') marks an example without a label%s",
            *(origin, count, of, hint),
        )


def tell_of_classes(labels: Collection[str], names: Sequence[str], origin: str) -> None:
    """Log labels whose spellings are one class, and warn of classes that may be a mistake."""
    if equal := groups(labels, key):
        logger.info(
            "%s: labels that are equal numbers or booleans are one class: %s", origin, _shown_groups(equal)
        )
    if alike := groups(names, look):
        logger.warning("%s: classes that differ by %s: %s", origin, DIFFERENCE, _shown_groups(alike))
    if may_be_marks(names):
        logger.warning(
            "%s: -1 is a class; if it marks examples without a label, set config.data.label_names to the others",
            origin,
        )


def _shown_groups(label_groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(" and ".join(map(ascii, each)) for each in label_groups[:MOST_SHOWN])


def are_scores(names: Sequence[str]) -> bool:
    """Whether all class names are numbers, and some of them are not whole."""
    values = [number(name) for name in names]
    return all(value is not None for value in values) and any(
        value != int(value) for value in values if value
    )


def require_two_classes(labels: np.ndarray, names: Sequence[str], origin: str, hint: str) -> None:
    """Refuse a training set if all of its labels are the same class.

    Raises:
      UserError: all labels are the same class.
    """
    if names and len(np.unique(labels)) < 2:
        raise UserError(
            f"{origin}: all {len(labels)} labels are {names[int(labels[0])]!r}; a classifier needs examples of "
            f"at least two classes{hint}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} of them)" if len(names) > MOST_SHOWN else ""
    return ", ".join(map(repr, names[:MOST_SHOWN])) + more


def _shown(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _or(setting: str) -> str:
    return f"; correct it, or set {setting}" if setting else ""

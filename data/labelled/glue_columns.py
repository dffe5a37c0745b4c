"""GLUE splits that come as whole columns, as the hub and TFDS give them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from data.labelled.classes import Classes, matching
from data.labelled.examples import Examples, glue_examples
from data.labelled.labels import UNLABELLED
from data.labelled.tasks import Task

logger = logging.getLogger(__name__)

LABEL = "label"
IDENTITY = "idx"
HIDDEN = -1


def check_columns(task: Task, present: Sequence[str], setting: str) -> None:
    """Refuse a data set without the task's columns; `setting` is where it is named.

    Raises:
      UserError: a text or the labels are not there.
    """
    for name in (*task.texts, LABEL):
        if name not in present:
            raise UserError(
                f"{setting} has no column {name!r} for config.task={task.name}; columns there: "
                f"{', '.join(sorted(present))}"
            )


def split_of_columns(
    task: Task,
    split: str,
    texts: Sequence[list[str]],
    labels: Sequence[float | str],
    names: Sequence[str] | None,
    ids: Sequence[int],
    *,
    origin: str,
    limit: int | None,
) -> Examples:
    """Examples of a split whose labels are ids in the order of `names`, names themselves, or scores.

    Ids are put in the task's own order where `names` has another. Labels of a test split are taken as far as they are
    there and known; all that are -1 are hidden.

    Raises:
      UserError: no examples; of a split that is no test, an unknown class, or no finite score.
    """
    if not texts[0]:
        raise UserError(f"{origin}: there are no examples")
    values = _values(labels, names or task.labels)
    if split in task.tests:
        known = _known_of_test(task, labels, values, names, origin)
    else:
        known = _known(task, labels, values, names, origin)
    return glue_examples(task, split, texts, known, ids, origin=origin, limit=limit)


def _values(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Labels as float64 [n]: scores, or ids in the order of `names`; NaN for what is neither."""
    try:
        return np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        classes = Classes(tuple(names), ids=True)
        found = [classes.find(str(label).strip()) for label in labels]
        return np.array([np.nan if index is None else index for index in found], np.float64)


def _known(
    task: Task, labels: Sequence[Any], values: np.ndarray, names: Sequence[str] | None, origin: str
) -> np.ndarray:
    order = _order(task, names)
    if order is None:
        raise UserError(
            f"{origin}: its classes are {', '.join(names or ())}; they should be {', '.join(task.labels)}"
        )
    bad = np.flatnonzero(~_valid(task, values))
    if bad.size:
        label = labels[bad[0]]
        shown = repr(label) if isinstance(label, str) else f"{values[bad[0]]:g}"
        right = (
            f"is not one of the ids of the classes {', '.join(task.labels)}, 0 to {len(task.labels) - 1}"
            if task.labels
            else "should be a number, for a score"
        )
        raise UserError(f"{origin} row {bad[0] + 1}: label {shown} {right}")
    return order[values.astype(np.int32)] if task.labels else values.astype(np.float32)


def _known_of_test(
    task: Task, labels: Sequence[Any], values: np.ndarray, names: Sequence[str] | None, origin: str
) -> np.ndarray | None:
    """The labels of a test split, on which a run does not depend; None where none is known."""
    order = _order(task, names)
    if np.all(values == HIDDEN) or order is None:
        return None
    valid = _valid(task, values)
    missing = np.array([label is None for label in labels]) | (values == HIDDEN)
    if unknown := np.count_nonzero(~valid & ~missing):
        logger.warning(
            "%s: %d of %d examples are not scored, for their labels are not known",
            *(origin, unknown, len(values)),
        )
    if not valid.any():
        return None
    if not task.labels:
        return np.where(valid, values, np.nan).astype(np.float32)
    return np.where(valid, order[np.where(valid, values, 0).astype(np.int32)], UNLABELLED)


def _valid(task: Task, values: np.ndarray) -> np.ndarray:
    return np.isin(values, np.arange(len(task.labels))) if task.labels else np.isfinite(values)


def _order(task: Task, names: Sequence[str] | None) -> np.ndarray | None:
    """For each class of the source its id in the task, int32; None where they are not the task's."""
    order = matching(task.labels, names or task.labels)
    return None if None in order or len(order) != len(task.labels) else np.array(order, np.int32)

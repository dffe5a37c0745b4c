"""GLUE splits that come as whole columns, as the hub and TFDS give them."""

from collections.abc import Sequence

import numpy as np

from data.errors import UserError
from data.labelled.examples import Examples, glue_examples
from data.labelled.tasks import Task

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
    labels: Sequence[float],
    names: Sequence[str] | None,
    ids: Sequence[int],
    *,
    origin: str,
    limit: int | None,
) -> Examples:
    """Examples of a split whose labels are ids in the order of `names`, or scores.

    Labels of a test split that are all -1 are hidden; ids are put in the task's own order where `names` has another.

    Raises:
      UserError: no examples, an unknown class, or no finite score.
    """
    if not texts[0]:
        raise UserError(f"{origin}: there are no examples")
    values = np.asarray(labels, np.float64)
    known = None if split in task.tests and np.all(values == HIDDEN) else _known(task, values, names, origin)
    return glue_examples(task, split, texts, known, ids, origin=origin, limit=limit)


def _known(task: Task, values: np.ndarray, names: Sequence[str] | None, origin: str) -> np.ndarray:
    if not task.labels:
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise UserError(
                f"{origin} row {bad[0] + 1}: label {values[bad[0]]} should be a number, for a score"
            )
        return values.astype(np.float32)
    if names is not None and sorted(names) != sorted(task.labels):
        raise UserError(
            f"{origin}: its classes are {', '.join(names)}; they should be {', '.join(task.labels)}"
        )
    bad = np.flatnonzero(~np.isin(values, np.arange(len(task.labels))))
    if bad.size:
        raise UserError(
            f"{origin} row {bad[0] + 1}: label {values[bad[0]]:g} is not one of the ids of the classes "
            f"{', '.join(task.labels)}, 0 to {len(task.labels) - 1}"
        )
    order = [task.labels.index(name) for name in names or task.labels]
    return np.array(order, np.int32)[values.astype(np.int32)]

"""Metrics of the user's own: a function of predictions and labels, called beside the task's metrics."""

import inspect
import logging
import math
import numbers
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from base import formatting
from base.errors import UserError
from data.labelled.tasks import Task
from finetune.kinds.kind import Kind
from finetune.texts.spans import right_answers, texts_of

ComputeMetrics = Callable[..., Mapping[str, float]]
"""(predictions, labels) -> {name: value}. A function with a parameter `logits` gets the logits [n, C] too.

Predictions and labels have one form: ids of classes int [n], scores float [n], whether each text has each class bool
[n, C], or for words the tags of each sentence as a list of lists. For questions they differ: predictions are the texts
of answers ('' for no answer), and labels the texts of the right answers of each question, a list of lists.
"""
logger = logging.getLogger(__name__)

NOT_OF_VECTORS = "compute_metrics is for classes, scores and words; leave it out for config.kind=embedding"
RESERVED = ("loss", "threshold", "average_chosen")
CERTAIN = 8.0
"""The logit of a right class in the test of a function; other classes have the negative of it."""


@dataclass(frozen=True)
class OwnMetrics:
    """A user's function, and the names of what it gives."""

    function: ComputeMetrics
    kind: Kind
    labels: tuple[str, ...]
    """The classes by id."""
    names: tuple[str, ...] = ()
    """The metrics that it gives; () before they are known."""

    def __call__(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        sentences: np.ndarray | None,
        threshold: float | None,
    ) -> dict[str, float]:
        """The user's metrics of a set.

        Args:
          logits: those of a model, finite [n, C].
          labels: the right answers.
          sentences: the sentence of each word, [n], ascending; None where texts have labels.
          threshold: that of a task whose texts have any number of classes.

        Raises:
          UserError: the function fails, or gives no numbers by names.
        """
        predictions, right = self.kind.predictions(logits, threshold or 0.0), labels
        if labels.ndim > 1:
            right = labels > 0
        given: tuple[Any, Any] = predictions, right
        if self.kind.per_token:
            assert sentences is not None
            given = self._tags(predictions, sentences), self._tags(right, sentences)
        if self.kind.extracts:
            given = texts_of(logits, list(labels)), [list(each.texts) for each in labels]
        more = {"logits": logits} if _takes_logits(self.function) else {}
        try:
            found = self.function(*given, **more)
        except UserError:
            raise
        except Exception as error:
            raise failed("compute_metrics", error) from error
        values = self._checked(found)
        if self.names and (odd := _not_finite(values)):
            logger.warning("compute_metrics gave %s; a NaN counts as the worst score", odd)
        return values

    def _tags(self, ids: np.ndarray, sentences: np.ndarray) -> list[list[str]]:
        cuts = np.flatnonzero(np.diff(sentences)) + 1
        return [[self.labels[index] for index in each] for each in np.split(ids, cuts)]

    def _checked(self, found: Any) -> dict[str, float]:
        if not isinstance(found, Mapping) or not found:
            raise UserError(
                f"compute_metrics gave {type(found).__name__} {found!r:.60}; it should give a dict of numbers by names"
            )
        for name, value in found.items():
            if not isinstance(name, str) or not name or "/" in name or name in RESERVED:
                raise UserError(
                    f"compute_metrics gave the name {name!r}; a name should be a text without '/', and none of "
                    f"{', '.join(RESERVED)}"
                )
            if not isinstance(value, numbers.Real | np.number):
                raise UserError(f"compute_metrics gave {name}={value!r:.60}, which is no number")
        if self.names and set(found) != set(self.names):
            raise UserError(
                f"compute_metrics gave {', '.join(found)}, and before {', '.join(self.names)}; it should give the same "
                "names each time"
            )
        return {name: float(value) for name, value in found.items()}


def _takes_logits(function: ComputeMetrics) -> bool:
    """Whether a function has a parameter `logits`; some functions that are not written in Python do not say."""
    try:
        return "logits" in inspect.signature(function).parameters
    except ValueError:
        return False


def failed(name: str, error: Exception) -> UserError:
    """The one line of an exception in a user's function, with the place in the user's file where it happened.

    Args:
      name: what the function is called.
      error: the exception, caught where the function was called.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    place = f" ({own[-1].filename} line {own[-1].lineno})" if own else ""
    return UserError(f"{name} failed: {type(error).__name__}: {formatting.one_line(str(error))}{place}")


def _not_finite(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in values.items() if not math.isfinite(value))


def with_own_metrics(
    task: Task, kind: Kind, function: ComputeMetrics, labels: np.ndarray, sentences: np.ndarray | None
) -> Task:
    """A task with the user's metrics beside its own. The function is tried on right answers, before anything trains.

    Args:
      task: the task.
      kind: its kind.
      function: the user's.
      labels: right answers, with which it is tried.
      sentences: the sentence of each word; None where texts have labels.

    Raises:
      UserError: it is no function, it fails, or gives no finite numbers by names, or a name that the task has; the
        task is one of vectors.
    """
    if kind.embeds:
        raise UserError(NOT_OF_VECTORS)
    if not callable(function):
        raise UserError(
            f"compute_metrics={function!r:.60} is {type(function).__name__}; it should be a function of predictions "
            "and labels that gives a dict of numbers by names"
        )
    own = OwnMetrics(function, kind, task.labels)
    if kind.extracts:
        logits = right_answers(list(labels))
    elif labels.ndim > 1:
        logits = np.where(labels > 0, CERTAIN, -CERTAIN).astype(np.float32)
    elif task.labels:
        logits = np.where(np.arange(len(task.labels)) == labels[:, None], CERTAIN, -CERTAIN)
    else:
        logits = labels[:, None].astype(np.float32)
    values = own(logits.astype(np.float32), labels, sentences, None)
    taken = dict.fromkeys((*task.metrics, *kind.reported, *RESERVED))
    if twice := [name for name in values if name in taken]:
        raise UserError(
            f"compute_metrics gave {twice[0]!r}, a name that {task.title} has already; give it another name than "
            f"{', '.join(taken)}"
        )
    if odd := _not_finite(values):
        raise UserError(f"compute_metrics gave {odd} on right answers; it should give finite numbers")
    return replace(task, own_metrics=replace(own, names=tuple(values)))

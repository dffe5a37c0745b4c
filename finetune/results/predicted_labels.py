"""Predictions as tab-separated lines, and the files with the best model's predictions on a run's test sets."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Float

from base.errors import UserError
from data.labelled.examples import Examples
from data.labelled.open import open_labelled
from data.labelled.tasks import Task
from finetune.job import Job
from finetune.population.evaluation import predictions
from finetune.submission import write_predictions
from pretrain.runtime import processes
from pretrain.runtime.workdir import write_text

logger = logging.getLogger(__name__)

FOLDER = "predictions"
"""Folder in a workdir with a file for each test set."""
DIAGNOSTIC = {"mnli": "ax"}
"""Task -> diagnostic task without training examples, which the task's model predicts too."""


@dataclass(frozen=True)
class Asked:
    """A test set to predict."""

    task: Task
    split: str
    examples: Examples


def asked_of(job: Job) -> list[Asked]:
    """The test sets of a run: the test sets of its task and, for MNLI, the diagnostic set.

    A diagnostic set that cannot be read is skipped with a warning, because the run does not depend on it.
    """
    test_sets = [Asked(job.data.task, split, examples) for split, examples in job.data.tests.items()]
    if more := DIAGNOSTIC.get(job.data.task.name):
        data = None
        try:
            data = open_labelled(job.config.data, more, parts=("tests",))
        except UserError as error:
            logger.warning("%s is not predicted: %s", more, error)
        have = processes.gather(
            data is not None
        )  # all processes compute the predictions together, or none does
        if processes.from_first(lambda: all(have)) and data is not None:
            test_sets += [Asked(data.task, split, examples) for split, examples in data.tests.items()]
    return test_sets


def write_answers(folder: epath.Path, asked: Asked, logits: Float[np.ndarray, "n C"]) -> str:
    """Write the predictions on a test set: in GLUE's format, or to SPLIT.tsv for a user's own files.

    If GLUE would refuse the file, a warning is logged and no file is written. This is so if the examples do not have
    GLUE's numbers, or if the model has diverged.

    Args:
      folder: the folder to write to.
      asked: the test set.
      logits: logits [n, C] in the order of the examples.

    Returns:
      The file's name; '' if no file is written.
    """
    if not asked.task.name:
        if not np.isfinite(logits).all():
            logger.warning(
                "%s is not answered: the model's logits are no numbers; it has diverged", asked.split
            )
            return ""
        header, answers = columns(asked.task.labels), said(asked.task.labels, logits)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{asked.split}.tsv"
        write_text(folder / name, "".join(map(line, [header, *answers])))
        return name
    ids, answered = asked.examples.ids, predictions(asked.task, logits)
    try:
        return write_predictions(folder, asked.task, asked.split, ids, answered).name
    except UserError as error:
        logger.warning("%s", error)
        return ""


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """The header for the columns that `said` returns."""
    return ("label", "probability") if names else ("score",)


def said(names: Sequence[str], logits: Float[np.ndarray, "n C"]) -> list[tuple[str, ...]]:
    """For each row of logits, the most probable class and its probability; without `names`, the score."""
    if not names:
        return [(f"{score:.4f}",) for score in logits[:, 0]]
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return [
        (names[index], f"{probability:.4f}")
        for index, probability in zip(probabilities.argmax(axis=1), probabilities.max(axis=1), strict=True)
    ]


def line(fields: Sequence[str]) -> str:
    """One tab-separated line. A tab or a line break within a field is replaced by a space."""
    return "\t".join(" ".join(field.splitlines()).replace("\t", " ") for field in fields) + "\n"

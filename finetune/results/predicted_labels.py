"""The files with the best model's predictions on a run's test sets."""

import logging
from dataclasses import dataclass

import numpy as np
from etils import epath
from jaxtyping import Float

from base.errors import UserError
from data.labelled.examples import AnyExamples
from data.labelled.open import open_labelled
from data.labelled.questions import Questions
from data.labelled.sentences import Sentences
from data.labelled.tasks import Task
from finetune.job import Job
from finetune.kinds import kind_of
from finetune.submission import write_predictions
from finetune.texts.answers import answers_by_id, line, sentence_lines, squad_json
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
    examples: AnyExamples


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


def write_answers(
    folder: epath.Path, asked: Asked, logits: Float[np.ndarray, "n C"], threshold: float = 0.0
) -> str:
    """Write the predictions on a test set: in GLUE's format, or to SPLIT.tsv for a user's own data.

    Answers to questions are written to SPLIT.json, in the format of SQuAD's evaluation.

    If GLUE would refuse the file, a warning is logged and no file is written. This is so if the examples do not have
    GLUE's numbers, or if the model has diverged.

    Args:
      folder: the folder to write to.
      asked: the test set.
      logits: logits [n, C] in the order of the examples, or of their words.
      threshold: the model's, for examples with any number of classes.

    Returns:
      The file's name; '' if no file is written.
    """
    kind = kind_of(asked.task)
    if not asked.task.name:
        if not np.isfinite(logits).all():
            logger.warning(
                "%s is not answered: the model's logits are no numbers; it has diverged", asked.split
            )
            return ""
        labels = asked.task.labels
        name = f"{asked.split}.tsv"
        if isinstance(asked.examples, Questions):
            name = f"{asked.split}.json"
            lines = [squad_json(answers_by_id(asked.examples, logits))]
        elif isinstance(asked.examples, Sentences):
            lines = list(sentence_lines(asked.examples.words, labels, kind.predictions(logits)))
        else:
            lines = [line(kind.columns(labels)), *map(line, kind.said(labels, logits, threshold))]
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, "".join(lines))
        return name
    ids, answered = asked.examples.ids, kind.predictions(logits)
    try:
        return write_predictions(folder, asked.task, asked.split, ids, answered).name
    except UserError as error:
        logger.warning("%s", error)
        return ""

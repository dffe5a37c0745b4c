"""A look at examples, evaluation and prediction."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import AnyExamples, Examples
from data.labelled.open import open_labelled
from data.labelled.questions import Questions, Reference
from data.labelled.sentences import Sentences
from data.labelled.tasks import SIMILARITY, Task
from finetune import evaluate as evaluating
from finetune.classifier.finetuned_model import Trained, encoder_of, find_model, logits_of
from finetune.config import FinetuneConfig
from finetune.job import assemble
from finetune.results.own_metrics import ComputeMetrics
from finetune.texts.spans import NO_ANSWER, SCORE, texts_of
from finetune.unused_fields import unused_fields, unused_in_evaluation
from pretrain.devices.platforms import leave_out_absent_tpu
from unmask.examples import Kept, Rows, check_train, with_files
from unmask.results import EvaluateResult, Prediction
from unmask.settings import NOTHING, Overrides, Source, prepare, read

Text = str | tuple[str, str] | Sequence[str]
"""A text, a pair of texts, or for a model of words the words of a sentence."""


def look(
    config: Source | FinetuneConfig,
    *,
    overrides: Overrides = NOTHING,
    train: Rows | None = None,
    validation: Rows | None = None,
) -> tuple[str, ...]:
    """The first training examples as the model sees them, counts of classes, lengths, and what truncation cuts.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      overrides: values that are set on top, by the paths of their fields.
      train: examples in place of those that config.data names; so is `validation`.
      validation: examples to evaluate on.

    Returns:
      Lines of at most 80 columns.

    Raises:
      UserError: bad config or bad input.
    """
    with _files({"train": train, "validation": validation}) as files:
        settled, _ = read(FinetuneConfig, config, with_files(overrides, files), unused_fields)
        check_train(files, settled)
        prepare(settled)
        return tuple(assemble(settled).look())


def load_examples(
    config: Source | FinetuneConfig, *, overrides: Overrides = NOTHING
) -> dict[str, list[dict[str, Any]]]:
    """The examples that a config names, as rows: to look at, or to change and pass on as `train` and the like.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      overrides: values that are set on top, by the paths of their fields.

    Returns:
      Set -> rows. Texts have the names that the task gives them; `label` is the name of a class, the names of an
      example's classes or of its words' classes, a score, or None where it is hidden. Pairs for embeddings have their
      columns: both texts, the hard negative, and in evaluation sets the score. Questions have id, question, context and
      answers.

    Raises:
      UserError: bad config or bad input.
    """
    settled, _ = read(FinetuneConfig, config, overrides, unused_fields)
    pairs = settled.kind == "embedding"
    data = open_labelled(
        settled.data,
        settled.task,
        hold_out=True,
        per_word=settled.kind == "tokens",
        pairs=pairs,
        questions=settled.kind == "questions",
    )
    sets = {**data.evaluations, **data.tests}
    if data.train is not None:
        sets = {"train": data.train, **sets}
    if pairs:
        return {
            name: _pairs(settled.data, examples, scored=data.task.kind == SIMILARITY and name != "train")
            for name, examples in sets.items()
            if isinstance(examples, Examples)
        }
    return {
        name: _questions(examples) if isinstance(examples, Questions) else _rows(data.task, examples)
        for name, examples in sets.items()
    }


def _questions(examples: Questions) -> list[dict[str, Any]]:
    """Questions in SQuAD's layout of rows; answers are None where they are hidden."""
    return [
        {
            "id": name,
            "question": question,
            "context": each.context,
            "answers": None
            if each.answers is None
            else {"text": list(each.texts), "answer_start": [start for start, _ in each.answers]},
        }
        for name, question, each in zip(examples.ids, examples.questions, examples.references, strict=True)
    ]


def _pairs(config: LabelledConfig, examples: Examples, *, scored: bool) -> list[dict[str, Any]]:
    """Pairs for embeddings, by the columns that the config names. Labels are scores, or only numbers of texts."""
    columns: dict[str, list[Any]] = {config.text: examples.first, config.text_pair: examples.second or []}
    if examples.negatives is not None:
        columns[config.negative] = examples.negatives
    if scored:
        labels = [np.nan] * len(examples) if examples.labels is None else examples.labels
        columns[config.score] = [None if np.isnan(label) else float(label) for label in labels]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows(task: Task, examples: Examples | Sentences) -> list[dict[str, Any]]:
    labels = _named(task, examples)
    if isinstance(examples, Sentences):
        return [
            {"tokens": words, "label": label} for words, label in zip(examples.words, labels, strict=True)
        ]
    columns = [examples.first] if examples.second is None else [examples.first, examples.second]
    names = task.texts if len(task.texts) == len(columns) else ("text", "text_pair")[: len(columns)]
    return [
        {**dict(zip(names, texts, strict=True)), "label": label}
        for *texts, label in zip(*columns, labels, strict=True)
    ]


def _named(task: Task, examples: Examples | Sentences) -> list[Any]:
    """The label of each example, with the names of classes."""
    if examples.labels is None:
        return [None] * len(examples)
    values: list[Any] = [
        [task.labels[index] for index in np.flatnonzero(value)]
        if np.ndim(value)
        else (task.labels[int(value)] if value >= 0 else None)
        if task.labels
        else float(value)
        for value in examples.labels
    ]
    if not isinstance(examples, Sentences):
        return values
    ends = np.cumsum([len(words) for words in examples.words])
    return [values[end - len(words) : end] for end, words in zip(ends, examples.words, strict=True)]


def evaluate(
    model: str | os.PathLike[str],
    config: Source | FinetuneConfig = NOTHING,
    *,
    overrides: Overrides = NOTHING,
    validation: Rows | None = None,
    compute_metrics: ComputeMetrics | None = None,
) -> EvaluateResult:
    """Evaluate a fine-tuned model, one of this project or of others.

    Args:
      model: a fine-tuning workdir, a model's folder or a hub id.
      config: a recipe's file, the fields as nested dicts, or a config; of its fields only kind, task, data, eval.batch,
        inference and compilation_cache are read.
      overrides: values that are set on top, by the paths of their fields.
      validation: examples in place of those that config.data names.
      compute_metrics: as in `unmask.finetune`.

    Raises:
      UserError: bad config, bad input, or a model of another task.
    """
    with _files({"validation": validation}) as files:
        asked = with_files(overrides, files)
        if files:
            asked = {"data.train": "", **asked}  # nothing is held out, and the classes are the model's
        settled, _ = read(FinetuneConfig, config, asked, unused_in_evaluation)
        prepare(settled)
        found = evaluating.evaluate(settled, os.fspath(model), compute_metrics)
    return EvaluateResult(os.fspath(model), found.title, found.metrics, found.examples)


def predict(
    model: str | os.PathLike[str],
    texts: Sequence[Text],
    *,
    batch: int = 64,
    max_length: int = 0,
    inference: str = "jax",
) -> list[Prediction]:
    """Label texts with a fine-tuned model.

    Args:
      model: a fine-tuning workdir, a model's folder or a hub id.
      texts: texts, a list or a column; pairs of texts, as tuples; for a model of words the words of each sentence; for
        one that answers questions the question and its context, as tuples.
      batch: rows of a batch.
      max_length: most tokens of a text; longer texts are cut. 0 takes the length of the model's fine-tuning.
      inference: jax, or onnx for the model's model.onnx.

    Returns:
      An answer for each text, in order.

    Raises:
      UserError: no such model, texts that it does not take, or a model that has diverged.
    """
    if isinstance(texts, str | bytes):
        raise UserError(f"texts is the single text {texts[:40]!r}; give a list of texts")
    if not isinstance(texts, Iterable):
        raise UserError(f"texts is {type(texts).__name__}; give a list of texts")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str | list | tuple):
            raise UserError(
                f"texts[{number}]={text!r:.60} is {type(text).__name__}; it should be a text, a pair of texts, or a "
                "list of words"
            )
    if batch < 1:
        raise UserError(f"batch={batch} should be 1 or more")
    if inference not in ("jax", "onnx"):
        raise UserError(f"inference={inference!r} should be jax or onnx")
    leave_out_absent_tpu()
    trained = find_model(os.fspath(model), inference=inference, max_length=max_length)
    examples: AnyExamples
    if trained.kind.per_token:
        examples = _sentences(texts)
    else:
        examples = _asked(texts, trained) if trained.kind.extracts else _texts(texts, trained)
    if not texts:
        return []
    encoded = encoder_of(trained)(examples)
    rows = min(batch, 1 << (len(encoded) - 1).bit_length())
    logits = logits_of(trained, inference=inference, batch=rows)(encoded)
    if not np.isfinite(logits).all():
        raise UserError(f"model={trained.given} gives logits that are no numbers; its training has diverged")
    return list(_answers(trained, logits, examples))


@contextlib.contextmanager
def _files(rows: Mapping[str, Rows | None]) -> Iterator[dict[str, str]]:
    """Files of examples that are needed for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept.of(rows, epath.Path(folder))
        kept.write()
        yield dict(kept.files)


def _sentences(texts: Sequence[Text]) -> Sentences:
    words: list[list[str]] = []
    for number, text in enumerate(texts, 1):
        each = text.split() if isinstance(text, str) else list(text)
        if not each or not all(isinstance(word, str) for word in each):
            raise UserError(f"texts[{number - 1}] should be a sentence or a list of its words, and not empty")
        words.append(each)
    return Sentences(words, None, list(range(len(words))), "")


def _asked(texts: Sequence[Text], model: Trained) -> Questions:
    """Questions and their contexts."""
    given = _texts(texts, dataclasses.replace(model, facts=dataclasses.replace(model.facts, texts=2)))
    contexts = given.second or []
    for number, context in enumerate(contexts):
        if not context.strip():
            raise UserError(f"texts[{number}] has an empty context; it should be a question and its context")
    return Questions(given.first, [Reference(context, None) for context in contexts], given.ids, "")


def _texts(texts: Sequence[Text], model: Trained) -> Examples:
    """Texts or pairs, all of one form, which is the model's where that is known."""
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    wanted = model.facts.texts or (min(max(len(rows[0]), 1), 2) if rows else 1)
    for number, row in enumerate(rows):
        if len(row) != wanted or not all(isinstance(text, str) for text in row):
            due = "a pair of texts" if wanted == 2 else "a text"
            raise UserError(f"texts[{number}]={texts[number]!r:.60} should be {due}, which the model takes")
    columns = [list(column) for column in zip(*rows)]
    second = columns[1] if len(columns) > 1 else None
    return Examples(columns[0] if columns else [], second, None, list(range(len(rows))), "", official=False)


def _answers(model: Trained, logits: np.ndarray, examples: AnyExamples) -> Iterator[Prediction]:
    kind, names = model.kind, model.names
    if isinstance(examples, Questions):
        margins = logits[:, SCORE] - logits[:, NO_ANSWER]
        for answer, margin in zip(texts_of(logits, examples.references), margins, strict=True):
            yield Prediction(answer=answer, score=float(margin))
        return
    told = kind.predictions(logits, model.facts.threshold)
    if isinstance(examples, Sentences):
        start = 0
        for words in examples.words:
            ids, start = told[start : start + len(words)], start + len(words)
            yield Prediction(tuple(names[index] for index in ids))
    elif not names:
        yield from (Prediction(score=float(score)) for score in told)
    else:
        shares = kind.probabilities(logits)
        for row, guessed in zip(shares, told, strict=True):
            chosen: Any = np.flatnonzero(guessed) if np.ndim(guessed) else [guessed]
            labels = tuple(names[index] for index in chosen)
            yield Prediction(labels, dict(zip(names, map(float, row), strict=True)))

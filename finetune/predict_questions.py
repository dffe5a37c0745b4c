"""Answers to questions: files of questions and contexts, and a model's answers (`finetune.predict`)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import UserError
from data.labelled.own_questions import (
    CONTEXT,
    FORMATS,
    QUESTION,
    SETTINGS,
    Ids,
    add_id,
    question_of,
    rows_of_questions,
)
from data.labelled.questions import Questions, Reference
from data.labelled.tables import Row
from data.sources.documents import FlawError, decode
from data.sources.paths import suffixes
from finetune.classifier.finetuned_model import Trained, logits_of
from finetune.classifier.inference import Logits
from finetune.predict_words import STDIN, raw_lines
from finetune.texts.answers import answers_by_id, line, question_lines, squad_json
from finetune.texts.encoders import Encoder
from finetune.texts.spans import texts_of

BATCHES_READ = 16
"""Number of batches that are read at a time."""
SQUAD = ".json"


@dataclass(frozen=True)
class Asked:
    """A question without its answer."""

    id: int | str
    question: str
    context: str


def read_questions(
    path: str, columns: tuple[str, str] = (QUESTION, CONTEXT), given: Sequence[str] = ()
) -> Iterator[Asked]:
    """Yield the questions of a file, of stdin ('-'), or of texts.

    A .json, .jsonl or .parquet file has the layouts of training; its answers are not read. In other files, and on
    stdin, a line is a question, a tab and its context.

    Args:
      path: the file.
      columns: the fields of the question and the context.
      given: texts in place of a file, each a question, a tab and its context.

    Raises:
      UserError: the file or one of its lines is wrong. The error may come at a later question.
    """
    ids: Ids = {}
    rows = _lines(path, given) if given or not is_table(path) else rows_of_questions(path, f"--file={path}")
    if columns != (QUESTION, CONTEXT) and (given or not is_table(path)):
        raise UserError(
            f"--text_column and --text_pair_column are for {', '.join(FORMATS)}; in other files a line is a question, "
            "a tab and its context"
        )
    for row in rows:
        try:
            question, reference = question_of(row, (*columns, ""), may_lack=True)
        except FlawError as flaw:
            message = f"{row.place}: {flaw}".replace(SETTINGS[1], "--text_pair_column")
            raise UserError(message.replace(SETTINGS[0], "--text_column")) from None
        yield Asked(add_id(ids, row), question, reference.context)


def answered(
    model: Trained, encoder: Encoder, asked: Iterator[Asked], *, inference: str, batch: int, path: str
) -> Iterator[str]:
    """Yield the text of the output: SQuAD's JSON for .json, JSON lines for .jsonl and .parquet, else a table.

    Args:
      model: a model that answers questions.
      encoder: its encoder.
      asked: the questions.
      inference: jax or onnx.
      batch: rows of a batch.
      path: the file of the questions.

    Raises:
      UserError: the model has diverged.
    """
    logits: Logits | None = None
    whole: dict[str, str] = {}
    form = suffixes(path)[0] if is_table(path) else ""
    while part := list(itertools.islice(asked, BATCHES_READ * batch)):
        references = [Reference(each.context, None) for each in part]
        questions = Questions([each.question for each in part], references, [each.id for each in part], "")
        encoded = encoder(questions)
        if logits is None:
            if not form:
                yield line(("answer", "margin", "text", "text_pair"))
            rows = min(batch, 1 << (len(encoded) - 1).bit_length())
            logits = logits_of(model, inference=inference, batch=rows)
        found = logits(encoded)
        if not np.isfinite(found).all():
            raise UserError(
                f"--model={model.given} gives logits that are no numbers; its training has diverged"
            )
        if form == SQUAD:
            whole |= answers_by_id(questions, found)
        elif form:
            yield from question_lines(questions, found)
        else:
            told = zip(texts_of(found, references), model.kind.said((), found), part, strict=True)
            yield from (line((text, said[-1], each.question, each.context)) for text, said, each in told)
    if form == SQUAD:
        yield squad_json(whole)


def is_table(path: str) -> bool:
    """Whether a file has a layout of SQuAD, and not a question a line."""
    return path != STDIN and suffixes(path)[0] in FORMATS


def _lines(path: str, given: Sequence[str]) -> Iterator[Row]:
    place = "text" if given else "stdin line" if path == STDIN else f"{path} line"
    lines: Iterable[str | bytes] = given or raw_lines(path)
    for number, raw in enumerate(lines, 1):
        try:
            text = raw if isinstance(raw, str) else decode(raw)
        except FlawError as flaw:
            raise UserError(f"{place} {number}: {flaw}; save the text as UTF-8") from None
        question, tab, context = text.rstrip("\r\n").partition("\t")
        if not tab:
            others = "" if given else f"; files that have fields for them end in {', '.join(FORMATS)}"
            raise UserError(f"{place} {number}: a line should be a question, a tab and its context{others}")
        yield Row(f"{place} {number}", {QUESTION: question, CONTEXT: context})

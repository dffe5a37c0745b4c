"""Labels for the words of sentences: their files, and a model's answers in the same form (`finetune.predict`)."""

import itertools
import sys
from collections.abc import Iterator

import numpy as np

from base import terminal
from base.errors import UserError
from data.labelled.column_files import COLUMN_FORMATS, column_rows
from data.labelled.own_sentences import words_of
from data.labelled.own_sources import JSON, rows_of_file
from data.labelled.sentences import Sentences
from data.labelled.tables import Row, text_lines
from data.sources.compressed_lines import read_lines, stdin_lines
from data.sources.documents import FlawError, decode
from data.sources.paths import suffixes
from finetune.classifier.finetuned_model import Trained, logits_of
from finetune.classifier.inference import Logits
from finetune.texts.answers import sentence_lines
from finetune.texts.encoders import Encoder

STDIN = "-"
LISTS = (*JSON, ".parquet")
BATCHES_READ = 16
"""Number of batches that are read at a time."""


def is_json(path: str) -> bool:
    """Whether a file holds lists of words, and answers to it are lines of JSON."""
    return suffixes(path)[0] in LISTS


def read_words(path: str, column: str) -> Iterator[list[str]]:
    """Yield the sentences of a file, or of stdin ('-') in columns.

    Args:
      path: the file.
      column: the field or the column that holds the words; '' takes tokens, words, or the first column.

    Raises:
      UserError: the file or one of its lines is wrong. The error may come at a later sentence.
    """
    for row in _rows(path):
        try:
            yield words_of(row, column, "--text_column")
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None


def _rows(path: str) -> Iterator[Row]:
    kind = suffixes(path)[0]
    if path == STDIN:
        return column_rows(_decoded(raw_lines(STDIN), "stdin"), "stdin")
    if kind in LISTS:
        return rows_of_file(path, {})
    if kind in COLUMN_FORMATS:
        return column_rows(text_lines(path), path, kind)
    known = ", ".join((*COLUMN_FORMATS, *LISTS))
    raise UserError(
        f"{path} is none of {known}, which hold sentences; all but .parquet may also end in .gz or .zst"
    )


def raw_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, or of stdin ('-'), with a word to a user who is to type them.

    Raises:
      UserError: a line is too long, or the archive is damaged.
    """
    if path == STDIN and sys.stdin.isatty():
        terminal.say("reading lines from the terminal; Ctrl-D ends them", error=True)
    try:
        yield from stdin_lines() if path == STDIN else read_lines(path)
    except FlawError as flaw:
        raise UserError(f"{path}: {flaw}") from None


def _decoded(lines: Iterator[bytes], place: str) -> Iterator[str]:
    for number, raw in enumerate(lines, 1):
        try:
            text = decode(raw)
        except FlawError as flaw:
            raise UserError(f"{place} line {number}: {flaw}; save the text as UTF-8") from None
        yield text


def tagged(
    model: Trained,
    encoder: Encoder,
    sentences: Iterator[list[str]],
    *,
    inference: str,
    batch: int,
    json_lines: bool,
) -> Iterator[str]:
    """Yield sentences with the classes of their words, as `finetune.texts.answers.sentence_lines` has them.

    Args:
      model: a model of words.
      encoder: its encoder.
      sentences: the words of each sentence.
      inference: jax or onnx.
      batch: rows of a batch.
      json_lines: whether answers are lines of JSON.

    Raises:
      UserError: the model has diverged.
    """
    logits: Logits | None = None
    while part := list(itertools.islice(sentences, BATCHES_READ * batch)):
        encoded = encoder(Sentences(part, None, list(range(len(part))), ""))
        if logits is None:
            rows = min(batch, 1 << (len(encoded) - 1).bit_length())
            logits = logits_of(model, inference=inference, batch=rows)
        outputs = logits(encoded)
        if not np.isfinite(outputs).all():
            raise UserError(
                f"--model={model.given} gives logits that are no numbers; its training has diverged"
            )
        yield from sentence_lines(part, model.names, model.kind.predictions(outputs), json_lines=json_lines)

"""Label texts with a fine-tuned model: `python -m finetune.predict --model=MODEL ["TEXT" ...] [--file=FILE]`.

The texts come from the command line, from a file (plain, .gz or .zst), or from stdin. Each line is one text; for a
model of pairs it is two texts with a tab between them. With --text_column the file is a table: csv, tsv, json or jsonl.
The output (stdout, or the file --out) is tab-separated and has a header. Each line has a label and its probability, or
a score, and then the text. A tab or a line break in a text is written as a space. The output has one line for each
input line, in the same order. An empty line is an empty text, or an empty pair.

For a model of words (entities, parts of speech), a file has a word a line and an empty line after each sentence. A
json, jsonl or parquet file has lists of words. The output has the same sentences with a label for each word. A text on
the command line is a sentence whose words are separated by blanks.

For a model that answers questions, a json file in SQuAD's layout gives the JSON object that SQuAD's evaluation reads; a
jsonl or parquet file gives lines of JSON. In other files, and on the command line, a line is a question, a tab and its
context.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from base import terminal
from base.command_line import run
from base.errors import UserError
from base.home import cache_folder
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from base.plain_arguments import Arguments
from base.storage import is_remote
from data.labelled.examples import Examples
from data.labelled.own_questions import CONTEXT, QUESTION
from data.labelled.own_sources import rows_of_file
from data.labelled.tables import FORMATS
from data.sources.documents import FlawError, decode, text_of
from data.sources.paths import suffixes
from finetune.classifier.finetuned_model import Trained, encoder_of, find_model, logits_of
from finetune.classifier.inference import Logits
from finetune.config import FinetuneConfig
from finetune.predict_questions import answered, read_questions
from finetune.predict_words import STDIN, is_json, raw_lines, read_words, tagged
from finetune.texts.answers import line
from finetune.texts.question_encoding import Answering
from pretrain.devices.platforms import leave_out_absent_tpu

BATCHES_READ = 16
"""Number of batches that are read at a time. Lines of similar length share a batch, and the input may be endless."""
PAIR = 2

Texts = tuple[str, ...]
"""One text, or the two texts of a pair."""


def main(argv: Sequence[str]) -> int:
    """Run the command. A closed pipe or Ctrl-C ends it without a message."""
    leave_out_absent_tpu()
    arguments = _arguments(argv)
    try:
        with sigterm_as_ctrl_c():
            _predict(arguments)
    except BrokenPipeError:
        # At its end, the interpreter would write the rest of stdout's buffer to the closed pipe, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as error:
        return 128 + signal_of(error)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="python -m finetune.predict", description=__doc__)
    parser.add_argument("--model", help="a fine-tuning run's workdir, a model's folder, or a hub id")
    parser.add_argument("texts", nargs="*", help="texts to label, instead of a file")
    parser.add_argument(
        "--file",
        "--text",
        dest="text",
        action=_File,
        help="the file to label; - is stdin, and the default without texts",
    )
    parser.set_defaults(flag="--file")
    parser.add_argument(
        "--out",
        default=STDIN,
        help="the file to write; - (the default) is stdout; an earlier file is replaced, and its folder is made",
    )
    parser.add_argument(
        "--text_column",
        default="",
        help="the column with the text, if --file is a csv, tsv, json, jsonl or parquet file; of a file with a word a "
        "line, the number of the column with the words, 0 (the default) is the first",
    )
    parser.add_argument("--text_pair_column", default="", help="the column with the second text, for pairs")
    parser.add_argument(
        "--inference",
        default="jax",
        choices=("jax", "onnx"),
        help="onnx runs the model's model.onnx; if there is none, it is made",
    )
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument(
        "--max_length",
        type=int,
        default=0,
        help="most tokens of a text; longer texts are cut. 0 (the default) takes the limit of the model's "
        "fine-tuning if it is known, else the model's limit",
    )
    parser.add_argument(
        "--no_answer",
        type=float,
        default=None,
        help="of a model that answers questions: there is no answer if its score is higher than that of the best span "
        "by more than this; by default as the model was fine-tuned",
    )
    parser.add_argument(
        "--compilation_cache",
        default=FinetuneConfig.compilation_cache,
        help="folder of compiled programs, which runs share; empty for none",
    )
    arguments = parser.read(argv)
    if not arguments.model:
        raise UserError("no --model given: a fine-tuning run's workdir, a model's folder, or a hub id")
    if arguments.texts and (arguments.text or arguments.text_column):
        given = (
            f"{arguments.flag}={arguments.text}"
            if arguments.text
            else f"--text_column={arguments.text_column}"
        )
        raise UserError(f"the text {arguments.texts[0]!r} and {given} are given; leave one of them out")
    if arguments.texts and arguments.text_pair_column:
        given = f"--text_pair_column={arguments.text_pair_column}"
        raise UserError(f"the text {arguments.texts[0]!r} and {given} are given; leave one of them out")
    arguments.text = arguments.text or STDIN
    if arguments.batch < 1:
        raise UserError(f"--batch={arguments.batch} should be 1 or more")
    return arguments


class _File(argparse.Action):
    """An action that stores the file and the name of its flag, --file or --text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.text, namespace.flag = values, option_string


def _predict(arguments: argparse.Namespace) -> None:
    if cache := cache_folder(arguments.compilation_cache):
        jax.config.update("jax_compilation_cache_dir", cache)
    model = find_model(arguments.model, inference=arguments.inference, max_length=arguments.max_length)
    encoder = encoder_of(model, _answering(arguments, model))
    if model.kind.extracts:
        columns = arguments.text_column or QUESTION, arguments.text_pair_column or CONTEXT
        asked = read_questions(arguments.text, columns, arguments.texts)
        how = {"inference": arguments.inference, "batch": arguments.batch}
        with _writer(arguments.out) as write:
            for answer in answered(model, encoder, asked, path=arguments.text, **how):
                write(answer)
        return
    if model.kind.per_token:
        if arguments.text_pair_column:
            raise UserError(
                f"--text_pair_column={arguments.text_pair_column}: --model={model.given} labels words, which have no "
                "second text; unset it"
            )
        given = [text.split() for text in arguments.texts]
        sentences = iter(given) if given else read_words(arguments.text, arguments.text_column)
        with _writer(arguments.out) as write:
            for answer in tagged(
                model,
                encoder,
                sentences,
                inference=arguments.inference,
                batch=arguments.batch,
                json_lines=is_json(arguments.text),
            ):
                write(answer)
        return
    if arguments.texts:
        texts = _lines("the command line", map(os.fsencode, arguments.texts), model.facts.texts)
    else:
        texts = read_texts(
            arguments.text,
            model,
            text_column=arguments.text_column,
            text_pair_column=arguments.text_pair_column,
            flag=arguments.flag,
        )
    with _writer(arguments.out) as write:
        logits: Logits | None = None
        while part := list(itertools.islice(texts, BATCHES_READ * arguments.batch)):
            if logits is None:
                header = (*model.kind.columns(model.names), "text", "text_pair")
                write(line(header[: len(header) - PAIR + len(part[0])]))
                # A short input does not need the full batch.
                rows = min(arguments.batch, 1 << (len(part) - 1).bit_length())
                logits = logits_of(model, inference=arguments.inference, batch=rows)
            outputs = logits(encoder(_examples(part)))
            if not np.isfinite(outputs).all():
                raise UserError(
                    f"--model={model.given} gives logits that are no numbers; its training has diverged"
                )
            answers = model.kind.said(model.names, outputs, model.facts.threshold)
            write("".join(line((*answer, *each)) for answer, each in zip(answers, part)))


def _answering(arguments: argparse.Namespace, model: Trained) -> Answering | None:
    """How answers to questions are chosen, where a flag says so; None where none does.

    Raises:
      UserError: the model answers no questions.
    """
    if arguments.no_answer is None:
        return None
    if not model.kind.extracts:
        raise UserError(
            f"--no_answer={arguments.no_answer:g}: --model={model.given} answers no questions; unset it"
        )
    return dataclasses.replace(model.facts.answering, no_answer=arguments.no_answer)


def _examples(part: Sequence[Texts]) -> Examples:
    first, *second = (list(column) for column in zip(*part, strict=True))
    return Examples(first, second[0] if second else None, None, list(range(len(part))), "", official=False)


def read_texts(
    path: str,
    model: Trained,
    *,
    text_column: str = "",
    text_pair_column: str = "",
    flag: str = "--file",
) -> Iterator[Texts]:
    """Read the texts of a file or of stdin ('-'): all are single texts, or all are pairs.

    A model that this project fine-tuned determines which of the two. For other models, the first line with text does.

    Args:
      path: the file.
      model: the model that will label the texts.
      text_column: the column to read from a table; '' reads lines.
      text_pair_column: the column with the second text of a pair, in a table.
      flag: the flag that names the path, for messages.

    Raises:
      UserError: the file or one of its lines is wrong. The error may come at the first text or at a later one.
    """
    table = path != STDIN and suffixes(path)[0] in FORMATS
    if text_column and not table:
        raise UserError(
            f"--text_column={text_column} needs a table, but {flag}={path} is none of {', '.join(FORMATS)}"
        )
    if text_pair_column and not text_column:
        raise UserError(
            "--text_pair_column names the column of the second text; set --text_column for the first"
        )
    if not text_column:
        if table and suffixes(path)[0] != ".tsv":
            raise UserError(f"{flag}={path} is a table; set --text_column to the column that holds the text")
        return _lines("stdin" if path == STDIN else path, raw_lines(path), model.facts.texts)
    wanted = {text_column: "--text_column"} | (
        {text_pair_column: "--text_pair_column"} if text_pair_column else {}
    )
    if model.facts.texts not in (0, len(wanted)):
        right = "pairs; name their second text" if model.facts.texts == PAIR else "single texts; unset"
        raise UserError(f"--model={model.given} was fine-tuned on {right}: --text_pair_column")
    return _table_rows(path, wanted)


def _lines(place: str, lines: Iterable[bytes], texts: int) -> Iterator[Texts]:
    """Split lines into texts.

    Args:
      place: name of the input, for messages.
      lines: the lines.
      texts: number of texts in a line; 0 takes the number of the first line that is not empty.
    """
    empty = 0
    for number, raw in enumerate(lines, 1):
        try:
            parts = tuple(decode(raw).rstrip("\r\n").split("\t"))
        except FlawError as flaw:
            raise UserError(f"{place} line {number}: {flaw}; save the text as UTF-8") from None
        if parts == ("",):
            empty += 1
            continue
        wanted = texts or min(len(parts), PAIR)
        if len(parts) != wanted:
            due = "two texts with a tab between them" if wanted == PAIR else "one text without tabs"
            raise UserError(
                f"{place} line {number}: {len(parts)} columns where there should be {due}; mend the line"
            )
        texts = wanted
        yield from itertools.repeat(("",) * texts, empty)
        empty = 0
        yield parts
    yield from itertools.repeat(("",) * max(texts, 1), empty)


def _table_rows(path: str, wanted: dict[str, str]) -> Iterator[Texts]:
    for row in rows_of_file(path, wanted):
        try:
            yield tuple(text_of(row.fields, name, setting) for name, setting in wanted.items())
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None


@contextlib.contextmanager
def _writer(out: str) -> Iterator[Callable[[str], None]]:
    """Make the function that writes lines. stdout gets them at once; a file appears only when it is complete."""
    if out == STDIN:
        yield terminal.pass_on
        return
    path = place_of(out, "--out")
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; name a file")
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        if not (is_remote(out) or path.parent.exists()):
            path.parent.mkdir(parents=True)
        file = unfinished.open("wb")
    except Exception as error:  # every file system has errors of its own
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--out={out} cannot be written: {why}") from error
    try:
        with file:
            yield lambda text: file.write(text.encode())
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)

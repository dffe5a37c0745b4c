"""Labels texts with a fine-tuned model: `python -m finetune.predict --model=MODEL ["TEXT" ...] [--file=FILE]`.

The texts stand on the command line, or are read from a file (plain, .gz or .zst) or from stdin: a text a line, or two
texts with a tab between them for a model of pairs. With --text_column the file is a table: csv, tsv, json or jsonl.
What is written (to stdout, or to --out) is tab-separated, under a header: a label and its probability, or a score, then
the text; white space in a text that would break its line is written as a space. Every line is answered, in order; an
empty one is an empty text, or two of them.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from base.command_line import run
from base.errors import UserError
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.plain_arguments import Arguments
from data.labelled.examples import Examples
from data.labelled.tables import FORMATS, delimited_rows, json_rows
from data.sources.compressed_lines import read_lines, stdin_lines
from data.sources.documents import FlawError, decode, text_of
from data.sources.paths import suffixes
from finetune.classifier.finetuned_model import Trained, encoder_of, find_model, logits_of
from finetune.classifier.inference import Logits
from finetune.config import FinetuneConfig
from finetune.results.predicted_labels import columns, line, said
from pretrain.devices.platforms import leave_out_absent_tpu

STDIN = "-"
BATCHES_READ = 16
"""So many batches of lines are read at a time: those of like length go together, and any number of lines can come."""
PAIR = 2

Texts = tuple[str, ...]
"""One text, or both of a pair."""


def main(argv: Sequence[str]) -> int:
    """Run the command; a closed pipe or Ctrl-C ends it without a word."""
    arguments = _arguments(argv)
    leave_out_absent_tpu()
    try:
        with sigterm_as_ctrl_c():
            _predict(arguments)
    except BrokenPipeError:
        # What is still in stdout's buffer would be written, and fail, at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as error:
        return 128 + signal_of(error)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="python -m finetune.predict", description=__doc__)
    parser.add_argument("--model", help="a fine-tuning run's workdir, a model's folder, or a hub id")
    parser.add_argument("texts", nargs="*", help="texts to label, in place of a file's")
    parser.add_argument(
        "--file",
        "--text",
        dest="text",
        action=_File,
        help="the file to label; - is stdin, and the default without texts",
    )
    parser.set_defaults(flag="--file")
    parser.add_argument("--out", default=STDIN, help="the file to write; - (the default) is stdout")
    parser.add_argument(
        "--text_column",
        default="",
        help="the column that holds the text: --file is a csv, tsv, json or jsonl file",
    )
    parser.add_argument("--text_pair_column", default="", help="that of the second text, for pairs")
    parser.add_argument(
        "--inference",
        default="jax",
        choices=("jax", "onnx"),
        help="onnx runs the model's model.onnx, which is made where there is none",
    )
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument(
        "--max_length",
        type=int,
        default=0,
        help="cut texts to so many tokens; 0 (the default) is the model's own: that of its fine-tuning, if known",
    )
    parser.add_argument(
        "--compilation_cache",
        default=FinetuneConfig.compilation_cache,
        help="folder of compiled programs, shared with runs; empty for none",
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
    """Keeps a file, and by which of its flags it was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.text, namespace.flag = values, option_string


def _predict(arguments: argparse.Namespace) -> None:
    if arguments.compilation_cache:
        cache = str(epath.Path(arguments.compilation_cache).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    model = find_model(arguments.model, inference=arguments.inference, max_length=arguments.max_length)
    encoder = encoder_of(model)
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
                header = (*columns(model.names), "text", "text_pair")
                write(line(header[: len(header) - PAIR + len(part[0])]))
                rows = min(
                    arguments.batch, 1 << (len(part) - 1).bit_length()
                )  # few lines need no large batch
                logits = logits_of(model, inference=arguments.inference, batch=rows)
            found = logits(encoder(_examples(part)))
            if not np.isfinite(found).all():
                raise UserError(
                    f"--model={model.given} gives logits that are no numbers; its training has diverged"
                )
            write("".join(line((*answer, *each)) for answer, each in zip(said(model.names, found), part)))


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
    """The texts of a file or of stdin ('-'): all of them single, or all of them pairs.

    Which of the two is known of a model that this project fine-tuned; for others it is the first line that has any text
    that says it.

    Args:
      path: the file.
      model: that will be asked.
      text_column: of a table, the column to read; '' reads lines.
      text_pair_column: of a table, that of the second text.
      flag: what gives the path, for messages.

    Raises:
      UserError: from the first or a later step: what is wrong with the file, and in which line.
    """
    table = path != STDIN and suffixes(path)[0] in FORMATS
    if text_column and not table:
        raise UserError(
            f"--text_column={text_column} is of a table, but {flag}={path} is none of {', '.join(FORMATS)}"
        )
    if text_pair_column and not text_column:
        raise UserError("--text_pair_column is the second text's; set --text_column to the first's")
    if not text_column:
        if table and suffixes(path)[0] != ".tsv":
            raise UserError(f"{flag}={path} is a table; set --text_column to the column that holds the text")
        return _lines("stdin" if path == STDIN else path, _raw_lines(path), model.facts.texts)
    wanted = {text_column: "--text_column"} | (
        {text_pair_column: "--text_pair_column"} if text_pair_column else {}
    )
    if model.facts.texts not in (0, len(wanted)):
        right = "pairs; name their second text" if model.facts.texts == PAIR else "single texts; unset"
        raise UserError(f"--model={model.given} was fine-tuned on {right}: --text_pair_column")
    return _table_rows(path, wanted)


def _lines(place: str, lines: Iterable[bytes], texts: int) -> Iterator[Texts]:
    """Lines, of so many texts each; 0 is as many as the first has that is not empty."""
    empty = 0
    for number, raw in enumerate(lines, 1):
        try:
            found = tuple(decode(raw).rstrip("\r\n").split("\t"))
        except FlawError as flaw:
            raise UserError(f"{place} line {number}: {flaw}; save the text as UTF-8") from None
        if found == ("",):
            empty += 1
            continue
        wanted = texts or min(len(found), PAIR)
        if len(found) != wanted:
            due = "two texts with a tab between them" if wanted == PAIR else "one text without tabs"
            raise UserError(
                f"{place} line {number}: {len(found)} columns where there should be {due}; mend the line"
            )
        texts = wanted
        yield from itertools.repeat(("",) * texts, empty)
        empty = 0
        yield found
    yield from itertools.repeat(("",) * max(texts, 1), empty)


def _raw_lines(path: str) -> Iterator[bytes]:
    if path == STDIN:
        if sys.stdin.isatty():
            print("reading lines from the terminal; Ctrl-D ends them", file=sys.stderr)
        yield from stdin_lines()
        return
    try:
        yield from read_lines(path)
    except FlawError as flaw:
        raise UserError(f"{path}: {flaw}") from None


def _table_rows(path: str, wanted: dict[str, str]) -> Iterator[Texts]:
    kind = suffixes(path)[0]
    rows = (
        json_rows(path) if kind.startswith(".json") else delimited_rows(path, wanted, quoted=kind == ".csv")
    )
    for row in rows:
        try:
            yield tuple(text_of(row.fields, name, setting) for name, setting in wanted.items())
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None


@contextlib.contextmanager
def _writer(out: str) -> Iterator[Callable[[str], None]]:
    """What writes lines: to stdout as they come, to a file so that it is there whole or not at all."""
    if out == STDIN:

        def to_stdout(text: str) -> None:
            sys.stdout.buffer.write(text.encode())
            sys.stdout.buffer.flush()

        yield to_stdout
        return
    path = epath.Path(out).expanduser()
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; name a file")
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        file = unfinished.open("wb")
    except Exception as error:  # every file system has errors of its own
        raise UserError(f"--out={out} cannot be written: {error}") from error
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

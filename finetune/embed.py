"""Write a vector for each text: `python -m finetune.embed --model=MODEL --text=FILE --out=vectors.npy`.

FILE has a text a line (plain, .gz or .zst; - is stdin), or is a table with --text_column: csv, tsv, json, jsonl or
parquet. The output is float32 [n, D], a row for each text in their order, for numpy.load (mmap_mode="r" too). An empty
line is an empty text. The model is a fine-tuning run with kind=embedding, a folder of sentence-transformers, or any
encoder: a run of pretraining, a model's folder, a hub id. Vectors have norm 1, unless a folder of sentence-transformers
says otherwise.
"""

import argparse
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from base import terminal
from base.command_line import run
from base.errors import UserError
from base.home import cache_folder
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from base.plain_arguments import Arguments
from data.labelled.examples import Examples
from data.labelled.own_sources import rows_of_file
from data.labelled.tables import FORMATS
from data.sources.documents import FlawError, decode, text_of
from data.sources.paths import suffixes
from finetune.classifier.embedder import AUTO, load_embedder
from finetune.classifier.finetuned_model import naming_flags
from finetune.classifier.heads import POOLINGS
from finetune.classifier.inference import JaxModel, row_lengths
from finetune.config import FinetuneConfig
from finetune.job import sources
from finetune.population.state import population_mesh
from finetune.predict_words import STDIN, raw_lines
from finetune.texts.text_encoding import TextEncoder
from pretrain.config import MeshConfig
from pretrain.devices.platforms import leave_out_absent_tpu
from tokenizer import load as tokenizers

BATCHES_READ = 128
"""Number of batches that are read at a time. Texts of similar length share a batch."""
SUFFIX = ".npy"


class Vectors:
    """A model as a function of texts: their vectors."""

    def __init__(self, model: str, *, pooling: str = AUTO, max_length: int = 0, batch: int = 64):
        """Load the model.

        Args:
          model: as --model names it.
          pooling: mean or cls; auto is what a folder of sentence-transformers says, else mean.
          max_length: tokens that texts are cut to; 0 is what that folder says, else the model's limit.
          batch: rows of a batch.

        Raises:
          UserError: no such model, or a length that it does not take.
        """
        with naming_flags():
            model_source, tokenizer_source = sources(model)
            start, found = load_embedder(model_source, pooling=pooling)
            room = start.classifier.encoder.config.max_length
            if not 0 <= max_length <= room:
                raise UserError(
                    f"--max_length={max_length} is no length that the model takes; set it to {room} or less"
                )
            length = max_length or min(found.max_length or room, room)
            tokenizer = tokenizers.load(tokenizer_source)
            rows = start.classifier.encoder.config.vocab_size
            if tokenizer.vocab_size > rows:
                raise UserError(
                    f"--model={model}: its tokenizer has {tokenizer.vocab_size} tokens, its model embeddings for "
                    f"{rows}; they do not belong together"
                )
            self._encoder = TextEncoder(tokenizer, max_length=length)
        self.width = start.classifier.encoder.config.hidden_size
        self._prompt, self._name = found.prompt, model
        mesh = population_mesh(MeshConfig(), 1)
        self._model = JaxModel(start.classifier, start.params, mesh, lengths=row_lengths(length), batch=batch)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """The vectors of texts, n > 0, float32.

        Raises:
          UserError: the model has diverged.
        """
        given = [self._prompt + text for text in texts] if self._prompt else list(texts)
        numbers: list[int | str] = list(range(len(given)))
        found = self._model(self._encoder(Examples(given, None, None, numbers, "", official=False)))
        if not np.isfinite(found).all():
            raise UserError(
                f"--model={self._name} gives vectors that are no numbers; its training has diverged"
            )
        return found


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    leave_out_absent_tpu()
    arguments = _arguments(argv)
    if cache := cache_folder(arguments.compilation_cache):
        jax.config.update("jax_compilation_cache_dir", cache)
    try:
        with sigterm_as_ctrl_c():
            out = _place(arguments.out)
            texts = read_texts(arguments.text, arguments.text_column)
            first = list(
                itertools.islice(texts, 1)
            )  # a mistake of the input comes before the model is loaded
            if not first:
                raise UserError(f"--text={arguments.text}: there are no texts")
            model = Vectors(
                arguments.model,
                pooling=arguments.pooling,
                max_length=arguments.max_length,
                batch=arguments.batch,
            )
            texts, count = itertools.chain(first, texts), 0
            with written_rows(out, model.width) as write:
                while part := list(itertools.islice(texts, BATCHES_READ * arguments.batch)):
                    write(model(part))
                    count += len(part)
    except KeyboardInterrupt as error:
        return 128 + signal_of(error)
    terminal.say(f"{count} vectors of {model.width} numbers: {out}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="python -m finetune.embed", description=__doc__)
    parser.add_argument("--model", help="a run's workdir, a model's folder, or a hub id")
    parser.add_argument("--text", default=STDIN, help="the file with the texts; - (the default) is stdin")
    parser.add_argument("--text_column", default="", help="the column with the text, if --text is a table")
    parser.add_argument(
        "--out", help="the file to write, .npy; an earlier one is replaced, and its folder is made"
    )
    parser.add_argument(
        "--pooling",
        default=AUTO,
        choices=(AUTO, *POOLINGS),
        help="how the hidden states of tokens become a vector; auto (the default): as a sentence-transformers folder "
        "says, else their mean",
    )
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument(
        "--max_length",
        type=int,
        default=0,
        help="most tokens of a text; longer texts are cut. 0 (the default) takes the limit of a sentence-transformers "
        "folder, else the model's limit",
    )
    parser.add_argument(
        "--compilation_cache",
        default=FinetuneConfig.compilation_cache,
        help="folder of compiled programs, which runs share; empty for none",
    )
    arguments = parser.read(argv)
    if not arguments.model:
        raise UserError("no --model given: a run's workdir, a model's folder, or a hub id")
    if not arguments.out:
        raise UserError("no --out given: the .npy file to write the vectors to")
    if arguments.batch < 1:
        raise UserError(f"--batch={arguments.batch} should be 1 or more")
    return arguments


def _place(out: str) -> epath.Path:
    """The file of the vectors, which is on a file system."""
    if "://" in out:
        raise UserError(f"--out={out} should be a local file; copy it to a bucket afterwards")
    if not out.endswith(SUFFIX):
        raise UserError(f"--out={out} should end in {SUFFIX}")
    path = place_of(out, "--out")
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; name a file")
    return path


def read_texts(path: str, column: str = "") -> Iterator[str]:
    """Yield the texts of a file, or of stdin ('-').

    Args:
      path: the file.
      column: the column to read from a table; '' reads lines.

    Raises:
      UserError: the file or one of its lines is wrong. The error may come at a later text.
    """
    table = path != STDIN and suffixes(path)[0] in FORMATS
    if column and not table:
        raise UserError(
            f"--text_column={column} needs a table, but --text={path} is none of {', '.join(FORMATS)}"
        )
    if table and not column:
        raise UserError(f"--text={path} is a table; set --text_column to the column that holds the text")
    return _column(path, column) if table else _lines(path)


def _lines(path: str) -> Iterator[str]:
    place = "stdin" if path == STDIN else path
    for number, raw in enumerate(raw_lines(path), 1):
        try:
            yield decode(raw).rstrip("\r\n")
        except FlawError as flaw:
            raise UserError(f"{place} line {number}: {flaw}; save the text as UTF-8") from None


def _column(path: str, column: str) -> Iterator[str]:
    for row in rows_of_file(path, {column: "--text_column"}):
        try:
            yield text_of(row.fields, column, "--text_column")
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None


@contextlib.contextmanager
def written_rows(path: epath.Path, width: int) -> Iterator[Any]:
    """Make the function that writes rows of float32 [n, width] to a .npy file, which appears only when it is complete.

    The number of rows need not be known before: numpy's header has room for a longer one.

    Raises:
      UserError: the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    count = 0
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        with Path(unfinished).open("wb") as file:
            start = _header(file, 0, width)

            def write(rows: Float[np.ndarray, "n D"]) -> None:
                nonlocal count
                file.write(np.ascontiguousarray(rows, "<f4").tobytes())
                count += len(rows)

            yield write
            file.seek(0)
            assert _header(file, count, width) == start
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"--out={path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(NotADirectoryError):
            unfinished.unlink(missing_ok=True)


def _header(file: IO[bytes], count: int, width: int) -> int:
    """Write the header of a .npy file; returns the place after it."""
    described = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, described)
    return file.tell()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)

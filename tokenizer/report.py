"""`python -m tokenizer.report --tokenizer=DIR --files=GLOB`: how well tokenizers fit texts.

Fertility is the number of tokens a word (words are separated by white space). A tokenizer that fits a language has a
low fertility, many bytes a token, and few tokens that no text uses.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from base import terminal
from base.command_line import run
from base.errors import UserError
from base.plain_arguments import Arguments
from base.storage import write_out
from data.config import SourceConfig
from data.sources import open_source
from tokenizer import tokenizer_files
from tokenizer.load import Loaded, from_files, load

LONGEST = 10
CHARACTERS = 1 << 20
"""Characters in one call of a tokenizer."""


@dataclass(frozen=True)
class Measured:
    """A tokenizer's work on some texts."""

    words: int
    bytes: int
    tokens: int
    unused: int
    """Tokens of the vocabulary that no text has, without special ones."""
    longest: tuple[str, ...]
    """The longest tokens that the texts have."""

    @property
    def fertility(self) -> float:
        """Tokens a word."""
        return self.tokens / self.words if self.words else 0.0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of UTF-8 a token."""
        return self.bytes / self.tokens if self.tokens else 0.0


def measure(tokenizer: Loaded, texts: Iterable[str]) -> Measured:
    """Tokenize the texts and count."""
    return _measured(tokenizer, *_counted(tokenizer, texts))


def _counted(tokenizer: Loaded, texts: Iterable[str]) -> tuple[int, int, np.ndarray]:
    """Numbers of words and bytes, and of each token [V]."""
    words = size = 0
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for batch in _batches(texts):
        for text, ids in zip(batch, tokenizer.encode(batch), strict=True):
            words += len(text.split())
            size += len(text.encode("utf-8", "surrogatepass"))
            counts += np.bincount(ids, minlength=len(counts))
    return words, size, counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _measured(tokenizer: Loaded, words: int, size: int, counts: np.ndarray) -> Measured:
    special = np.zeros(len(counts), bool)
    special[list(tokenizer.special_ids)] = True
    used = np.flatnonzero((counts > 0) & ~special)
    spelled = sorted(
        {tokenizer.decode([token]) for token in used.tolist()}, key=lambda text: (-len(text), text)
    )
    unused = int(((counts == 0) & ~special).sum())
    return Measured(words, size, int(counts.sum()), unused, tuple(spelled[:LONGEST]))


def with_vocabulary(tokenizer: Loaded, size: int) -> Loaded:
    """The same byte-level BPE tokenizer with its first merges alone: what training to this size would have made.

    Raises:
      UserError: it is not BPE.
    """
    files = dict(tokenizer.files)
    content = json.loads(files[tokenizer_files.TOKENIZER])
    model = content["model"]
    if model.get("type") != "BPE":
        raise UserError(f"--vocab_sizes compares BPE tokenizers alone; this one is {model.get('type')}")
    left_out = len(model["vocab"]) - size
    merges = model["merges"][: len(model["merges"]) - left_out]
    model["merges"] = merges
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    files[tokenizer_files.TOKENIZER] = json.dumps(content).encode()
    return from_files(files, f"with {size} tokens")


@contextlib.contextmanager
def _flags_named() -> Iterator[None]:
    """Have errors of the source name this command's flags in place of fields of `--files`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--files.path", "--files").replace("--files.", "--")) from error


def main(argv: Sequence[str]) -> int:
    """Measure, print a table, and write the report."""
    values = _arguments().read(argv)
    if not values.tokenizer:
        raise UserError("no --tokenizer given: a folder, a tokenizer.json or a hub id")
    if not values.files:
        raise UserError("no --files given: paths or globs of text, comma-separated")
    texts_of = SourceConfig(
        source="files", path=values.files, txt_documents=values.txt_documents, text_field=values.text_field
    )
    with _flags_named():
        source = open_source(texts_of, "--files")
    first = load(values.tokenizer)
    tokenizers = [(values.tokenizer, first)]
    tokenizers += [(name, load(name)) for name in values.against.split(",") if name]
    sizes = _sizes(values.vocab_sizes, first)
    tokenizers += [(f"{values.tokenizer}, {size} tokens", with_vocabulary(first, size)) for size in sizes]
    rows = []
    for name, tokenizer in tokenizers:
        parts = []
        for shard in range(len(source.shards)):
            texts = (record.text for record in source.read(shard) if not record.dropped)
            with _flags_named():
                parts.append(_counted(tokenizer, texts))
        files = [_measured(tokenizer, *part) for part in parts]
        total = _measured(tokenizer, *(sum(each) for each in zip(*parts)))  # type: ignore[arg-type]
        rows.append((name, tokenizer.vocab_size, total, files))
    terminal.console().print(_table(rows, source.shards))
    terminal.say(f"longest tokens of {values.tokenizer}: {', '.join(map(repr, rows[0][2].longest))}")
    if values.out:
        report = {"tokenizers": [_as_dict(row, source.shards) for row in rows]}
        write_out(values.out, json.dumps(report, indent=1, ensure_ascii=False) + "\n", "--out")
    return 0


Row = tuple[str, int, Measured, list[Measured]]


def _sizes(text: str, tokenizer: Loaded) -> list[int]:
    """The sizes of --vocab_sizes."""
    least = 256 + len(tokenizer.special_ids)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and least <= int(part) <= tokenizer.vocab_size for part in parts):
        raise UserError(f"--vocab_sizes={text} should be numbers between {least} and {tokenizer.vocab_size}")
    return [int(part) for part in parts]


def _table(rows: Sequence[Row], shards: Sequence[str]) -> Table:
    shown = Table("tokenizer", "vocabulary", "text", "fertility", "bytes a token", "unused tokens")
    for name, size, total, files in rows:
        parts = [("all", total), *(zip(shards, files) if len(shards) > 1 else ())]
        for number, (text, measured) in enumerate(parts):
            head = (name, f"{size:,}") if not number else ("", "")
            fit = f"{measured.fertility:.3f}", f"{measured.bytes_per_token:.3f}"
            shown.add_row(*head, text, *fit, f"{measured.unused / size:.1%}")
    return shown


def _as_dict(row: Row, shards: Sequence[str]) -> dict[str, Any]:
    def facts(measured: Measured) -> dict[str, Any]:
        return {
            **asdict(measured),
            "fertility": measured.fertility,
            "bytes_per_token": measured.bytes_per_token,
        }

    name, size, total, files = row
    return {
        "name": name,
        "vocabulary": size,
        **facts(total),
        "files": [{"name": shard, **facts(file)} for shard, file in zip(shards, files)],
    }


def _arguments() -> Arguments:
    parser = Arguments(prog="python -m tokenizer.report", description="How well tokenizers fit texts.")
    parser.add_argument("--tokenizer", default="", help="a folder, a tokenizer.json or a hub id")
    parser.add_argument("--against", default="", help="other tokenizers, comma-separated")
    parser.add_argument(
        "--files", default="", help="texts: paths or globs, comma-separated; a row for each file"
    )
    parser.add_argument(
        "--txt_documents", default="lines", choices=("lines", "blank_line"), help="documents of a .txt file"
    )
    parser.add_argument("--text_field", default="text", help="the field of a .jsonl file with the text")
    parser.add_argument(
        "--vocab_sizes", default="", help="smaller sizes of the vocabulary to compare, such as 16000,32000"
    )
    parser.add_argument("--out", default="", help="a file for the report as JSON")
    return parser


if __name__ == "__main__":
    run(main)

"""Removal of documents that share a long sequence of words with an evaluation set."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from base.errors import UserError
from data.prepare.config import OverlapConfig
from data.prepare.words import compared_words, hashes, sequences
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, decode
from data.sources.paths import find_files


class Overlap:
    """Drops documents with a sequence of `ngram` words that an evaluation text has too."""

    def __init__(self, config: OverlapConfig):
        """Read the evaluation's files.

        Raises:
          UserError: a file cannot be found or read, or no text is long enough.
        """
        self._length = config.ngram
        found = [
            sequences(hashes(compared_words(text)), config.ngram)
            for file in find_files(config.files, "config.prepare.overlap.files")
            for text in _texts(file.path)
        ]
        self._known = np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)
        if not len(self._known):
            raise UserError(
                f"config.prepare.overlap.files={config.files!r} has no text of {config.ngram} words or more; lower "
                "config.prepare.overlap.ngram or name other files"
            )

    def __call__(self, text: str) -> tuple[str, str]:
        """See `data.prepare.rules.Rule`."""
        codes = sequences(hashes(compared_words(text)), self._length)
        places = np.minimum(np.searchsorted(self._known, codes), len(self._known) - 1)
        return ("", "overlap") if (self._known[places] == codes).any() else (text, "")


def _texts(path: str) -> Iterator[str]:
    """The texts of an evaluation file: the strings of each JSON object, or each line."""
    number = 0
    try:
        for line in read_lines(path):
            number += 1
            text = decode(line)
            if ".jsonl" not in path:
                yield text
            elif text.strip():
                yield from _strings(json.loads(text))
    except FlawError as error:
        place = f"line {number}" if error.reason == "invalid UTF-8" else f"after line {number}"
        raise UserError(f"config.prepare.overlap.files: {path} {place}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"config.prepare.overlap.files: {path} line {number}: {' '.join(str(error).split())}"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)

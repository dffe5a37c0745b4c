"""Answers as lines of text: tab-separated for texts; for sentences a word a line, or a JSON object a sentence."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int


def line(fields: Sequence[str]) -> str:
    """One tab-separated line. A tab or a line break within a field is replaced by a space."""
    return "\t".join(" ".join(field.splitlines()).replace("\t", " ") for field in fields) + "\n"


def sentence_lines(
    sentences: Sequence[Sequence[str]],
    names: Sequence[str],
    told: Int[np.ndarray, "n"],
    *,
    json_lines: bool = False,
) -> Iterator[str]:
    """Yield each sentence in columns, a word and its class a line and then an empty line; or as a line of JSON.

    Args:
      sentences: the words of each sentence, n in all.
      names: the classes by id.
      told: the predicted class of each word, sentence after sentence.
      json_lines: whether to write objects with `tokens` and `tags`.
    """
    start = 0
    for words in sentences:
        tags = [names[index] for index in told[start : start + len(words)]]
        start += len(words)
        if json_lines:
            yield json.dumps({"tokens": list(words), "tags": tags}, ensure_ascii=False) + "\n"
        else:
            yield "".join(line(pair) for pair in zip(words, tags, strict=True)) + "\n"

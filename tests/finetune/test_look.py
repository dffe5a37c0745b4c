"""The look at the training examples before a run: short lines with tokens, segments, labels and counts."""

import numpy as np

from data.labelled.tasks import CLASSES, SCORES, TOKENS
from finetune.texts.encoding import Encoded, Words
from finetune.texts.look import COLUMNS, look

SPELLINGS = ["<pad>", "<s>", "</s>", "cat", "\x1b[31m", "中" * 60]


def encoded(labels: np.ndarray, words: Words | None = None) -> Encoded:
    tokens = np.array([[1, 3, 2, 3, 2], [1, 4, 2, 0, 0], [1, 5, 5, 5, 2]], np.int32)
    types = np.array([[0, 0, 0, 1, 1], [0] * 5, [0] * 5], np.int8)
    return Encoded(tokens, types, np.array([5, 3, 5]), labels, 0, 1, words)


def seen(each: Encoded, kind: str, names: tuple[str, ...]) -> list[str]:
    lines = look(each, kind, names, SPELLINGS.__getitem__, 5)
    assert all(len(line) <= COLUMNS and line.isprintable() for line in lines)
    return lines


def test_texts_have_tokens_segments_and_a_label():
    assert seen(encoded(np.array([1, 0, 1], np.int32)), CLASSES, ("no", "yes")) == [
        "example 1: <s> cat </s> cat </s>",
        "  segments: 0 in 3 tokens, 1 in 2",
        "  label: yes",
        "example 2: <s> ?[31m </s>",
        "  label: no",
        "classes, 2: yes 2 (66.7%), no 1 (33.3%)",
        "tokens of an example: 3 to 5; half have 5 or fewer, 90% 5 or fewer",
        "examples are cut: 1 of 3, at config.max_length=5",
    ]
    assert "scores: 0 to 2.5, mean 1.17" in seen(encoded(np.array([1, 0, 2.5], np.float32)), SCORES, ())


def test_words_have_their_class_at_their_first_piece():
    labels = np.array([[-1, 1, -1, 0, -1], [-1, 0, -1, -1, -1], [-1, 0, -1, -1, -1]], np.int32)
    words = Words(
        np.array([0, 0, 1, 2]), np.array([1, 3, 1, 1]), np.array([0, 0, 1, 1]), np.array([1, 0, 0, 0])
    )
    lines = seen(encoded(labels, words), TOKENS, ("O", "B-A"))
    assert lines[0] == "example 1: <s> cat/B-A </s> cat/O </s>"
    assert lines[-1] == "sentences become several rows: 1 of 2, at config.max_length=5"
    assert "classes, 2: O 3 (75.0%), B-A 1 (25.0%)" in lines

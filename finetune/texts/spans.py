"""From logits of tokens to answers: the best span of each window of a context, and the best window of each question.

A candidate is any span of at most `longest` tokens in the context. Its score is the logit of its first token as a start
plus that of its last token as an end. Transformers' run_qa does the same with the 20 best starts and ends of a window.
The score of "no answer" is that of the first token, in the window where it is lowest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data.labelled.questions import Reference

BEGIN, END, SCORE, NO_ANSWER, LOSS, WINDOWS = range(6)
"""Columns of an answer: characters of the context, [0, 0) for no answer; the scores of the span and of no answer; the
sum of the losses of the windows, and their number. A window has all but the last."""
NONE = -1e9
"""The score of a window without a candidate."""


@dataclass(frozen=True)
class Spans:
    """The windows of contexts, R in number, and how answers are chosen."""

    questions: Int[np.ndarray, " R"]
    """The question of each window, ascending."""
    offsets: Int[np.ndarray, "R S 2"]
    """The characters of the context that each token stands for, without white space around; -1 for other tokens."""
    references: np.ndarray
    """The context and the answers of each question, object [n]."""
    longest: int
    """Most tokens of an answer."""
    no_answer: float | None
    """A question has no answer if the score of no answer is higher than that of the best span by more than this. None:
    each question has an answer."""

    @property
    def labels(self) -> np.ndarray | None:
        """The references; None if the answers of all questions are hidden."""
        return self.references if any(each.answers is not None for each in self.references) else None


def best_spans(
    logits: Float[np.ndarray, "... B S 2"],
    offsets: Int[np.ndarray, "B T 2"],
    lengths: Int[np.ndarray, "B"],
    longest: int,
    targets: Int[np.ndarray, "B 2"] | None = None,
) -> Float[np.ndarray, "... B 5"]:
    """The best span of each window, and the loss of the window.

    Args:
      logits: of each token as a start, and as an end.
      offsets: those of `Spans`; S and T may differ by padding.
      lengths: tokens of each window.
      longest: most tokens of a span.
      targets: the right start and end, as places of tokens; None gives no loss.
    """
    size = min(logits.shape[-2], offsets.shape[1])
    logits, offsets = logits[..., :size, :], offsets[:, :size]
    inside = offsets[..., 0] >= 0
    starts, ends = (np.where(inside, logits[..., side], np.float32(-np.inf)) for side in (0, 1))
    best, last = np.full(starts.shape, -np.inf, np.float32), np.zeros(starts.shape, np.int64)
    for further in range(min(longest, size)):
        scores = starts[..., : size - further] + ends[..., further:]
        better = scores > best[..., : size - further]
        best[..., : size - further][better] = scores[better]
        last[..., : size - further][better] = further
    first = best.argmax(axis=-1)[..., None]
    score = np.take_along_axis(best, first, -1)[..., 0]
    end = first + np.take_along_axis(last, first, -1)
    characters = [
        np.take_along_axis(np.broadcast_to(offsets[..., side], starts.shape), place, -1)[..., 0]
        for side, place in enumerate((first, end))
    ]
    there = score > -np.inf
    columns = [np.where(there, each, 0) for each in characters]
    # A logit that is no number is one of the window's, so that an evaluation sees it.
    score = np.where(there, score, NONE) + 0 * logits.sum(axis=(-1, -2))
    loss = np.zeros_like(score) if targets is None else _loss(logits, lengths, targets)
    return np.stack([*columns, score, logits[..., 0, :].sum(axis=-1), loss], -1)


def _loss(logits: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The mean of the cross-entropies of start and end, in nats."""
    known = np.arange(logits.shape[-2]) < lengths[:, None]
    logits = np.where(known[..., None], logits.astype(np.float64), -np.inf)
    highest = logits.max(axis=-2, keepdims=True)
    normaliser = np.log(np.exp(logits - highest).sum(axis=-2)) + highest[..., 0, :]
    right = np.take_along_axis(logits, np.broadcast_to(targets[:, None], highest.shape), -2)[..., 0, :]
    losses: np.ndarray = (normaliser - right).mean(axis=-1)
    return losses


def best_windows(found: Float[np.ndarray, "... R 5"], spans: Spans) -> Float[np.ndarray, "... n 6"]:
    """The answer of each question, out of the best spans of its windows."""
    windows = len(spans.questions)
    starts = np.searchsorted(spans.questions, np.arange(len(spans.references)))
    score = found[..., SCORE]
    highest = np.maximum.reduceat(score, starts, axis=-1)[..., spans.questions]
    candidates = np.where((score == highest) | np.isnan(score), np.arange(windows), windows - 1)
    chosen = np.minimum.reduceat(candidates, starts, axis=-1)
    answers = np.take_along_axis(found, chosen[..., None], -2)
    none = np.minimum.reduceat(found[..., NO_ANSWER], starts, axis=-1)
    loss = np.add.reduceat(found[..., LOSS], starts, axis=-1)
    counts = np.broadcast_to(np.diff([*starts, windows]), loss.shape)
    whole = np.stack([answers[..., BEGIN], answers[..., END], answers[..., SCORE], none, loss, counts], -1)
    if spans.no_answer is not None:
        lacks = none - whole[..., SCORE] > spans.no_answer
        whole[..., :SCORE] = np.where(lacks[..., None], 0, whole[..., :SCORE])
    return whole.astype(found.dtype)


def texts_of(found: Float[np.ndarray, "n C"], references: Sequence[Reference]) -> list[str]:
    """The answers in their contexts, as texts; '' for no answer."""
    spans = found[:, [BEGIN, END]].astype(np.int64).tolist()
    return [each.context[begin:end] for each, (begin, end) in zip(references, spans, strict=True)]


def right_answers(references: Sequence[Reference]) -> Float[np.ndarray, "n 6"]:
    """The first right answer of each question, in the columns of an answer."""
    found = np.zeros((len(references), WINDOWS + 1), np.float32)
    found[:, WINDOWS] = 1
    for row, reference in enumerate(references):
        for start, text in (reference.answers or ())[:1]:
            found[row, [BEGIN, END, SCORE]] = start, start + len(text), 1
    return found

"""Encode questions with their contexts: pairs, long contexts in windows that overlap, answers as places of tokens.

The rows are those of transformers' tokenizers with truncation of the context alone and a stride. The characters that a
token stands for are the tokenizer's, without white space around them: byte-level tokenizers count the blank before a
word to it or not. The characters of an answer become the first and the last token that have some of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Encoding, Tokenizer

from base.errors import UserError
from data.labelled.questions import Questions, Reference, as_labels
from finetune.texts.encoding import Encoded, without_special_tokens
from finetune.texts.spans import Spans
from tokenizer.load import Loaded, valid_unicode

AT_ONCE = 1000
"""Questions that are encoded at once."""
STRIDE_SHARE = 3
"""By default, windows share one part in so many of a row."""


@dataclass(frozen=True)
class Answering:
    """How answers are chosen."""

    stride: int = 0
    """Tokens of the context that a window has in common with the next; 0 is a third of max_length."""
    longest_answer: int = 30
    """Most tokens of an answer."""
    no_answer: float | None = None
    """See `finetune.texts.spans.Spans`."""


class QuestionEncoder:
    """An encoder of questions with contexts, for one tokenizer, model and length."""

    def __init__(
        self,
        tokenizer: Loaded,
        answering: Answering | None = None,
        *,
        max_length: int,
        token_types: int,
    ):
        """Make the encoder for one model.

        Args:
          tokenizer: the model's tokenizer.
          answering: how answers are chosen; None takes the defaults.
          max_length: most tokens of a row. A question has at most half of a row; what is longer is cut.
          token_types: number of token types of the model.

        Raises:
          UserError: the tokenizer adds no special tokens to a pair, or max_length has no room for a window.
        """
        answering = answering or Answering()
        self._tokenizer = Tokenizer.from_str(tokenizer.tokenizer.to_str())
        self._tokenizer.encode_special_tokens = tokenizer.tokenizer.encode_special_tokens
        self._tokenizer.no_padding()
        self._alone = Tokenizer.from_str(self._tokenizer.to_str())
        self._alone.encode_special_tokens = tokenizer.tokenizer.encode_special_tokens
        self._alone.no_truncation()
        self._types = token_types if tokenizer.token_types else 0
        self._pad = tokenizer.special.pad
        special = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        if not special:
            raise without_special_tokens("a pair of texts")
        room = max_length - special
        if room < 2:
            raise UserError(
                f"config.max_length={max_length} leaves no room for text: a pair has {special} special tokens"
            )
        self._longest_question = room // 2
        most = room - self._longest_question - 1
        if answering.stride > most:
            raise UserError(
                f"config.questions.stride={answering.stride} should be {most} or less with config.max_length="
                f"{max_length}: a question may take half of a row, and each window must go on from the last"
            )
        stride = answering.stride or min(max_length // STRIDE_SHARE, most)
        self._tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
        self.answering = replace(answering, stride=stride)

    def __call__(self, questions: Questions) -> Encoded:
        """Encode questions; `truncated` counts those whose contexts became several windows."""
        windows, several = list[_Window](), 0
        for start in range(0, len(questions), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            references = questions.references[part]
            encodings = self.encode(questions.questions[part], [each.context for each in references])
            characters = _Characters()
            for number, (encoding, reference) in enumerate(zip(encodings, references, strict=True), start):
                several += bool(encoding.overflowing)
                for each in (encoding, *encoding.overflowing):
                    windows.append(_Window(number, each, characters.of(reference), reference))
        lengths = np.array([len(window.ids) for window in windows], np.int64)
        shape = (len(windows), int(lengths.max()))
        tokens, token_types = np.full(shape, self._pad, np.int32), np.zeros(shape, np.int8)
        offsets, labels = np.full((*shape, 2), -1, np.int32), np.zeros((len(windows), 2), np.int32)
        for row, window in enumerate(windows):
            tokens[row, : lengths[row]], offsets[row, : lengths[row]] = window.ids, window.offsets
            labels[row] = window.target
            if self._types > 1:
                token_types[row, : lengths[row]] = window.types
        spans = Spans(
            np.array([window.question for window in windows], np.int64),
            offsets,
            as_labels(questions.references),
            self.answering.longest_answer,
            self.answering.no_answer,
        )
        return Encoded(
            tokens,
            token_types,
            lengths,
            None if spans.labels is None else labels,
            self._pad,
            several,
            spans=spans,
        )

    def encode(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Encoding]:
        """The tokenizer's encodings of pairs; the further windows of a context are the `overflowing` of its first."""
        given = [valid_unicode(question) for question in questions]
        pairs = list(zip(self._short(given), map(valid_unicode, contexts), strict=True))
        return list(self._tokenizer.encode_batch(pairs))

    def _short(self, questions: Sequence[str]) -> Iterator[str]:
        """The questions, cut to the tokens that a question may have."""
        alone = self._alone.encode_batch(list(questions), add_special_tokens=False)
        for question, encoding in zip(questions, alone, strict=True):
            kept = self._longest_question
            while len(encoding) > self._longest_question and kept:
                question = question[: encoding.offsets[kept - 1][1]]
                encoding = self._alone.encode(question, add_special_tokens=False)
                kept = min(kept, len(encoding)) - 1  # a word that is cut may have more pieces
            yield question


class _Characters:
    """For the characters of a context, the nearest ones that are no white space; kept for the last context."""

    def __init__(self) -> None:
        self._context: str | None = None

    def of(self, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
        """The first such character at or after each place, and the place after the last such one before it."""
        if self._context != reference.context:
            self._context = reference.context
            count = len(reference.context)
            solid = ~np.fromiter(map(str.isspace, reference.context), bool, count)
            places = np.arange(count)
            after = np.minimum.accumulate(np.where(solid, places, count)[::-1])[::-1]
            before = np.maximum.accumulate(np.where(solid, places + 1, 0))
            self._found = np.append(after, count), np.append(0, before)
        return self._found


class _Window:
    """A row: a question and a part of its context."""

    def __init__(
        self,
        question: int,
        encoding: Encoding,
        characters: tuple[np.ndarray, np.ndarray],
        reference: Reference,
    ):
        self.question, self.ids, self.types = question, encoding.ids, encoding.type_ids
        self.offsets = _of_context(encoding, characters)
        self.target = _target(self.offsets, characters, reference)


def _of_context(encoding: Encoding, characters: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The characters of the context that each token stands for [S, 2]; -1 for tokens that stand for none."""
    after, before = characters
    of_context = np.array([each == 1 for each in encoding.sequence_ids], bool)
    given = np.minimum(np.array(encoding.offsets, np.int64).reshape(-1, 2), len(after) - 1)
    begin, end = after[given[:, 0]], before[given[:, 1]]
    kept = of_context & (begin < end)
    return np.where(kept[:, None], np.stack([begin, end], -1), -1).astype(np.int32)


def _target(
    offsets: np.ndarray, characters: tuple[np.ndarray, np.ndarray], reference: Reference
) -> tuple[int, int]:
    """The first and the last token of the first answer; twice the first of the row, where the window lacks a part."""
    places = np.flatnonzero(offsets[:, 0] >= 0)
    if not reference.answers or not len(places):
        return 0, 0
    start, text = reference.answers[0]
    # Only a test set may have an answer outside its context.
    if start < 0 or start + len(text) >= len(characters[1]):
        return 0, 0
    begin, end = int(characters[0][start]), int(characters[1][start + len(text)])
    first, last = offsets[places[0]], offsets[places[-1]]
    within = places[(offsets[places, 1] > begin) & (offsets[places, 0] < end)]
    if first[0] > begin or last[1] < end or not len(within):
        return 0, 0
    return int(within[0]), int(within[-1])

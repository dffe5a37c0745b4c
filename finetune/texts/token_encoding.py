"""Encode sentences whose words have labels: words to pieces by their places in the text, long sentences in windows.

The words are joined by blanks and encoded as one text, so the pieces are those that the model has seen in pretraining,
whatever the tokenizer (a byte-level one without a blank before its first word too). A piece belongs to the word that
its first character is in. A word that gets no piece, such as an empty one, is given the unknown token. So each word has
a first piece, which tells its class.

A sentence that is too long becomes several rows, which overlap by a quarter. Each word is trained and predicted once,
in the row that has the most text around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer

from base.errors import UserError
from data.labelled.labels import UNLABELLED
from data.labelled.sentences import Sentences
from finetune.texts.encoding import Encoded, Words, without_special_tokens
from tokenizer.load import Loaded, valid_unicode

OVERLAP = 4
"""Rows of one sentence share one part in so many."""
BLANK = " "


@dataclass
class Pieces:
    """The pieces of one sentence."""

    ids: list[int]
    word: list[int]
    """The index of each piece's word; -1 of a piece that is only blank."""
    first: list[int]
    """The index of each word's first piece."""


class TokenEncoder:
    """An encoder of sentences, for one tokenizer, model and length."""

    def __init__(self, tokenizer: Loaded, *, max_length: int, pieces: str = "first"):
        """Make the encoder for one model.

        Args:
          tokenizer: the model's tokenizer.
          max_length: most tokens of a row, special tokens included.
          pieces: the pieces of a word that training gives its label: the first, or all.

        Raises:
          UserError: the tokenizer adds no special tokens, or max_length has no room for text.
        """
        self._tokenizer = Tokenizer.from_str(tokenizer.tokenizer.to_str())
        self._tokenizer.encode_special_tokens = tokenizer.tokenizer.encode_special_tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special_tokens = tokenizer.special
        self._pad = special_tokens.pad
        self._unknown = special_tokens.mask if special_tokens.unk is None else special_tokens.unk
        around = self._tokenizer.encode("a")
        text = [index for index, special in enumerate(around.special_tokens_mask) if not special]
        self._before, self._after = around.ids[: text[0]], around.ids[text[-1] + 1 :]
        special = len(self._before) + len(self._after)
        if not special:
            raise without_special_tokens("a text")
        self._room, self._all = max_length - special, pieces == "all"
        if self._room < 2:
            raise UserError(
                f"config.max_length={max_length} leaves no room for text: a text has {special} special tokens"
            )

    def __call__(self, sentences: Sentences) -> Encoded:
        """Encode sentences; `truncated` counts those that became several rows."""
        found = self.pieces(sentences.words)
        labels = sentences.labels
        starts = np.concatenate([[0], np.cumsum([len(words) for words in sentences.words])])
        ids: list[list[int]] = []
        targets: list[list[int]] = []
        rows: list[int] = []
        places: list[int] = []
        several = 0
        for number, each in enumerate(found):
            windows = window_starts(len(each.ids), self._room)
            several += len(windows) > 1
            owner = [_owner(place, windows, self._room, len(each.ids)) for place in each.first]
            rows += [len(ids) + window for window in owner]
            places += [
                len(self._before) + place - windows[window]
                for place, window in zip(each.first, owner, strict=True)
            ]
            for window, start in enumerate(windows):
                stop = min(start + self._room, len(each.ids))
                ids.append([*self._before, *each.ids[start:stop], *self._after])
                target = [UNLABELLED] * len(ids[-1])
                if labels is not None:
                    of_words = labels[starts[number] : starts[number + 1]]
                    for place in self._labelled(each, owner, window, range(start, stop)):
                        target[len(self._before) + place - start] = int(of_words[each.word[place]])
                targets.append(target)
        lengths = np.array([len(row) for row in ids], np.int64)
        tokens = _padded(ids, lengths, self._pad)
        words = Words(np.array(rows, np.int64), np.array(places, np.int64), sentences.sentence, labels)
        return Encoded(
            tokens,
            np.zeros(tokens.shape, np.int8),
            lengths,
            None if labels is None else _padded(targets, lengths, UNLABELLED),
            self._pad,
            several,
            words,
        )

    def _labelled(
        self, each: Pieces, owner: Sequence[int], window: int, places: Sequence[int]
    ) -> Iterator[int]:
        """The pieces of a row that have a label: those of words that belong to this row, the first or all."""
        for place in places:
            word = each.word[place]
            if word >= 0 and owner[word] == window and (self._all or each.first[word] == place):
                yield place

    def pieces(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """The pieces of each sentence, without special tokens around it."""
        given = [[valid_unicode(word) for word in words] for words in sentences]
        encodings = self._tokenizer.encode_batch(
            [BLANK.join(words) for words in given], add_special_tokens=False
        )
        return [self._aligned(words, encoding) for words, encoding in zip(given, encodings, strict=True)]

    def _aligned(self, words: Sequence[str], encoding: Encoding) -> Pieces:
        ends = np.cumsum([len(word) + 1 for word in words]) - 1  # of each word, where the blank after it is
        begins = np.array([0, *(ends[:-1] + 1)])
        blanks = set(ends.tolist())
        first = [-1] * len(words)
        word = []
        for index, (begin, end) in enumerate(encoding.offsets):
            while begin < end and begin in blanks:
                begin += 1
            if begin == end:
                word.append(-1)
                continue
            word.append(int(np.searchsorted(ends, begin, "right")))
            for each in range(word[-1], int(np.searchsorted(begins, end))):  # a piece may be of several words
                if first[each] < 0 and begins[each] < ends[each]:
                    first[each] = index
        found = Pieces(list(encoding.ids), word, first)
        for index in range(len(words)):
            if first[index] < 0:
                _insert(found, index, self._unknown)
        return found


def _insert(found: Pieces, word: int, token: int) -> None:
    """Give a word that has no piece a token of its own, before the pieces of the words after it."""
    later = [place for place in found.first[word + 1 :] if place >= 0]
    place = min(later, default=len(found.ids))
    found.ids.insert(place, token)
    found.word.insert(place, word)
    found.first[:] = [each + (each >= place) for each in found.first]
    found.first[word] = place


def window_starts(count: int, room: int) -> list[int]:
    """The first pieces of the rows that a sentence of `count` pieces becomes, each with at most `room` pieces."""
    if count <= room:
        return [0]
    step = max(room - room // OVERLAP, 1)
    return [*range(0, count - room, step), count - room]


def _owner(place: int, windows: Sequence[int], room: int, count: int) -> int:
    """The row that has the most text around a piece, on the side where it has less; the first of several."""

    def around(start: int) -> float:
        if not start <= place < start + room:
            return -1
        before = place - start if start else count
        after = start + room - 1 - place if start + room < count else count
        return min(before, after)

    return max(range(len(windows)), key=lambda window: (around(windows[window]), -window))


def _padded(rows: Sequence[Sequence[int]], lengths: np.ndarray, fill: int) -> np.ndarray:
    array = np.full((len(rows), int(lengths.max())), fill, np.int32)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array

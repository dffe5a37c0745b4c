"""Which documents share a row: the first that is left, and the longest of the next ones that fit."""

import bisect
from collections.abc import Callable
from typing import NamedTuple

from data.token_streams import Cursor

LOOK_AHEAD = 256
"""Number of documents, from the first unconsumed one, among which `documents` chooses to fill up a row."""


class Piece(NamedTuple):
    """Tokens start to stop (exclusive) of a document in the window."""

    document: int
    start: int
    stop: int


class DocumentPlanner:
    """Decides which pieces of documents share a row, from the lengths of a window's documents.

    The first unconsumed document gives its next piece. Whole documents from the look-ahead then fill the rest of the
    row, the longest that fits first. So at most one document, the first, is ever consumed in part.
    """

    def __init__(self, cursor: Cursor, size: int, length: Callable[[int], int], look_ahead: int = LOOK_AHEAD):
        """Plan rows for one window, and consume its documents from `cursor` on.

        Args:
          cursor: position in the window.
          size: number of documents in the window.
          length: function from a document's number to its number of tokens.
          look_ahead: number of documents to choose from; with 1 every piece has a row of its own.
        """
        self._cursor = cursor
        self._size = size
        self._length = length
        self._look_ahead = look_ahead
        self._entered = 0
        self._by_length: list[tuple[int, int]] = []  # (length, -document) in the look-ahead, sorted

    def whole_rows(self, seq_len: int, limit: int) -> Piece | None:
        """Consume the part of the next document that fills whole rows of `seq_len` tokens, at most `limit` rows.

        It equals a series of calls of `row` that give one piece each. None if the document fills no whole row.
        """
        if not self._at_document():
            return None
        cursor, width = self._cursor, seq_len - 2
        first, start, length = cursor.first, cursor.offset, self._length(cursor.first)
        stop = start + min((length - start) // width, limit) * width
        if stop == start:
            return None
        if stop < length:
            cursor.offset = stop
        else:
            cursor.take(first)  # it stays in the look-ahead, but is too long to be chosen from there
        return Piece(first, start, stop)

    def row(self, seq_len: int) -> list[Piece]:
        """Plan and consume the next row of `seq_len` tokens; empty if the window has no more tokens."""
        if not self._at_document():
            return []
        cursor = self._cursor
        first, start, length = cursor.first, cursor.offset, self._length(cursor.first)
        self._enter(min(first + self._look_ahead, self._size))
        self._discard(first, length)
        stop = min(length, start + seq_len - 2)
        if stop < length:
            cursor.offset = stop
        else:
            cursor.take(first)
        pieces, room = [Piece(first, start, stop)], seq_len - 2 - (stop - start)
        while (at := bisect.bisect_right(self._by_length, (room - 2, 1))) > 0:
            tokens, document = self._by_length.pop(at - 1)
            cursor.take(-document)
            pieces.append(Piece(-document, 0, tokens))
            room -= tokens + 2
        return pieces

    def _at_document(self) -> bool:
        """Skip documents that have no tokens left; return whether a document with tokens remains."""
        cursor = self._cursor
        while cursor.first < self._size and cursor.offset == self._length(cursor.first):
            cursor.take(cursor.first)
        return cursor.first < self._size

    def _enter(self, stop: int) -> None:
        for document in range(max(self._entered, self._cursor.first + 1), stop):
            fresh = document not in self._cursor.taken and document not in self._cursor.begun
            if fresh and (length := self._length(document)):
                bisect.insort(self._by_length, (length, -document))
        self._entered = max(self._entered, stop)

    def _discard(self, document: int, length: int) -> None:
        at = bisect.bisect_left(self._by_length, (length, -document))
        if at < len(self._by_length) and self._by_length[at] == (length, -document):
            del self._by_length[at]

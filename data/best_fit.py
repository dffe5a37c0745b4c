"""Best-fit packing: which documents share a row, from the lengths of all documents of a block.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling": a document that is longer than a row gives whole rows
and a tail. Tails and short documents are sorted by length, and each goes to the fullest row that has room for it
(best-fit decreasing).

A plan needs no state: without the documents of a row, the plan of all other rows is the same. So it is made again from
the documents that are left. Rows are made in the order of their first documents.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from data.document_planner import Piece
from data.token_streams import Cursor

BLOCK = 1024
"""Documents of a window, from a multiple of this number on, that are planned together."""


class BestFitPlanner:
    """Decides which pieces of documents share a row; see `data.document_planner.DocumentPlanner`."""

    def __init__(self, cursor: Cursor, size: int, length: Callable[[int], int], seq_len: int):
        """Plan rows of `seq_len` tokens for one window, and consume its documents from `cursor` on.

        Args:
          cursor: position in the window.
          size: number of documents in the window.
          length: function from a document's number to its number of tokens.
          seq_len: row length S, in tokens.
        """
        self._cursor = cursor
        self._size = size
        self._length = length
        self._width = seq_len - 2
        self._rows: deque[list[int]] = deque()  # documents that end in the same row

    def whole_rows(self, limit: int) -> Piece | None:
        """Consume whole rows of one of the next row's documents, at most `limit`; None if none is left of them."""
        cursor, row = self._cursor, self._next()
        for document in row:
            start, length = cursor.read(document), self._length(document)
            if rows := min((length - start) // self._width, limit):
                stop = start + rows * self._width
                if stop < length:
                    cursor.advance(document, stop)
                else:
                    cursor.take(document)
                    row.remove(document)
                return Piece(document, start, stop)
        return None

    def row(self) -> list[Piece]:
        """Consume the next row: the ends of its documents; empty if the window has no more tokens."""
        cursor, pieces = self._cursor, []
        if self._next():
            for document in self._rows.popleft():
                pieces.append(Piece(document, cursor.read(document), self._length(document)))
                cursor.take(document)
        return pieces

    def _next(self) -> list[int]:
        """The documents of the next row; empty at the window's end."""
        while self._rows and not self._rows[0]:
            self._rows.popleft()
        while not self._rows and self._cursor.first < self._size:
            self._plan()
        return self._rows[0] if self._rows else []

    def _plan(self) -> None:
        """Plan what is left of the block in which the first unconsumed document lies."""
        cursor = self._cursor
        stop = min((cursor.first // BLOCK + 1) * BLOCK, self._size)
        left = [document for document in range(cursor.first, stop) if not cursor.consumed(document)]
        tails = []
        for document in left:
            if rest := self._length(document) - cursor.read(document):
                tails.append((rest % self._width, document))
            else:
                cursor.take(document)
        self._rows.extend(best_fit(tails, self._width + 2))


def best_fit(tails: Iterable[tuple[int, int]], seq_len: int) -> list[list[int]]:
    """Share rows of `seq_len` tokens among documents: (tokens without two special ones, number of the document) each.

    A document of 0 tokens has a row for itself, which stands for no row.

    Returns:
      The documents of each row, ascending; rows in the order of their first documents.
    """
    rows: dict[int, list[int]] = {}  # by the document that was put in first
    rooms: list[tuple[int, int]] = []  # (room, first document), sorted
    for tokens, document in sorted(tails, key=lambda tail: (-tail[0], tail[1])):
        at = bisect.bisect_left(rooms, (tokens + 2, -1)) if tokens else len(rooms)
        room, first = rooms.pop(at) if at < len(rooms) else (seq_len, document)
        rows.setdefault(first, []).append(document)
        if tokens:
            bisect.insort(rooms, (room - tokens - 2, first))
    return sorted(sorted(row) for row in rows.values())


def rows_of_best_fit(lengths: Sequence[int], seq_len: int) -> int:
    """Number of rows of `seq_len` tokens of a window's documents, from their lengths in the window's order."""
    width, rows = seq_len - 2, 0
    for start in range(0, len(lengths), BLOCK):
        block = lengths[start : start + BLOCK]
        tails = [(length % width, number) for number, length in enumerate(block) if length % width]
        rows += sum(length // width for length in block) + len(best_fit(tails, seq_len))
    return rows

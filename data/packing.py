"""Packs documents into rows of S tokens, in three ways; no token is ever dropped or repeated.

full: documents are joined end to end, each with a separator at its end, and cut every S - 1 tokens (RoBERTa, section
4.2, FULL-SENTENCES). Every row starts with the class token.
documents: whole documents share a row. Each has its own class token and separator, and `segments` keep them apart.
The longest document that fits is added next (best-fit packing, Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"). With a window of 1, which keeps the files' order, the next document is added as long as it fits.
lines: one document in a row.

A document that is too long for a row is cut into pieces. An epoch's last row is padded.
"""

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32

from base.errors import UserError
from data.special_tokens import SpecialTokens
from data.token_streams import Cursor, TokenizedWindow, TokenStream

LOOK_AHEAD = 256
"""Number of documents, from the first unconsumed one, among which `documents` chooses to fill up a row."""


@dataclass(frozen=True)
class Rows:
    """Rows under construction; they start as padding. B rows of S tokens."""

    tokens: Int32[np.ndarray, "B S"]
    segments: Int32[np.ndarray, "B S"]
    """0: padding; 1, 2, ...: documents of a row; each document attends only to itself."""
    positions: Int32[np.ndarray, "B S"]
    """Position in the document, or in the row if documents are joined."""

    @classmethod
    def empty(cls, rows: int, seq_len: int, special: SpecialTokens) -> "Rows":
        """`rows` rows of padding, each of `seq_len` tokens."""
        shape = (rows, seq_len)
        return cls(
            np.full(shape, special.pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        )

    def part(self, rows: slice) -> "Rows":
        """A view of some of the rows."""
        return Rows(self.tokens[rows], self.segments[rows], self.positions[rows])

    def __len__(self) -> int:
        return len(self.tokens)

    def as_dict(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {"tokens": self.tokens, "segments": self.segments, "positions": self.positions}


class Packer(Protocol):
    """Makes rows from one stream."""

    def __call__(self, stream: TokenStream, rows: Rows) -> int:
        """Fill `rows` until the rows or the stream's epoch end; return the number of filled rows."""
        ...


class FullPacker:
    """Documents joined end to end."""

    def __init__(self, special: SpecialTokens):
        """Build rows with these special tokens."""
        self._special = special
        self._separator = np.array([special.sep], np.int32)

    def __call__(self, stream: TokenStream, rows: Rows) -> int:
        """See `Packer`."""
        width = rows.tokens.shape[1] - 1
        room = len(rows) * width
        parts: list[np.ndarray] = []
        while room and (window := stream.window()) is not None:
            cursor = window.cursor
            stream.require(cursor.first + 1)
            while room and cursor.first < window.ready:
                tokens = window.tokens(cursor.first)
                rest = tokens[cursor.offset : cursor.offset + room]
                parts.append(rest)
                room -= len(rest)
                cursor.offset += len(rest)
                if cursor.offset == len(tokens) and (room or not len(tokens)):
                    if len(tokens):
                        parts.append(self._separator)
                        room -= 1
                    window.take(cursor.first)
        return self._lay_out(np.concatenate(parts), rows) if parts else 0

    def _lay_out(self, joined: np.ndarray, rows: Rows) -> int:
        width = rows.tokens.shape[1] - 1
        whole, left = divmod(len(joined), width)
        filled = whole + bool(left)
        rows.tokens[:filled, 0] = self._special.cls
        rows.tokens[:whole, 1:] = joined[: whole * width].reshape(whole, width)
        rows.segments[:whole] = 1
        rows.positions[:whole] = np.arange(width + 1)
        if left:
            rows.tokens[whole, 1 : 1 + left] = joined[whole * width :]
            rows.segments[whole, : 1 + left] = 1
            rows.positions[whole, : 1 + left] = np.arange(1 + left)
        return filled


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
            if document not in self._cursor.taken and (length := self._length(document)):
                bisect.insort(self._by_length, (length, -document))
        self._entered = max(self._entered, stop)

    def _discard(self, document: int, length: int) -> None:
        at = bisect.bisect_left(self._by_length, (length, -document))
        if at < len(self._by_length) and self._by_length[at] == (length, -document):
            del self._by_length[at]


class PiecePacker:
    """Keeps documents whole if they fit a row; puts several into a row (`documents`) or one (`lines`)."""

    def __init__(self, special: SpecialTokens, look_ahead: int):
        """Build rows with these special tokens; `DocumentPlanner` explains the look-ahead."""
        self._special = special
        self._look_ahead = look_ahead
        self._window: TokenizedWindow | None = None
        self._planner: DocumentPlanner | None = None

    def __call__(self, stream: TokenStream, rows: Rows) -> int:
        """See `Packer`."""
        block = _Block(rows.tokens.shape[1], self._special)
        while block.rows < len(rows) and (window := stream.window()) is not None:
            planner = self._plan(stream, window)
            whole = planner.whole_rows(block.seq_len, len(rows) - block.rows)
            if whole is not None:
                block.add_rows(window.tokens(whole.document)[whole.start : whole.stop])
                if window.cursor.consumed(whole.document):
                    window.release(whole.document)
                continue
            stream.require(window.cursor.first + self._look_ahead)
            pieces = planner.row(block.seq_len)
            for piece in pieces:
                block.add(window.tokens(piece.document)[piece.start : piece.stop])
                if window.cursor.consumed(piece.document):
                    window.release(piece.document)
            if pieces:
                block.end_row()
        block.write(rows)
        return block.rows

    def _plan(self, stream: TokenStream, window: TokenizedWindow) -> DocumentPlanner:
        if self._planner is None or window is not self._window:

            def length(document: int) -> int:
                if document >= window.ready:
                    stream.require(document + 1)
                return window.lengths[document]

            self._window = window
            self._planner = DocumentPlanner(window.cursor, window.size, length, self._look_ahead)
        return self._planner


class InOrderPacker:
    """Keeps documents whole if they fit a row, and in order; a document joins the current row if it fits there."""

    def __init__(self, special: SpecialTokens):
        """Build rows with these special tokens."""
        self._special = special

    def __call__(self, stream: TokenStream, rows: Rows) -> int:
        """See `Packer`."""
        block = _Block(rows.tokens.shape[1], self._special)
        while block.rows < len(rows) and (window := stream.window()) is not None:
            cursor = window.cursor
            stream.require(cursor.first + 1)
            rest = window.tokens(cursor.first)[cursor.offset :]
            if len(rest) + 2 > block.room and block.begun:
                block.end_row()  # the loop takes the same document again, if a row is left for it
                continue
            piece = rest[: block.seq_len - 2]
            if len(piece):
                block.add(piece)
            if len(piece) < len(rest):
                cursor.offset += len(piece)
            else:
                window.take(cursor.first)
        if block.begun:
            block.end_row()
        block.write(rows)
        return block.rows


def rows_in_order(lengths: Iterable[int], seq_len: int) -> int:
    """Number of rows of `seq_len` tokens that `InOrderPacker` makes of an epoch's documents with these lengths."""
    rows = room = 0
    for length in lengths:
        if length and length + 2 > room:
            pieces = -(-length // (seq_len - 2))
            rows += pieces
            room = pieces * (seq_len - 2) - length
        elif length:
            room -= length + 2
    return rows


class _Block:
    """Rows of pieces. Pieces are collected in lists and written at once, because each numpy call is expensive."""

    def __init__(self, seq_len: int, special: SpecialTokens):
        self.seq_len = seq_len
        self.rows = 0
        self._column = 0
        self._cls, self._sep = np.array([special.cls], np.int32), np.array([special.sep], np.int32)
        self._padding = np.full(seq_len, special.pad, np.int32)
        self._counting, self._zeros = np.arange(seq_len, dtype=np.int32), np.zeros(seq_len, np.int32)
        self._tokens: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._segments: list[int] = []
        self._lengths: list[int] = []
        self._segment = 0

    @property
    def begun(self) -> bool:
        """Whether the current row is not empty."""
        return self._column > 0

    @property
    def room(self) -> int:
        """Number of tokens that still fit the current row."""
        return self.seq_len - self._column

    def add(self, tokens: np.ndarray) -> None:
        """Append a piece of a document, between its special tokens, to the current row."""
        length = len(tokens) + 2
        self._segment += 1
        self._tokens += (self._cls, tokens, self._sep)
        self._positions.append(self._counting[:length])
        self._segments.append(self._segment)
        self._lengths.append(length)
        self._column += length

    def add_rows(self, tokens: np.ndarray) -> None:
        """Append whole rows, each between special tokens; the tokens must fill them, and no row may be begun."""
        count = len(tokens) // (self.seq_len - 2)
        made = np.empty((count, self.seq_len), np.int32)
        made[:, 0], made[:, -1] = self._cls[0], self._sep[0]
        made[:, 1:-1] = tokens.reshape(count, -1)
        self._tokens.append(made.ravel())
        self._positions += [self._counting] * count
        self._segments += [1] * count
        self._lengths += [self.seq_len] * count
        self.rows += count

    def end_row(self) -> None:
        """Pad the current row and start the next."""
        if self._column < self.seq_len:
            self._tokens.append(self._padding[self._column :])
            self._positions.append(self._zeros[self._column :])
            self._segments.append(0)
            self._lengths.append(self.seq_len - self._column)
        self._column = self._segment = 0
        self.rows += 1

    def write(self, rows: Rows) -> None:
        """Write the collected rows into the first of `rows`."""
        if not self.rows:
            return
        shape = (self.rows, self.seq_len)
        rows.tokens[: self.rows] = np.concatenate(self._tokens).reshape(shape)
        rows.positions[: self.rows] = np.concatenate(self._positions).reshape(shape)
        rows.segments[: self.rows] = np.repeat(np.array(self._segments, np.int32), self._lengths).reshape(
            shape
        )


def make_packer(packing: str, special: SpecialTokens, *, in_order: bool = False) -> Packer:
    """Make the packer of `data.packing`; each stream needs its own. `in_order` keeps the documents' order."""
    if packing == "full":
        return FullPacker(special)
    if packing == "documents" and in_order:
        return InOrderPacker(special)
    return PiecePacker(special, LOOK_AHEAD if packing == "documents" else 1)


def fill(stream: TokenStream, packer: Packer, rows: Rows) -> int:
    """Fill rows from a stream, across epochs, until the rows or the stream end; return the number of filled rows.

    Raises:
      UserError: no document has any token.
    """
    row, barren = 0, 0
    while row < len(rows) and not stream.ended:
        epoch = stream.epoch
        filled = packer(stream, rows.part(slice(row, None)))
        row += filled
        stream.rows += filled
        barren = 0 if filled or stream.epoch == epoch else barren + 1
        if barren > 1:
            raise UserError(
                "no document of the corpus has a single token; check config.data.path and the tokenizer"
            )
    return row

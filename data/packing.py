"""Packs documents into rows of S tokens, in four ways; no token is ever dropped or repeated.

full: documents are joined end to end, each with a separator at its end, and cut every S - 1 tokens (RoBERTa, section
4.2, FULL-SENTENCES). Every row starts with the class token.
documents: whole documents share a row. Each has its own class token and separator, and `segments` keep them apart.
The longest document that fits is added next (best-fit packing, Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"). With a window of 1, which keeps the files' order, the next document is added as long as it fits.
best_fit: as documents, but rows are planned for many documents at once (`data.best_fit`), and the ends of documents
that are longer than a row share rows too.
lines: one document in a row.

A document that is too long for a row is cut into pieces. An epoch's last row is padded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int32

from base.errors import UserError
from data.best_fit import BestFitPlanner
from data.document_planner import LOOK_AHEAD, DocumentPlanner
from data.special_tokens import SpecialTokens
from data.token_streams import TokenizedWindow, TokenStream


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
            for tokens in window.take_whole(room):
                parts += (tokens, self._separator)
                room -= len(tokens) + 1
            if room and cursor.first < window.ready:  # a document that was begun, or one that does not fit
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
            self._window = window
            length = _length_of(stream, window)
            self._planner = DocumentPlanner(window.cursor, window.size, length, self._look_ahead)
        return self._planner


class BestFitPacker:
    """Keeps documents whole if they fit a row; documents and the ends of long ones share rows by best fit."""

    def __init__(self, special: SpecialTokens):
        """Build rows with these special tokens."""
        self._special = special
        self._window: TokenizedWindow | None = None
        self._planner: BestFitPlanner | None = None

    def __call__(self, stream: TokenStream, rows: Rows) -> int:
        """See `Packer`."""
        block = _Block(rows.tokens.shape[1], self._special)
        stream.advance()
        while block.rows < len(rows) and (window := stream.window()) is not None:
            if self._planner is None or window is not self._window:
                self._window = window
                length = _length_of(stream, window)
                self._planner = BestFitPlanner(window.cursor, window.size, length, block.seq_len)
            whole = self._planner.whole_rows(len(rows) - block.rows)
            pieces = self._planner.row() if whole is None else [whole]
            for piece in pieces:
                tokens = window.tokens(piece.document)[piece.start : piece.stop]
                block.add(tokens) if whole is None else block.add_rows(tokens)
                if window.cursor.consumed(piece.document):
                    window.release(piece.document)
            if block.begun:
                block.end_row()
        block.write(rows)
        return block.rows


def _length_of(stream: TokenStream, window: TokenizedWindow) -> Callable[[int], int]:
    """The function from a document's number in a window to its number of tokens; it is tokenized first."""

    def length(document: int) -> int:
        if document >= window.ready:
            stream.require(document + 1)
        return window.lengths[document]

    return length


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
    if packing == "best_fit":
        return BestFitPacker(special)
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

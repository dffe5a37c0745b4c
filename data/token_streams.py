"""The documents of one stream as token ids. They are tokenized in advance, and the state allows an exact resume.

The state says which documents of the current window are consumed, and how many tokens of the first unconsumed document.
It holds no text and no tokens. It does not depend on settings that a phase of a run may change: row length, batch size
and packing.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import xxhash

from base.errors import UserError
from data.document_protocol import Document
from data.streams import Window, WindowReader

Encode = Callable[[Sequence[str]], list[np.ndarray]]
"""Function from a batch of texts to their token ids, int32 each, without special tokens."""

Submit = Callable[[Sequence[Document]], "Future[list[np.ndarray]]"]
"""Function that starts to make the ids of documents in the background."""

SMALLEST_CHUNK = 1 << 14
LARGEST_CHUNK = 1 << 18
"""Characters in one call of the tokenizer. Few at first, so that the first batch comes soon; later many, to use all
cores."""

FRESH: Mapping[str, Any] = {
    "epoch": 0,
    "rows": 0,
    "window": 0,
    "start": None,
    "end": None,
    "size": None,
    "last": False,
    "next": 0,
    "offset": 0,
    "taken": "0",
    "counts": {"documents": 0, "held_out": 0, "dropped": {}},
}
"""The state of a stream that has not begun. A size of None means that the window at `start` has not been read yet."""


CHANGED = "the corpus has changed since this run's state was saved"
REMEDY = (
    "put the old text back, give the new text to a phase of its own (config.phases), or start in another --workdir "
    "with config.init_from; --accept_changes lets a corpus change only where the run has yet to read it"
)


class Cursor:
    """Tells which documents of a window are consumed; documents have numbers in the window's order."""

    def __init__(
        self,
        first: int = 0,
        offset: int = 0,
        taken: frozenset[int] = frozenset(),
        begun: Mapping[int, int] | None = None,
    ):
        """Start in document `first`, after `offset` of its tokens; the documents in `taken` are consumed too.

        `begun` maps documents after `first` to the number of tokens that were read of them.
        """
        self.first = first
        self.offset = offset
        self.taken = set(taken)
        """Documents after `first` that were consumed before it."""
        self.begun = dict(begun or {})
        """Documents after `first` that were consumed in part, with their numbers of consumed tokens."""

    def take(self, document: int) -> None:
        """Consume the rest of a document."""
        self.taken.add(document)
        self.begun.pop(document, None)
        while self.first in self.taken:
            self.taken.remove(self.first)
            self.first += 1
            self.offset = self.begun.pop(self.first, 0)

    def read(self, document: int) -> int:
        """The number of consumed tokens of a document that is not consumed as a whole."""
        return self.offset if document == self.first else self.begun.get(document, 0)

    def advance(self, document: int, stop: int) -> None:
        """Consume the tokens of a document before `stop`, but not all of its tokens."""
        if document == self.first:
            self.offset = stop
        else:
            self.begun[document] = stop

    def consumed(self, document: int) -> bool:
        """Whether the whole document is consumed."""
        return document < self.first or document in self.taken

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able copy; `taken` becomes the hex of a bit set, relative to `first`. Only best-fit packing begins
        documents after the first, so `begun` is often missing.
        """
        bits = sum(1 << (document - self.first) for document in self.taken)
        begun = (
            {"begun": {str(document): read for document, read in self.begun.items()}} if self.begun else {}
        )
        return {"next": self.first, "offset": self.offset, "taken": f"{bits:x}", **begun}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Cursor":
        """The inverse of `as_dict`."""
        first, bits = values["next"], int(values["taken"], 16)
        return cls(
            first,
            values["offset"],
            frozenset(first + i for i in range(bits.bit_length()) if bits >> i & 1),
            {int(document): read for document, read in values.get("begun", {}).items()},
        )


class TokenizedWindow:
    """A window whose documents are tokenized in the background, in order and in chunks."""

    def __init__(self, window: Window, cursor: Cursor):
        """Tokenize the documents that the cursor has not consumed."""
        self.window = window
        self.size = len(window.texts)
        self.digest = _digest(window.texts)
        """Of all of its texts; tells whether a run that goes on reads what it read before."""
        self.cursor = cursor
        self.lengths = [0] * self.size
        """Number of tokens of each document that is ready and was not consumed before; 0 for the others."""
        self._tokens: list[np.ndarray | None] = [None] * self.size
        self._chunks: deque[tuple[list[int], int, Future[list[np.ndarray]]]] = deque()
        self._submitted = cursor.first
        self.ready = cursor.first
        """Number of a document; every document before it is tokenized, or was consumed before."""

    @property
    def submitted(self) -> bool:
        """Whether every document is tokenized, or in a chunk that is being tokenized."""
        return self._submitted == self.size

    @property
    def finished(self) -> bool:
        """Whether every document is consumed."""
        return self.cursor.first == self.size

    def submit(self, submit: Submit, chars: int) -> int:
        """Start tokenizing about this many characters; return the exact number."""
        documents, total = [], 0
        while self._submitted < self.size and total < chars:
            if not self.cursor.consumed(self._submitted):
                documents.append(self._submitted)
                total += len(self.window.texts[self._submitted])
            self._submitted += 1
        if documents:
            texts = [self.window.texts[document] for document in documents]
            self._chunks.append((documents, total, submit(texts)))
        elif not self._chunks:
            self.ready = self._submitted
        return total

    @property
    def has_result(self) -> bool:
        """Whether the oldest chunk is tokenized."""
        return bool(self._chunks) and self._chunks[0][2].done()

    def collect(self) -> tuple[int, int]:
        """Wait for the oldest chunk; return its numbers of documents and of characters.

        Raises:
          UserError: the first document has fewer tokens than were read of it.
        """
        documents, total, future = self._chunks.popleft()
        for document, tokens in zip(documents, future.result(), strict=True):
            if (self.cursor.offset or self.cursor.begun) and len(tokens) < (
                read := self.cursor.read(document)
            ):
                raise UserError(
                    f"{CHANGED} (of a document of {len(tokens)} tokens, {read} were read); {REMEDY}"
                )
            self._tokens[document] = tokens
            self.lengths[document] = len(tokens)
            self.window.texts[document] = ""
        self.ready = self._chunks[0][0][0] if self._chunks else self._submitted
        return len(documents), total

    def tokens(self, document: int) -> np.ndarray:
        """Ids of a document that is ready and not consumed, int32 [length]."""
        tokens = self._tokens[document]
        assert tokens is not None
        return tokens

    def take_whole(self, room: int) -> list[np.ndarray]:
        """Consume the next documents that are ready, as long as they and one token after each fit into `room` tokens.

        None is consumed if one was consumed in part, or out of order. Documents without tokens are left out of the
        result.
        """
        cursor, stop, left = self.cursor, self.cursor.first, room
        if cursor.offset or cursor.taken or cursor.begun:
            return []
        for length in itertools.islice(self.lengths, cursor.first, self.ready):
            left -= length + 1 if length else 0
            if left < 0 or not room:
                break
            room = left
            stop += 1
        found = [tokens for tokens in self._tokens[cursor.first : stop] if tokens is not None and len(tokens)]
        self._tokens[cursor.first : stop] = [None] * (stop - cursor.first)
        cursor.first = stop
        return found

    def release(self, document: int) -> None:
        """Free the tokens of a consumed document."""
        self._tokens[document] = None

    def take(self, document: int) -> None:
        """Consume a document."""
        self.cursor.take(document)
        self.release(document)


class TokenStream:
    """The tokenized windows of one stream, one after another."""

    def __init__(
        self,
        windows: WindowReader,
        submit: Submit,
        state: Mapping[str, Any] | None = None,
        epochs: int | None = None,
    ):
        """Continue from a state; `windows` must be at the start of the state's window.

        Args:
          windows: reader of the stream's windows.
          submit: function that tokenizes in the background.
          state: an earlier result of `state()`; None to start at the beginning.
          epochs: number of epochs to read; None for no end.

        Raises:
          UserError: the corpus has changed since the state was saved.
        """
        self._windows = windows
        self._epochs = epochs
        self._submit = submit
        self._chunk = SMALLEST_CHUNK
        self._outstanding = 0  # characters being tokenized
        self._current: TokenizedWindow | None = None
        self._next: TokenizedWindow | None = None
        self._between = dict(state or FRESH)
        self.rows: int = self._between["rows"]
        """Number of rows made from this stream so far."""
        self.epoch: int = self._between["epoch"]
        """Number of finished epochs."""
        if self._between["size"] is not None:
            window = windows.reread(self._between["size"], self._between["last"])
            self._current = TokenizedWindow(window, Cursor.from_dict(self._between))
            if self._between.get("texts", self._current.digest) != self._current.digest:
                raise UserError(
                    f"{CHANGED} (the {self._current.size} documents at hand in a stream are others); {REMEDY}"
                )

    @property
    def ended(self) -> bool:
        """Whether all epochs are finished."""
        return self._epochs is not None and self.epoch >= self._epochs

    def window(self) -> TokenizedWindow | None:
        """The current window, with unconsumed documents in it; None, once, at the end of each epoch."""
        while True:
            if self._current is None:
                self._current = self._next or TokenizedWindow(self._windows.take(), Cursor())
                self._next = None
            if not self._current.finished:
                return self._current
            self._between = self._after(self._current.window)
            last, self._current = self._current.window.last, None
            if last:
                self.epoch += 1
                return None

    def prepare(self) -> None:
        """Start tokenizing the first documents, without waiting for them."""
        if not self.ended:
            self._current = self._current or TokenizedWindow(self._windows.take(), Cursor())
            self._prefetch(self._current, 0)

    def require(self, stop: int) -> TokenizedWindow:
        """The current window, after its documents before `stop` are tokenized."""
        window = self._current
        assert window is not None, "require() follows window()"
        stop = min(stop, window.size)
        while window.ready < stop:
            self._prefetch(window, 0)
            documents, chars = window.collect()
            self._outstanding -= chars
            self._prefetch(window, documents)
        return window

    def advance(self) -> None:
        """Go on tokenizing the next window as far as this takes no waiting, for packers that need whole windows."""
        while self._next is not None and self._next.has_result:
            self._outstanding -= self._next.collect()[1]
        if self._current is not None:
            self._prefetch(self._current, 0)

    def state(self) -> dict[str, Any]:
        """The state to continue from, JSON-able. It holds no text or tokens, and does not depend on reading ahead."""
        if self._current is None:
            state = self._between
        elif self._current.finished:
            state = self._after(self._current.window)
        else:
            window = self._current.window
            state = {
                "epoch": window.epoch,
                "window": window.number,
                "start": window.start,
                "end": window.end,
                "size": self._current.size,
                "texts": self._current.digest,
                "last": window.last,
                **self._current.cursor.as_dict(),
                "counts": window.counts.as_dict(),
            }
        return {**state, "rows": self.rows}

    def _after(self, window: Window) -> dict[str, Any]:
        """The state after a finished window and before the next."""
        return {
            **FRESH,
            "epoch": window.epoch + window.last,
            "window": window.number + bool(window.texts),
            "start": window.end,
            "counts": window.counts.as_dict(),
        }

    def _prefetch(self, current: TokenizedWindow, documents: int) -> None:
        """Keep two chunks in work, and read the next window as fast as the current one is used (`documents` now).

        Reading a little at a time spreads the work, because all streams reach the ends of their windows at about the
        same time.
        """
        final = self._epochs is not None and current.window.last and self.epoch + 1 >= self._epochs
        if self._next is None and not final and self._windows.read_ahead(documents + documents // 4 + 1):
            self._next = TokenizedWindow(self._windows.take(), Cursor())
        for window in (current, self._next):
            while window and not window.submitted and self._outstanding < 2 * self._chunk:
                self._outstanding += window.submit(self._submit, self._chunk)
                self._chunk = min(2 * self._chunk, LARGEST_CHUNK)


def ids_of(encode: Encode, documents: Sequence[Document]) -> list[np.ndarray]:
    """The token ids of documents, int32 each; those of a prepared corpus are ids already."""
    texts = [document for document in documents if isinstance(document, str)]
    encoded = iter(encode(texts) if texts else ())
    return [next(encoded) if isinstance(document, str) else document for document in documents]


def taken(documents: Sequence[Any]) -> "Future[list[np.ndarray]]":
    """The ids of documents that are all ids already, at once: another thread would only cost time."""
    future: Future[list[np.ndarray]] = Future()
    future.set_result(list(documents))
    return future


def _digest(texts: Sequence[Document]) -> str:
    """A digest of texts and of where each ends."""
    digest = xxhash.xxh3_64()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text.tobytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return str(digest.hexdigest())

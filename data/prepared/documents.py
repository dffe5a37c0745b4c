"""The documents of one stream of a prepared corpus, in an order that is a function of (seed, stream, epoch, index).

Preparation puts the documents into the order of their digests, which is random. Each stream has a contiguous share of
that order, and reads it in another random order in each epoch. So each batch is a random sample of the corpus, and a
process reads its own share alone.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np

from base.errors import UserError
from data.document_counts import Counts
from data.prepared.source import PreparedSource
from data.random_orders import Shuffle

BLOCK_TOKENS = 1 << 19
"""Tokens of the documents that are read in one call, about; a call costs as much as some hundred short documents."""
LARGEST_BLOCK = 1024
"""Documents of one call at most."""


def _reader() -> ThreadPoolExecutor:
    """A thread for the next block of each stream, while the one before is packed; ArrayRecord's reader has more."""
    return ThreadPoolExecutor(1, thread_name_prefix="prepared")


_reading = _reader()


def cancel_reads() -> None:
    """Give up all reads ahead that have not begun, so that the end of a process does not wait for them.

    Streams that go on read these blocks when they need them.
    """
    global _reading
    given_up, _reading = _reading, _reader()
    given_up.shutdown(wait=False, cancel_futures=True)


EpochOrder = Callable[[int, np.ndarray], np.ndarray]
"""Function (epoch, places in the share) -> numbers in the share, int64."""


def shuffled(size: int, *key: int | str) -> EpochOrder:
    """The random order of each epoch of a share of `size` documents."""
    return lambda epoch, places: Shuffle(size, "documents", *key, epoch)(places)


def as_written(epoch: int, places: np.ndarray) -> np.ndarray:
    """The order of the shards."""
    return places


class PreparedDocuments:
    """Documents of a share, epoch after epoch; its position is one number (see `data.streams.Documents`)."""

    def __init__(
        self,
        source: PreparedSource,
        first: int,
        stop: int,
        order: EpochOrder,
        start: int,
        empty: Callable[[], UserError],
        *,
        ahead: bool = False,
    ):
        """Read documents first to stop (exclusive) of `source`.

        Args:
          source: the corpus.
          first: number of the share's first document.
          stop: number after its last.
          order: the order of each epoch.
          start: position of the next read. An epoch of n documents has n + 1 positions; the last is its end.
          empty: function that makes the error for a share without a document.
          ahead: read the next block in the background.
        """
        self._source, self._first, self._size = source, first, stop - first
        self._order, self._next, self._empty = order, start, empty
        self._ready: deque[np.ndarray] = deque()
        self._block = min(max(BLOCK_TOKENS * len(source) // max(source.index.tokens, 1), 1), LARGEST_BLOCK)
        self._ahead = ahead
        self._coming: Future[list[np.ndarray]] | None = None

    def read(self, counts: Counts) -> np.ndarray | None:
        """See `data.streams.Documents`."""
        if self._size < 1:
            raise self._empty()
        place = self._next % (self._size + 1)
        self._next += 1
        if place == self._size:
            return None
        if not self._ready:
            start = self._next - 1
            self._ready.extend(self._block_at(start))
            if self._ahead:
                after = start + len(self._ready)
                self._coming = None
                with contextlib.suppress(RuntimeError):  # the threads were given up at this moment
                    self._coming = _reading.submit(
                        self._read, after + (after % (self._size + 1) == self._size)
                    )
        counts.documents += 1
        return self._ready.popleft()

    def _block_at(self, start: int) -> list[np.ndarray]:
        """The block that is read ahead, if there is one and it was not given up."""
        if self._coming is not None:
            with contextlib.suppress(CancelledError):
                return self._coming.result()
        return self._read(start)

    def _read(self, start: int) -> list[np.ndarray]:
        """The block of documents at position `start`."""
        epoch, place = divmod(start, self._size + 1)
        places = np.arange(place, min(place + self._block, self._size))
        return self._source.documents(self._first + self._order(epoch, places))

    def position(self) -> list[int]:
        """[the number of reads so far]."""
        return [self._next]

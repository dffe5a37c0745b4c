"""The documents of one stream of a prepared corpus, in an order that is a function of (seed, stream, epoch, index).

Preparation puts the documents into the order of their digests, which is random. Each stream has a contiguous share of
that order, and reads it in another random order in each epoch. So each batch is a random sample of the corpus, and a
process reads its own share alone.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from base.errors import UserError
from data.document_counts import Counts
from data.prepared.source import PreparedSource
from data.random_orders import Shuffle

READ_AHEAD = 128
"""Documents read in one call."""

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
    ):
        """Read documents first to stop (exclusive) of `source`.

        Args:
          source: the corpus.
          first: number of the share's first document.
          stop: number after its last.
          order: the order of each epoch.
          start: position of the next read. An epoch of n documents has n + 1 positions; the last is its end.
          empty: function that makes the error for a share without a document.
        """
        self._source, self._first, self._size = source, first, stop - first
        self._order, self._next, self._empty = order, start, empty
        self._ready: deque[np.ndarray] = deque()

    def read(self, counts: Counts) -> np.ndarray | None:
        """See `data.streams.Documents`."""
        if self._size < 1:
            raise self._empty()
        epoch, place = divmod(self._next, self._size + 1)
        self._next += 1
        if place == self._size:
            return None
        if not self._ready:
            places = np.arange(place, min(place + READ_AHEAD, self._size))
            self._ready.extend(self._source.documents(self._first + self._order(epoch, places)))
        counts.documents += 1
        return self._ready.popleft()

    def position(self) -> list[int]:
        """[the number of reads so far]."""
        return [self._next]

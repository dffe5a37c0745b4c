"""Assigns records to streams, and reads them from any position.

If a corpus has at least SHARDS_PER_STREAM shards for each stream, whole shards are assigned: stream g of G reads the
shards f with f mod G == g. With fewer shards this would give unequal shares: of nine equal shards over eight streams,
one stream would get two, and the others would give padding until it ends. So every stream then gets records of all
shards: record n of shard f belongs to stream (n + f) mod G. One pass over a shard serves all streams of a process
(`SharedReader`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from data.random_orders import permutation
from data.source_protocol import Record, Source

SHARDS_PER_STREAM = 8
"""Shards for each stream from which on streams have shards of their own; shares then differ by an eighth at most."""

QUEUED_CHARS = 1 << 28
"""Largest number of characters in all queues of one SharedReader."""


class Position(NamedTuple):
    """The next record to read in an endless reading of a corpus. Positions compare in reading order."""

    epoch: int = 0
    shard: int = 0
    """Index in this epoch's order of the shards."""
    record: int = 0
    """Number of the record in its shard."""


class Item(NamedTuple):
    """A record and the position after it; an Item without a record ends an epoch."""

    record: Record | None
    after: Position
    shard: int
    """Number of the shard in the source."""


@dataclass(frozen=True)
class ShardOrder:
    """Tells which epochs of a stream read the shards in random order; other epochs read them in the source's order.

    An epoch keeps its order to the end, even if the config changes meanwhile. So each shard is read once.
    """

    shuffled: bool = True
    """Whether future epochs are in random order."""
    begun: tuple[tuple[int, bool], ...] = ()
    """(last epoch of a group, whether the group is in random order), for epochs that have begun. Empty if all of them
    have the order of future epochs."""

    def __call__(self, epoch: int) -> bool:
        """Whether this epoch is in random order."""
        return next((shuffled for last, shuffled in self.begun if epoch <= last), self.shuffled)


SHUFFLED = ShardOrder()


class Layout:
    """Assigns a source's records to the streams, and orders the shards."""

    def __init__(self, source: Source, streams: int, *order_key: int | str):
        """Share `source` among `streams`.

        The order of shards is random, with a key of order_key and epoch. Without order_key it is the source's order.
        """
        self.source = source
        self.streams = streams
        self.shares_shards = len(source.shards) < SHARDS_PER_STREAM * streams
        self._order_key = order_key

    def shards(self, epoch: int, stream: int, shuffled: bool = True) -> list[int]:
        """The shards that a stream reads in an epoch, in random order or in the source's order."""
        count = len(self.source.shards)
        order: Sequence[int] = range(count)
        if shuffled and self._order_key:
            order = permutation(count, "shards", *self._order_key, epoch).tolist()
        return [shard for shard in order if self.shares_shards or shard % self.streams == stream]

    def owner(self, shard: int, number: int) -> int:
        """Number of the stream that reads a record."""
        return (number + shard if self.shares_shards else shard) % self.streams


def scan(source: Source, shards: Callable[[int], Sequence[int]], start: Position) -> Iterator[Item]:
    """Read from a position on, without end. After each epoch's shards comes an Item without a record."""
    epoch, index, number = start
    while True:
        order = shards(epoch)
        while index < len(order):
            for record in source.read(order[index], number):
                yield Item(record, Position(epoch, index, record.number + 1), order[index])
            index, number = index + 1, 0
        epoch, index, number = epoch + 1, 0, 0
        yield Item(None, Position(epoch), -1)


class Reader(Protocol):
    """The records of one stream."""

    def read(self) -> Item:
        """The stream's next record; at the end of each epoch, an Item without a record."""
        ...


class OwnReader:
    """Reads the records of one stream only."""

    def __init__(self, layout: Layout, stream: int, start: Position, order: ShardOrder = SHUFFLED):
        """Read `stream` from `start` on."""
        self._layout = layout
        self._stream = stream
        self._items = scan(layout.source, lambda epoch: layout.shards(epoch, stream, order(epoch)), start)

    def read(self) -> Item:
        """The stream's next record; at the end of each epoch, an Item without a record."""
        for item in self._items:
            if item.record is None or self._layout.owner(item.shard, item.record.number) == self._stream:
                return item
        raise AssertionError("a scan has no end")


class SharedReader:
    """Reads shards once for several streams; each stream has some of their records.

    A record that is read on behalf of another stream waits in its own stream's queue. If a stream falls so far behind
    that its queue is full, it empties the queue and then reads by itself until it has caught up.
    """

    def __init__(
        self,
        layout: Layout,
        starts: Mapping[int, Position],
        queued_chars: int = QUEUED_CHARS,
        order: ShardOrder = SHUFFLED,
    ):
        """Serve the streams in `starts`, each from its position on. All read the shards in the same order."""
        self._layout = layout
        self._order = order
        self._limit = queued_chars // max(len(starts), 1)
        self._queues: dict[int, deque[Item]] = {stream: deque() for stream in starts}
        self._queued = dict.fromkeys(starts, 0)
        self._served = dict(starts)  # end of each stream's queue
        self._behind: dict[int, OwnReader | None] = {}
        self._cursor = min(starts.values())
        self._items = scan(layout.source, lambda epoch: layout.shards(epoch, 0, order(epoch)), self._cursor)

    def reader(self, stream: int) -> "SharedStream":
        """The Reader of one stream."""
        return SharedStream(self, stream)

    def read(self, stream: int) -> Item:
        """A stream's next record; at the end of each epoch, an Item without a record."""
        queue = self._queues[stream]
        if not queue and stream in self._behind:
            return self._read_alone(stream)
        if not queue:
            self._advance(queue)
        item = queue.popleft()
        if item.record is not None:
            self._queued[stream] -= len(item.record.text)
        return item

    def _read_alone(self, stream: int) -> Item:
        own = self._behind[stream] or OwnReader(self._layout, stream, self._served[stream], self._order)
        item = own.read()
        self._served[stream] = item.after
        if item.after >= self._cursor:
            del self._behind[stream]
        else:
            self._behind[stream] = own
        return item

    def _advance(self, wanted: deque[Item]) -> None:
        """Read records into the streams' queues until `wanted` gets one; the end of an epoch goes into all queues."""
        for item in self._items:
            self._cursor = item.after
            if item.record is None:
                for stream in self._queues:
                    self._queue(stream, item, 0)
            else:
                owner = self._layout.owner(item.shard, item.record.number)
                if owner in self._queues:
                    self._queue(owner, item, len(item.record.text))
            if wanted:
                return

    def _queue(self, stream: int, item: Item, chars: int) -> None:
        if stream in self._behind or item.after <= self._served[stream]:
            return
        queue = self._queues[stream]
        if queue and self._queued[stream] + chars > self._limit:
            self._behind[stream] = None
            return
        queue.append(item)
        self._queued[stream] += chars
        self._served[stream] = item.after


class SharedStream:
    """The Reader of one stream of a SharedReader."""

    def __init__(self, shared: SharedReader, stream: int):
        """Read `stream` from `shared`."""
        self._shared = shared
        self._stream = stream

    def read(self) -> Item:
        """The stream's next record; at the end of each epoch, an Item without a record."""
        return self._shared.read(self._stream)


def open_readers(
    layout: Layout, starts: Mapping[int, Position], orders: Mapping[int, ShardOrder]
) -> dict[int, Reader]:
    """A Reader for each stream in `starts`, from its position on.

    If every stream has records of all shards, the streams with an equal order share one reading.
    """
    readers: dict[int, Reader] = {}
    for order in dict.fromkeys(orders.values()):
        together = {stream: start for stream, start in starts.items() if orders[stream] == order}
        if layout.shares_shards and len(together) > 1:
            shared = SharedReader(layout, together, QUEUED_CHARS * len(together) // len(starts), order)
            readers |= {stream: shared.reader(stream) for stream in together}
        else:
            readers |= {stream: OwnReader(layout, stream, start, order) for stream, start in together.items()}
    return readers

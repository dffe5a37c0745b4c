"""The documents of one logical stream, in the run's order, with a position that is exact and tiny.

A run reads its corpus as G streams. Each has a fixed share of the documents and goes through it epoch after
epoch; documents are shuffled within windows of W, so that the order is a function of (seed, stream, window
number) and a position needs no text: reading on from the start of a window gives the same documents in the
same order. W may change in mid-run: a window that has begun is finished as it is, and so is the order of an epoch's
shards, which are shuffled where W is above 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from base.errors import UserError
from data.config import DataConfig
from data.counts import Counts, Unwanted
from data.held_out_documents import HeldOut
from data.shuffle import WeightedDraws, permutation
from data.source import Source
from data.stream_records import SHUFFLED, Layout, Position, Reader, ShardOrder, open_readers


class Documents(Protocol):
    """Kept documents of one stream, before shuffling."""

    def read(self, counts: Counts) -> str | None:
        """The next document, counting every record on the way; None at the end of each epoch.

        Raises:
          UserError: an epoch without a single document.
        """
        ...

    def position(self) -> Any:
        """Where the next read begins, JSON-able."""
        ...


class SourceDocuments:
    """Kept documents of one stream of one source."""

    def __init__(
        self,
        reader: Reader,
        start: Position,
        unwanted: Unwanted,
        empty: Callable[[], UserError],
        order: ShardOrder = SHUFFLED,
    ):
        """Leave out what the source drops and what is `unwanted`; raise `empty()` at an epoch without a document.

        The `order` is the reader's.
        """
        self._reader = reader
        self._order = order
        self._position = start
        self._unwanted = unwanted
        self._empty = empty
        self._found = start != Position(start.epoch)

    def read(self, counts: Counts) -> str | None:
        """See `Documents`."""
        while True:
            record, self._position, _ = self._reader.read()
            if record is None:
                if not self._found:
                    raise self._empty()
                self._found = False
                return None
            if counts.keeps(record, self._unwanted):
                self._found = True
                return record.text

    def position(self) -> list[int | bool]:
        """[epoch, index in the order of shards, record number, whether that order is random]."""
        return [*self._position, self._order(self._position.epoch)]


class MixedDocuments:
    """Documents drawn from several sources by weight; each goes through its own epochs, the mix has none."""

    def __init__(self, members: Sequence[Documents], draws: WeightedDraws, start: int):
        """Take draw number `start` next."""
        self._members = members
        self._draws = draws
        self._next = start

    def read(self, counts: Counts) -> str:
        """See `Documents`; never None."""
        member = self._members[self._draws[self._next]]
        self._next += 1
        while (text := member.read(counts)) is None:
            pass
        return text

    def position(self) -> dict[str, Any]:
        """The number of the next draw and the members' positions."""
        return {"draw": self._next, "members": [member.position() for member in self._members]}


def open_layout(config: DataConfig, source: Source, seed: int, member: int = 0) -> Layout:
    """How a source (that member of a mix) is shared out among the run's streams."""
    return Layout(source, config.streams, seed, member)


def shuffles_shards(config: DataConfig) -> bool:
    """Whether an epoch that begins reads the shards in random order."""
    return config.window > 1


def _shard_order(shuffled: bool, start: Sequence[Any] | None, end: Sequence[Any] | None) -> ShardOrder:
    """The order of shards of a stream that goes on from position `start`.

    Args:
      shuffled: the order of epochs to come.
      start: None begins. Without its fourth value, which older runs did not save, its order is `shuffled` too.
      end: the last position that was read in the orders of that time; None: somewhere in the epoch of `start`.
    """
    if start is None:
        return ShardOrder(shuffled)
    first = (start[0], start[3] if len(start) > 3 else shuffled)
    # At an epoch's very start nothing of it has been read.
    last = first if end is None or len(end) < 4 else (end[0] - (not any(end[1:3])), end[3])
    begun = tuple(sorted({first, last})) if last[0] > first[0] else (first,) * (last[0] == first[0])
    return ShardOrder(shuffled, begun if any(order != shuffled for _, order in begun) else ())


def outside_training(config: DataConfig) -> Unwanted:
    """Which texts training leaves out: the held-out share, or none where evaluation has a source of its own."""
    return HeldOut(0.0 if config.eval_source else config.eval_fraction)


def with_shard_order(start: Any, shuffled: bool) -> Any:
    """A saved position that says whether its shards are in random order; one of an older run does not say it."""
    if isinstance(start, Mapping):
        members = [with_shard_order(member, shuffled) for member in start["members"]]
        return {**start, "members": members}
    return [*start, shuffled] if start and len(start) == 3 else start


def open_documents(
    config: DataConfig,
    sources: Sequence[Source],
    seed: int,
    starts: Mapping[int, Any],
    ends: Mapping[int, Any] | None = None,
) -> dict[int, Documents]:
    """The training documents of each stream in `starts`, from its position (None: the beginning) on.

    Args:
      config: streams, window (1 also keeps the order of the shards), eval_fraction, mix.
      sources: the one source, or the members of the mix.
      seed: the run's.
      starts: positions by stream.
      ends: positions after the windows that begin at `starts` and must come out as they did; where a stream has none,
        they lie in the epoch of its start.
    """
    ends = ends or {}
    unwanted = outside_training(config)
    mixed = config.source == "mix"
    members: list[dict[int, Documents]] = []
    for index, source in enumerate(sources):
        layout = open_layout(config, source, seed, index)
        places, until = (
            {stream: place["members"][index] if mixed and place else place for stream, place in given.items()}
            for given in (starts, ends)
        )
        positions = {stream: Position(*(place or ())[:3]) for stream, place in places.items()}
        orders = {
            stream: _shard_order(shuffles_shards(config), place, until.get(stream))
            for stream, place in places.items()
        }
        readers = open_readers(layout, positions, orders)
        members.append(
            {
                stream: SourceDocuments(
                    readers[stream],
                    start,
                    unwanted,
                    partial(_empty_stream, layout, stream, unwanted),
                    orders[stream],
                )
                for stream, start in positions.items()
            }
        )
    if not mixed:
        return members[0]
    weights = [member.weight for member in config.mix]
    return {
        stream: MixedDocuments(
            [member[stream] for member in members],
            WeightedDraws(weights, "mix", seed, stream),
            start["draw"] if start else 0,
        )
        for stream, start in starts.items()
    }


@dataclass(frozen=True)
class Window:
    """Documents of a stream that are shuffled together; none crosses the end of an epoch."""

    number: int
    epoch: int
    start: Any
    """Position before its first document."""
    end: Any
    """Position after it."""
    texts: list[str]
    """In shuffled order."""
    last: bool
    """The epoch ends with it; an epoch's last window may be empty."""
    counts: Counts
    """Of the stream, up to its end."""


WindowOrder = Callable[[int, int], Sequence[int]]
"""The order of a window's documents, from its number and their number."""


def window_order(seed: int, stream: int) -> WindowOrder:
    """The order of the windows of one stream."""

    def order(number: int, documents: int) -> Sequence[int]:
        if documents < 2:
            return range(documents)
        return permutation(documents, "window", seed, stream, number).tolist()

    return order


class WindowReader:
    """Reads a stream's windows, bit by bit if asked to, so that reading can be spread over the steps."""

    def __init__(
        self, documents: Documents, size: int, order: WindowOrder, *, number: int, epoch: int, counts: Counts
    ):
        """Read windows of `size` documents; the first has this number and epoch, `counts` is what went before."""
        self._documents = documents
        self._size = size
        self._order = order
        self._number = number
        self._epoch = epoch
        self._counts = counts
        self._start = documents.position()
        self._texts: list[str] = []
        self._last = False

    def read_ahead(self, documents: int) -> bool:
        """Read up to this many documents of the next window; whether it is complete."""
        self._read_to(min(self._size, len(self._texts) + documents))
        return self._last or len(self._texts) == self._size

    def take(self) -> Window:
        """The next window, reading what is missing of it."""
        self.read_ahead(self._size)
        return self._finish(Counts.from_dict(self._counts.as_dict()))

    def reread(self, size: int, last: bool) -> Window:
        """The window that a saved state stopped in: its documents again, which the state's counts include.

        Raises:
          UserError: the corpus no longer has those documents.
        """
        counts = Counts.from_dict(self._counts.as_dict())
        self._read_to(size)
        if last and not self._last:
            self._last = self._documents.read(self._counts) is None
        if len(self._texts) != size or self._last != last:
            raise UserError(
                f"the corpus has changed since this run's state was saved (a window of {size} documents now has "
                f"{len(self._texts)}); put back the same files and config.data.filters, or start in a new workdir"
            )
        self._counts = counts
        return self._finish(Counts.from_dict(counts.as_dict()))

    def _read_to(self, size: int) -> None:
        while len(self._texts) < size and not self._last:
            text = self._documents.read(self._counts)
            if text is None:
                self._last = True
            else:
                self._texts.append(text)

    def _finish(self, counts: Counts) -> Window:
        end = self._documents.position()
        texts = [self._texts[i] for i in self._order(self._number, len(self._texts))]
        window = Window(self._number, self._epoch, self._start, end, texts, self._last, counts)
        # An empty last window takes no number: whether there is one depends on where reading happened to stop.
        self._number += bool(self._texts)
        self._epoch += self._last
        self._start, self._texts, self._last = end, [], False
        return window


def nothing_to_read(sources: Sequence[Source], counts: Counts) -> UserError:
    """Say that these sources have no document for training, and what became of those there are."""
    shards = [shard for source in sources for shard in source.shards]
    return UserError(
        f"no document to train on in {', '.join(shards[:3])}{', ...' if len(shards) > 3 else ''}: {counts}; "
        "check config.data.path, config.data.filters and config.data.eval_fraction"
    )


def _empty_stream(layout: Layout, stream: int, unwanted: Unwanted) -> UserError:
    """Say why a stream has no document: the corpus has none, or too few for so many streams."""
    counts, source = Counts(), layout.source
    for shard in range(len(source.shards)):
        for record in source.read(shard):
            if counts.keeps(record, unwanted):
                return UserError(
                    f"stream {stream} of {layout.streams} has no document: the corpus has too few for so many streams; "
                    "lower config.data.streams or give more text"
                )
    return nothing_to_read([source], counts)

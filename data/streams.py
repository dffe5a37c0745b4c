"""The documents of one stream in the run's order, with an exact and small position.

A run reads its corpus as G streams. Each stream has a fixed share of the documents and reads it epoch after epoch.
Documents are shuffled within windows of W. The order is a function of (seed, stream, window number), so a position
needs no text: reading again from the start of a window gives the same documents in the same order.

W may change during a run. A window that has begun keeps its size. An epoch that has begun keeps its order of shards,
which is random if W is above 1.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from base.errors import UserError
from data.config import DataConfig
from data.document_counts import Counts, Unwanted
from data.document_protocol import Document, Documents
from data.held_out_documents import HeldOut
from data.mixes import MixDraws, MixedDocuments, keeps_its_place, shares
from data.prepared.documents import PreparedDocuments, shuffled
from data.prepared.source import PreparedSource
from data.random_orders import permutation
from data.source_protocol import Divisible, RecordsOfShards, Source
from data.stream_records import (
    SHARDS_PER_STREAM,
    SHUFFLED,
    Layout,
    Position,
    Reader,
    ShardOrder,
    open_readers,
)

log = logging.getLogger(__name__)


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
        """Read documents, without those that the source drops or that are `unwanted`.

        Args:
          reader: the stream's reader.
          start: position of the reader.
          unwanted: function that tells whether to leave a text out.
          empty: function that makes the error for an epoch without a document.
          order: the reader's order of shards.
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


def open_layout(config: DataConfig, source: Source, seed: int, member: int = 0) -> Layout:
    """Share a source among the run's streams; `member` is its number in a mix."""
    divided = division(config, source)
    return Layout(source if isinstance(divided, str) else divided, config.streams, seed, member)


def division(config: DataConfig, source: Source) -> Source | str:
    """A source of few large shards, divided into parts that streams read alone.

    Returns:
      The divided source; or why it is not divided, empty if there is no need.
    """
    count = SHARDS_PER_STREAM * config.streams
    if not config.split_files or len(source.shards) >= count or not isinstance(source, Divisible):
        return ""
    return source.divided(count, config.streams)


def shuffles_shards(config: DataConfig) -> bool:
    """Whether a new epoch reads the shards in random order."""
    return config.window > 1


def _shard_order(shuffled: bool, start: Sequence[Any] | None, end: Sequence[Any] | None) -> ShardOrder:
    """The order of shards of a stream that continues from position `start`.

    Args:
      shuffled: whether future epochs are in random order.
      start: the position; None at the beginning. Older runs did not save the fourth value; it is then `shuffled`.
      end: the last position that was read in the old orders; None if it lies in the epoch of `start`.
    """
    if start is None:
        return ShardOrder(shuffled)
    first = (start[0], start[3] if len(start) > 3 else shuffled)
    # A position at an epoch's start means that nothing of the epoch has been read.
    last = first if end is None or len(end) < 4 else (end[0] - (not any(end[1:3])), end[3])
    begun = tuple(sorted({first, last})) if last[0] > first[0] else (first,) * (last[0] == first[0])
    return ShardOrder(shuffled, begun if any(order != shuffled for _, order in begun) else ())


def outside_training(config: DataConfig) -> Unwanted:
    """The function that tells which texts training leaves out: the held-out share, or none with an eval_source."""
    return HeldOut(0.0 if config.eval_source else config.eval_fraction)


def with_shard_order(start: Any, shuffled: bool) -> Any:
    """A saved position with its order of shards. Positions of older runs lack the order; `shuffled` is added there."""
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
    """Open the training documents of each stream in `starts`, from its position on (None: from the beginning).

    Args:
      config: the data; this reads streams, window (1 keeps the order of the shards too), eval_fraction and mix.
      sources: the one source, or the members of the mix.
      seed: the run's seed.
      starts: positions by stream.
      ends: positions by stream, each after a window that begins at `starts` and must be read again unchanged. A stream
        without an end has it in the epoch of its start.
    """
    ends = ends or {}
    unwanted = outside_training(config)
    mixed = config.source == "mix"
    members: list[dict[int, Documents]] = []
    for index, source in enumerate(sources):
        if isinstance(source, PreparedSource):
            places = {
                stream: place["members"][index] if mixed and place else place
                for stream, place in starts.items()
            }
            members.append(_prepared(config, source, seed, index, places))
            continue
        layout = open_layout(config, source, seed, index)
        if layout.shares_shards and len(starts) < config.streams:
            _say_shared(str(division(config, source)))
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
    weights, kept = shares(config, sources), keeps_its_place(config)
    return {
        stream: MixedDocuments(
            [member[stream] for member in members],
            MixDraws(weights, ("mix", seed, stream), start, ends.get(stream)),
            start["draw"] if start else 0,
            with_weights=kept,
        )
        for stream, start in starts.items()
    }


@functools.cache
def _say_shared(why: str) -> None:
    """Say once that this process reads the text of other processes too, and what to do about it."""
    if why:
        log.warning(
            "%s, so every process reads all of the text; prepare the corpus for a run of several hosts "
            "(python -m data.prepare, docs/corpus.md)",
            why,
        )


def _prepared(
    config: DataConfig, source: PreparedSource, seed: int, member: int, starts: Mapping[int, Any]
) -> dict[int, Documents]:
    """The training documents of a prepared corpus, by stream, each from its position on."""
    fraction = 0.0 if config.eval_source else config.eval_fraction
    shares = {stream: source.share(stream, config.streams, fraction) for stream in starts}

    def empty() -> UserError:
        return UserError(
            f"{source.setting} has {len(source)} documents, {source.held_out(fraction)} of them held out: too few for "
            f"config.data.streams={config.streams}; lower it, or prepare more text"
        )

    return {
        stream: PreparedDocuments(
            source,
            first,
            stop,
            shuffled(stop - first, seed, member, stream),
            (starts[stream] or [0])[0],
            empty,
            ahead=True,
        )
        for stream, (first, stop) in shares.items()
    }


@dataclass(frozen=True)
class Window:
    """Documents of a stream that are shuffled together; all belong to one epoch."""

    number: int
    epoch: int
    start: Any
    """Position before the first document."""
    end: Any
    """Position after the last document."""
    texts: list[Document]
    """The documents, in shuffled order."""
    last: bool
    """Whether the epoch ends with this window. An epoch's last window may be empty."""
    counts: Counts
    """Counts of the stream up to the end of this window."""


WindowOrder = Callable[[int, int], Sequence[int]]
"""Function (number of the window, number of its documents) -> order of the documents."""


PREPARED_WINDOW = 1024
"""Documents of a window of a prepared corpus. Its documents are in random order already; packing chooses among them."""


def in_given_order(number: int, documents: int) -> Sequence[int]:
    """The order of windows whose documents are in random order already."""
    return range(documents)


def window_order(seed: int, stream: int) -> WindowOrder:
    """The function that orders the windows of one stream."""

    def order(number: int, documents: int) -> Sequence[int]:
        if documents < 2:
            return range(documents)
        return permutation(documents, "window", seed, stream, number).tolist()

    return order


class WindowReader:
    """Reads a stream's windows. It can read a window in small parts, to spread the work over the steps."""

    def __init__(
        self, documents: Documents, size: int, order: WindowOrder, *, number: int, epoch: int, counts: Counts
    ):
        """Read windows of `size` documents.

        Args:
          documents: the stream's documents.
          size: number of documents in a window.
          order: function that orders a window's documents.
          number: number of the first window.
          epoch: epoch of the first window.
          counts: counts of the stream before the first window.
        """
        self._documents = documents
        self._size = size
        self._order = order
        self._number = number
        self._epoch = epoch
        self._counts = counts
        self._start = documents.position()
        self._texts: list[Document] = []
        self._last = False

    def read_ahead(self, documents: int) -> bool:
        """Read up to this many documents of the next window; return whether the window is complete."""
        self._read_to(min(self._size, len(self._texts) + documents))
        return self._last or len(self._texts) == self._size

    def take(self) -> Window:
        """The next window; its missing documents are read now."""
        self.read_ahead(self._size)
        return self._finish(Counts.from_dict(self._counts.as_dict()))

    def reread(self, size: int, last: bool) -> Window:
        """Read again the window in which a saved state stopped. The state's counts already include its documents.

        Raises:
          UserError: the corpus no longer has the same number of documents there.
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
        # An empty last window takes no number, because its existence depends on where reading stopped.
        self._number += bool(self._texts)
        self._epoch += self._last
        self._start, self._texts, self._last = end, [], False
        return window


def nothing_to_read(sources: Sequence[Source], counts: Counts) -> UserError:
    """The error for sources without a document for training; it shows the counts of the other documents."""
    shards = [shard for source in sources for shard in source.shards]
    return UserError(
        f"no document to train on in {', '.join(shards[:3])}{', ...' if len(shards) > 3 else ''}: {counts}; "
        "check config.data.path, config.data.filters and config.data.eval_fraction"
    )


def _empty_stream(layout: Layout, stream: int, unwanted: Unwanted) -> UserError:
    """The error for a stream without a document: the corpus has none, or too few for this number of streams."""
    counts, source = Counts(), layout.source
    for shard in range(len(source.shards)):
        for record in source.read(shard):
            if counts.keeps(record, unwanted):
                whole = (
                    ", or set config.data.split_files=False" if isinstance(source, RecordsOfShards) else ""
                )
                return UserError(
                    f"stream {stream} of {layout.streams} has no document: the corpus has too few for so many streams; "
                    f"lower config.data.streams or give more text{whole}"
                )
    return nothing_to_read([source], counts)

"""The contract between a source of text and the streams that read it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

BLANK = "blank line"
"""Stands in place of a reason for a line without text between documents; such a line is never counted."""


class Record(NamedTuple):
    """One record of a shard: a document, or the reason why it is dropped. A blank line has a number too."""

    number: int
    """Position in the shard, from 0. Dropped records count too, so the number names the same record in every run."""
    text: str
    """The document; empty if it is dropped."""
    dropped: str
    """A short reason, for counts ('quality_warnings: noisy', 'unreadable: invalid UTF-8'); '' if the record is kept."""


class Source(Protocol):
    """Documents in a fixed order, in shards that can be read independently."""

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards; never empty. Their order is the same on every machine."""
        ...

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Yield the records of one shard from record number `start` on; none is kept in memory.

        Raises:
          UserError: a document cannot be read and `bad_documents` is strict; the message names the file and the line.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digest of the corpus's identity: kind, shard names, sizes, filters; not of its contents."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A source that may be read by parts of its shards."""

    def divided(self, count: int, streams: int) -> Source | str:
        """The same documents in `count` shards of similar size, each of which is read alone.

        Shard n is for stream n modulo `streams`. The result depends on the corpus and these numbers alone.

        Returns:
          The source; or the reason why the corpus cannot be divided, empty if it is small.
        """
        ...


@dataclass(frozen=True)
class RecordsOfShards:
    """A source from its shards' names and a function that reads them."""

    shards: Sequence[str]
    read_shard: Callable[[int, int], Iterator[Record]]
    """Function (shard, number of the first record) -> records."""
    identity: str

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """See `Source`."""
        return self.read_shard(shard, start)

    def fingerprint(self) -> str:
        """See `Source`."""
        return self.identity

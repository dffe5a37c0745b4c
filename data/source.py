"""The contract between a source of text and the streams that read it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

BLANK = "blank line"
"""In place of a reason: a line without text between documents, which is none and counts nowhere."""


class Record(NamedTuple):
    """One record of a shard: a document, or the reason why there is none; a blank line has a number too."""

    number: int
    """Position in the shard, from 0, counting every record, dropped ones too: it names the same record at every run."""
    text: str
    """The document; empty where it is dropped."""
    dropped: str
    """Why not, a short reason to count by ('quality_warnings: noisy', 'unreadable: invalid UTF-8'); '' if kept."""


class Source(Protocol):
    """Documents in a fixed order, in shards that can be read apart from one another."""

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards, in an order that is the same on every machine. Never empty."""
        ...

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Yield the records of one shard from record number `start` on, without keeping them.

        Raises:
          UserError: an unreadable document where `bad_documents` is strict; it names the file and the line.
        """
        ...

    def fingerprint(self) -> str:
        """Hex digest of what identifies the corpus: kind, shard names, sizes, filters. Not its contents."""
        ...

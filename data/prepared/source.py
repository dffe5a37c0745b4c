"""A prepared corpus, opened: random access to its documents, and the share of each stream."""

import bisect
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import xxhash
from etils import epath

from base.errors import UserError
from base.home import cache_folder
from base.storage import explained, is_remote, patiently
from data.config import SourceConfig
from data.held_out_documents import threshold
from data.prepared.index import HEADER, IDS, INDEX, LENGTHS, TOKENIZER, Index, Shard, lengths_of, read_index

CACHE = "~/.cache/unmask/prepared"
"""Where shards of a bucket are kept; UNMASK_CACHE names another folder."""
READER = "readahead_buffer_size:0,max_parallelism:0"
"""Documents are read in random order, by the thread that asks: threads of the reader's own cost more than they save."""


class PreparedSource:
    """The shards that `python -m data.prepare` wrote, local or in a bucket.

    A shard of a bucket is copied to this machine when the first of its documents is read. Streams have contiguous
    shares, so a process copies the shards of its own streams alone.

    Raises:
      UserError: the folder holds no prepared corpus, or one that is not whole.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Read the index; `where` is the path of `config` in messages."""
        if not config.path:
            raise UserError(
                f"{where}.path is not set; {where}.source='prepared' needs the folder that `python -m data.prepare "
                "--out` wrote"
            )
        self.setting = f"{where}.path={config.path!r}"
        self.folder = epath.Path(config.path).expanduser()
        self.index: Index = read_index(self.folder, self.setting)
        self._ids = IDS[self.index.ids]
        self._ends = list(itertools.accumulate(shard.documents for shard in self.index.shards))
        self._readers: dict[int, Any] = {}
        self._opening = threading.Lock()
        if not is_remote(self.folder):
            self._check_sizes()

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards."""
        return [shard.name for shard in self.index.shards]

    def read(self, shard: int, start: int = 0) -> Iterator[Any]:
        """There is no text to read (see `data.source_protocol.Source.read`)."""
        self.no_text()

    def no_text(self) -> NoReturn:
        """Refuse a use of the text.

        Raises:
          UserError: always.
        """
        raise UserError(
            f"{self.setting} holds token ids and no text; for this, set the source that it was prepared from"
        )

    def fingerprint(self) -> str:
        """Hex digest of the shards' content."""
        return self.index.fingerprint()

    def __len__(self) -> int:
        return self._ends[-1]

    def check_tokenizer(self, fingerprint: str) -> None:
        """Refuse another tokenizer than that of the shards.

        Raises:
          UserError: the tokenizer is another one.
        """
        if fingerprint != self.index.tokenizer:
            raise UserError(
                f"{self.setting} was made with another tokenizer (fingerprint {self.index.tokenizer[:12]}) than the "
                f"run's ({fingerprint[:12]}); leave config.tokenizer.path empty to take that of the shards, or prepare "
                "the corpus with the run's"
            )

    @property
    def tokenizer(self) -> epath.Path:
        """The folder of the tokenizer that made the ids."""
        return self.folder / TOKENIZER

    @lru_cache  # noqa: B019 - a run has few sources, which live as long as the run
    def held_out(self, fraction: float) -> int:
        """The number of documents that are held out if `fraction` is; they are the first."""
        below = threshold(fraction)
        shard = bisect.bisect_left([shard.first for shard in self.index.shards], below) - 1
        if shard < 0:
            return 0
        stop = self._ends[shard]
        documents = range(stop - self.index.shards[shard].documents, stop)
        return documents.start + bisect.bisect_left(documents, below, key=self._digest)

    def share(self, stream: int, streams: int, fraction: float) -> tuple[int, int]:
        """The first document of a stream's share of the training documents, and that after its last."""
        held = self.held_out(fraction)
        left = len(self) - held
        return held + stream * left // streams, held + (stream + 1) * left // streams

    def documents(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The ids of documents, int32 each, by their numbers in the corpus, in the given order."""
        records = self._records(numbers)
        joined = np.frombuffer(b"".join(records), self._ids).astype(np.int32)  # one call for all is cheaper
        header = HEADER.size // self._ids.itemsize
        ends = np.cumsum([len(record) for record in records]) // self._ids.itemsize
        begins = [header, *(ends[:-1] + header).tolist()]
        return [joined[begin:end] for begin, end in zip(begins, ends.tolist())]

    def lengths(self, first: int, stop: int) -> np.ndarray:
        """The numbers of tokens of the documents first to stop (exclusive), int64."""
        return self._lengths[first:stop].astype(np.int64)

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.concatenate([self._lengths_of(shard) for shard in self.index.shards])

    def _lengths_of(self, shard: Shard) -> np.ndarray:
        file = self.folder / lengths_of(shard.name)
        with explained(self.folder, self.setting.partition("=")[0]):
            try:
                content = patiently(file.read_bytes, str(file))
            except FileNotFoundError:
                raise UserError(
                    f"{file} is missing; copy the folder again, or prepare the corpus again"
                ) from None
        if len(content) == shard.documents * LENGTHS.itemsize:
            lengths = np.frombuffer(content, LENGTHS)
            if lengths.sum(dtype=np.int64) == shard.tokens:
                return lengths
        raise UserError(f"{file} is damaged; prepare the corpus again")

    def _digest(self, number: int) -> int:
        (record,) = self._records(np.array([number]))
        return int(HEADER.unpack_from(record)[0])

    def _records(self, numbers: np.ndarray) -> list[bytes]:
        """The records of documents, each shard's in one call."""
        shards = np.searchsorted(self._ends, numbers, "right")
        found: list[bytes] = [b""] * len(numbers)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            first = self._ends[shard] - self.index.shards[shard].documents
            for place, record in zip(
                places.tolist(), self._read(shard, (numbers[places] - first).tolist()), strict=True
            ):
                found[place] = record
        return found

    def _read(self, shard: int, records: list[int]) -> list[bytes]:
        from array_record.python.array_record_module import ArrayRecordReader

        path = ""
        try:
            with self._opening:
                if shard not in self._readers:
                    path = self._local(shard)
                    reader = ArrayRecordReader(path, READER)
                    self._check_records(shard, reader)
                    self._readers[shard] = reader
            return list(self._readers[shard].read(records))
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(shard, " ".join(str(error).split())[:200]) from error

    def _damaged(self, shard: int, what: str) -> UserError:
        return UserError(f"{self.folder / self.shards[shard]} is damaged ({what}); prepare the corpus again")

    def _check_records(self, shard: int, reader: Any) -> None:
        """Refuse a shard that is not the one of the index.

        Raises:
          UserError: it has other documents, or its ids have another type.
        """
        facts = self.index.shards[shard]
        if (count := reader.num_records()) != facts.documents:
            raise self._damaged(shard, f"it has {count} documents, where {INDEX} says {facts.documents}")
        if count:
            found = (len(reader.read([0])[0]) - HEADER.size) / self._ids.itemsize
            if found != (wanted := int(self._lengths_of(facts)[0])):
                raise self._damaged(
                    shard, f"its first document has {found:g} ids of {self.index.ids}, not {wanted}"
                )

    def _local(self, shard: int) -> str:
        """The path of a shard on this machine."""
        name = self.index.shards[shard].name
        if not is_remote(self.folder):
            return os.fspath(self.folder / name)
        with explained(self.folder, self.setting.partition("=")[0]):
            return _copied(self.folder / name, self._cache / name, self.index.shards[shard])

    @cached_property
    def _cache(self) -> Path:
        base = cache_folder(os.environ.get("UNMASK_CACHE", CACHE)) or tempfile.mkdtemp(prefix="unmask-")
        return Path(base) / self.fingerprint()[:16]

    def _check_sizes(self) -> None:
        """Refuse a folder that lacks a part of what its index lists."""
        for shard in self.index.shards:
            sizes = {shard.name: shard.bytes, lengths_of(shard.name): shard.documents * LENGTHS.itemsize}
            for name, wanted in sizes.items():
                path = self.folder / name
                size = path.stat().length if path.exists() else None
                if size != wanted:
                    state = "is missing" if size is None else f"has {size} bytes and not {wanted}"
                    raise UserError(
                        f"{self.setting}: {name} {state}, so {INDEX} is not whole; copy the folder again, or prepare "
                        "the corpus again"
                    )


def _copied(source: epath.Path, target: Path, shard: Shard) -> str:
    """Copy a shard of a bucket, unless its copy is there; the copy appears whole.

    Raises:
      UserError: the bucket holds other content than the index says.
    """
    if not target.exists() or target.stat().st_size != shard.bytes:
        content = patiently(source.read_bytes, str(source))
        if len(content) != shard.bytes or xxhash.xxh3_128_hexdigest(content) != shard.checksum:
            raise UserError(
                f"{source} is not the file that {INDEX} lists; copy the folder again, or prepare it again"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(target)
    return os.fspath(target)

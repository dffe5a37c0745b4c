"""The stages that make ids and shards: an external sort of all documents by their digests.

Each task of the first stage tokenizes the kept documents of one shard of a source, and writes them as runs that are
sorted by digest. Each task of the second takes one range of digests out of all runs, and writes it as a shard.
"""

import os
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from etils import epath

from data.prepare.clusters import Workers
from data.prepare.near_duplicates import KEPT
from data.prepare.steps import CLEAN, UNIQUE, Documents, Step, execute
from data.prepare.work import (
    TABLE,
    Work,
    publish,
    read_array,
    read_texts,
    temporary,
    write_array,
    write_json,
    write_whole,
)
from data.prepared.index import IDS, LENGTHS, lengths_of, packed
from tokenizer.load import Loaded, load

RUNS, SHARDS = "runs", "shards"
RUN_TOKENS = 1 << 26
"""Tokens of a run, which bounds the memory of a task: 128 MB of ids of two bytes, 256 MB of four."""
CHARACTERS = 1 << 20
"""Characters in one call of the tokenizer."""
BLOCK = 1 << 14
"""Documents whose places are Python numbers at a time, which take much more memory than those of an array."""
OPTIONS = "group_size:1,zstd:3"
"""Each document can be read by itself. With its header and compressed, it takes about 0.9 of the size of its ids."""


class Tokenizing(Step):
    """Tokenizes the kept documents of a task, and writes runs."""

    name = "tokenizer"

    def __init__(self, folder: Path, tokenizer: str, ids: str):
        """Tokenize with the tokenizer in a folder; `ids` is the type of the ids."""
        super().__init__()
        self._work, self._tokenizer, self._ids = Work(folder), tokenizer, ids

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Write the runs of one task."""
        work, tokenizer = self._work, load(self._tokenizer)
        source = work.json(CLEAN, rank)["source"]
        digests, lengths, ids = array("Q"), array("q"), bytearray()
        counts = {"runs": 0, "documents": 0, "tokens": 0, "characters": 0, "seconds": 0.0, "source": source}
        for number, found in self._encoded(rank, tokenizer, counts):
            digests.append(number)
            lengths.append(len(found))
            ids += found.astype(IDS[self._ids]).tobytes()
            if len(ids) >= RUN_TOKENS * IDS[self._ids].itemsize:
                self._write(rank, counts, digests, lengths, ids)
                digests, lengths, ids = array("Q"), array("q"), bytearray()
        if digests:
            self._write(rank, counts, digests, lengths, ids)
        write_json(work.path(RUNS, rank, ".json"), counts)
        yield from ()

    def _encoded(
        self, rank: int, tokenizer: Loaded, counts: dict[str, Any]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the digest and the ids of each kept document."""
        digests: list[int] = []
        texts: list[str] = []
        characters = 0

        def encoded() -> Iterator[tuple[int, np.ndarray]]:
            begin = time.process_time()
            ids = tokenizer.encode(texts) if texts else []
            counts["seconds"] += time.process_time() - begin
            counts["characters"] += characters
            yield from zip(digests, ids, strict=True)
            digests.clear()
            texts.clear()

        for digest, text in kept_texts(self._work, rank):
            digests.append(digest)
            texts.append(text)
            characters += len(text)
            if characters >= CHARACTERS:
                yield from encoded()
                characters = 0
        yield from encoded()

    def _write(
        self, rank: int, counts: dict[str, Any], digests: "array[int]", lengths: "array[int]", ids: bytearray
    ) -> None:
        """Write a run, sorted by digest; equal digests keep the order of the source."""
        keys = np.frombuffer(digests, np.uint64)
        order = np.argsort(keys, kind="stable")
        unsorted = np.frombuffer(lengths, np.int64)
        stops = np.cumsum(unsorted) * IDS[self._ids].itemsize
        starts = stops - unsorted * IDS[self._ids].itemsize
        table = np.zeros(len(order), TABLE)
        table["digest"], table["length"], table["source"] = keys[order], unsorted[order], counts["source"]
        table["offset"] = np.cumsum(unsorted[order]) - unsorted[order]
        name = f"-{counts['runs']:03d}"
        content = memoryview(ids)
        parts = (content[starts[each] : stops[each]] for each in order)
        write_whole(self._work.path(RUNS, rank, f"{name}.ids"), parts)
        write_array(self._work.path(RUNS, rank, f"{name}.npy"), table)
        counts["runs"] += 1
        counts["documents"] += len(order)
        counts["tokens"] += int(unsorted.sum())


def kept_texts(work: Work, rank: int) -> Iterator[tuple[int, str]]:
    """The digests and the texts of the documents of a task that are no duplicates."""
    reasons = map(int, read_array(work.path(UNIQUE, rank, ".npy")))
    digests = map(int, read_array(work.path(CLEAN, rank, ".digests.npy")))
    texts = read_texts(work.path(CLEAN, rank, ".jsonl.zst"))
    for reason, digest, text in zip(reasons, digests, texts, strict=True):
        if reason == KEPT:
            yield digest, text


class ShardWriter(Step):
    """Writes one shard: the documents of one range of digests, from all runs."""

    name = "shards"

    def __init__(self, folder: Path, out: str, ids: str):
        """Write to the folder `out`, local or in a bucket."""
        super().__init__()
        self._work, self._out, self._ids = Work(folder), out, ids

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Write the shard of one task."""
        work = self._work
        tables, runs = [], []
        for path in work.names(RUNS, ".npy"):
            part = _between(read_array(path), rank, world_size)
            if len(part):
                tables.append(part)
                runs.append(np.memmap(path.with_suffix(".ids"), IDS[self._ids], "r"))
        joined = np.concatenate(tables) if tables else np.zeros(0, TABLE)
        owners = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        order = np.argsort(joined["digest"], kind="stable")
        name = f"shard-{rank:05d}-of-{world_size:05d}.array_record"
        path = temporary(work.path(SHARDS, rank, ".array_record"))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_records(path, joined[order], owners[order], runs)
        content, lengths = path.read_bytes(), joined["length"][order].astype(LENGTHS)
        out = epath.Path(self._out)
        publish(out / name, content)
        publish(out / lengths_of(name), lengths.tobytes())
        path.unlink()
        sources, owner_of = np.unique(joined["source"], return_inverse=True)
        facts = {
            "shard": {
                "name": name,
                "documents": len(joined),
                "tokens": int(lengths.sum(dtype=np.int64)),
                "first": _smallest(rank, world_size),
                "bytes": len(content),
                "checksum": xxhash.xxh3_128_hexdigest(content),
            },
            "sources": {
                str(source): [
                    int((owner_of == at).sum()),
                    int(joined["length"][owner_of == at].sum(dtype=np.int64)),
                ]
                for at, source in enumerate(sources.tolist())
            },
        }
        write_json(work.path(SHARDS, rank, ".json"), facts)
        yield from ()


def _between(table: np.ndarray, rank: int, shards: int) -> np.ndarray:
    """The documents of a sorted run that belong to a shard."""
    first = int(np.searchsorted(table["digest"], np.uint64(_smallest(rank, shards))))
    stop = len(table)
    if rank + 1 < shards:
        stop = int(np.searchsorted(table["digest"], np.uint64(_smallest(rank + 1, shards))))
    return table[first:stop]


def _smallest(rank: int, shards: int) -> int:
    """The smallest digest that belongs to a shard."""
    return -(-(rank << 64) // shards)


def _write_records(path: Path, table: np.ndarray, owners: np.ndarray, runs: Sequence[np.ndarray]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(os.fspath(path), OPTIONS)
    for begin in range(0, len(table), BLOCK):
        block = slice(begin, begin + BLOCK)
        for (digest, offset, length, source), owner in zip(table[block].tolist(), owners[block].tolist()):
            writer.write(packed(digest, source, runs[owner][offset : offset + length]))
    writer.close()


def tokenize(work: Work, tokenizer: epath.Path, ids: str, tasks: int, workers: Workers) -> None:
    """The third stage: ids of the kept documents, in sorted runs."""
    execute(work, RUNS, [Tokenizing(work.folder, str(tokenizer), ids)], tasks, workers)


def write_shards(work: Work, out: epath.Path, ids: str, shards: int, workers: Workers) -> None:
    """The fourth stage: the shards."""
    execute(work, SHARDS, [ShardWriter(work.folder, str(out), ids)], shards, workers)

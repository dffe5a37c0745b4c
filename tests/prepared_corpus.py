"""Prepared corpora for tests: shards of numbers, written without a preparation, and preparations of small texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordWriter

from data.config import SourceConfig
from data.held_out_documents import digest
from data.prepared.index import IDS, INDEX, LENGTHS, Index, Shard, SourceCounts, lengths_of, packed
from data.prepared.source import PreparedSource


def write_numbers(
    folder: Path, corpus: Sequence[Sequence[str]], shards: int = 3, tokenizer: str = "numbers"
) -> PreparedSource:
    """Write the documents of `tests.memory_corpus.make_corpus` as shards, in the order of their digests; open them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sorted((text for shard in corpus for text in shard), key=digest)
    facts = []
    for number, part in enumerate(np.array_split(np.array(texts, object), shards)):
        ids = [np.array(text.split(), np.int64).astype(IDS["uint16"]) for text in part]
        name = f"shard-{number:05d}-of-{shards:05d}.array_record"
        writer = ArrayRecordWriter(str(folder / name), "group_size:1,zstd:3")
        for text, one in zip(part, ids):
            writer.write(packed(digest(text), 0, one))
        writer.close()
        lengths = np.array([len(one) for one in ids], LENGTHS)
        (folder / lengths_of(name)).write_bytes(lengths.tobytes())
        content = (folder / name).read_bytes()
        checksum = xxhash.xxh3_128_hexdigest(content)
        facts.append(Shard(name, len(ids), int(lengths.sum()), digest(part[0]), len(content), checksum))
    total = SourceCounts("numbers", sum(f.documents for f in facts), sum(f.tokens for f in facts))
    index = Index("uint16", tokenizer, "", (total,), tuple(facts))
    (folder / INDEX).write_text(index.to_json())
    return PreparedSource(SourceConfig(source="prepared", path=str(folder)))

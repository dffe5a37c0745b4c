"""Documents from the beginnings of some shards of a corpus: what a sample is drawn from without a pass over all."""

import hashlib
import math
from collections.abc import Iterator, Sequence

from data.config import DataConfig
from data.corpus import training_documents
from data.source_protocol import Record, Source
from tokenizer.sample import size_of

SHARDS = 64
"""Number of shards to read from, if there are so many."""
TIMES = 2
"""Size of what is read, in samples."""


def documents_of_beginnings(
    data: DataConfig, sources: Sequence[Source], *, documents_at_most: int, bytes_at_most: int
) -> Iterator[str]:
    """Yield training documents, twice as many as a sample has; the members of a mix take turns by their weights.

    The shards of a source come in the order of the hashes of their names. Each gives a 64th of the documents, or an
    equal part if there are fewer shards. If some have less than their part, the next shards are read. If there are no
    more, the shards are read on. All is read where the corpus has less than two samples.

    Args:
      data: the data.
      sources: the open sources.
      documents_at_most: documents of the sample; 0 for no limit.
      bytes_at_most: bytes of the sample, as `size_of` counts them; 0 for no limit.

    Raises:
      UserError: there is no training document.
    """
    most, size = (TIMES * limit or math.inf for limit in (documents_at_most, bytes_at_most))
    documents: float = 0
    held: float = 0
    for text in training_documents(
        data, sources, read=lambda source, share: _turns(source, share, most, size)
    ):
        yield text
        documents, held = documents + 1, held + size_of(text)
        if documents >= most or held >= size:
            return


def _turns(source: Source, share: float, most: float, size: float) -> Iterator[Record]:
    """All records of a source: its shards take turns, at first of an equal part of `share` of the limits each."""
    names = source.shards
    places = dict.fromkeys(sorted(range(len(names)), key=lambda shard: (_digest(names[shard]), shard)), 0)
    part = share / min(SHARDS, len(names))
    while places:
        for shard in list(places):
            documents = held = 0
            for record in source.read(shard, places[shard]):
                yield record
                places[shard] = record.number + 1
                documents += not record.dropped
                held += 0 if record.dropped else size_of(record.text)
                if documents >= part * most or held >= part * size:
                    break
            else:
                del places[shard]
        part *= 2  # since a shard may have to pass over what it has given


def _digest(name: str) -> bytes:
    return hashlib.blake2b(
        name.encode("utf-8", "surrogatepass"), digest_size=8, key=b"shards of a sample"
    ).digest()

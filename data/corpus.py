"""The corpus as a whole: its sources, its fingerprint, one plain pass over it, and how many steps an epoch takes."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator, Sequence

from data.config import DataConfig, leaf_sources
from data.counts import Counts
from data.errors import UserError
from data.packing import LOOK_AHEAD, DocumentPlanner
from data.source import Source
from data.sources import open_source
from data.streams import nothing_to_read, open_layout, outside_training, window_order
from data.tokens import LARGEST_CHUNK, Cursor, Encode


def open_sources(config: DataConfig) -> list[Source]:
    """The source that the config names, or the members of its mix.

    Raises:
      UserError: a source cannot be opened, or a mix without members or with a weight that is not positive.
    """
    members = leaf_sources(config)
    if not members:
        raise UserError("data.source='mix' has no members; list them in data.mix")
    for index, member in enumerate(members):
        if config.source == "mix" and not member.weight > 0:
            raise UserError(f"data.mix[{index}].weight={member.weight} should be positive")
    return [open_source(member) for member in members]


def corpus_fingerprint(config: DataConfig, sources: Sequence[Source] | None = None) -> str:
    """Hex digest of which documents a run trains on: the sources, their weights, and the held-out share."""
    sources = open_sources(config) if sources is None else sources
    weights = [member.weight for member in config.mix] if config.source == "mix" else []
    held_out = 0.0 if config.eval_source else config.eval_fraction
    content = json.dumps([[source.fingerprint() for source in sources], weights, held_out])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def training_documents(
    config: DataConfig, sources: Sequence[Source] | None = None, counts: Counts | None = None
) -> Iterator[str]:
    """Every document that training may read, once, in the sources' order; the members of a mix one after another.

    `counts`, where given, is brought up to date while the documents are read.

    Raises:
      UserError: there is not one.
    """
    sources = open_sources(config) if sources is None else sources
    counts = Counts() if counts is None else counts
    unwanted, before = outside_training(config), counts.documents
    for source in sources:
        for shard in range(len(source.shards)):
            for record in source.read(shard):
                if counts.keeps(record, unwanted):
                    yield record.text
    if counts.documents == before:
        raise nothing_to_read(sources, counts)


def count_steps(
    config: DataConfig,
    encode: Encode,
    *,
    seed: int,
    seq_len: int,
    global_batch: int,
    epochs: int,
    sources: Sequence[Source] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """The exact number of batches that `open_batches` gives for so many epochs, by one pass over the corpus.

    Args:
      config: the data; not a mix.
      encode: texts to ids.
      seed: the run's.
      seq_len: row length S.
      global_batch: rows B of a batch.
      epochs: passes.
      sources: the opened source in a list; None opens what the config names.
      progress: called now and then with the number of documents counted so far.

    Raises:
      UserError: a mix, or a stream without a document.
    """
    if config.source == "mix":
        raise UserError(
            "a mix has no epochs: its sources end at different times; set steps instead of epochs"
        )
    source = (open_sources(config) if sources is None else sources)[0]
    lengths = _document_lengths(config, source, encode, seed, progress)
    rows = [
        _count_rows(config, source, seed, seq_len, epochs, stream, shards)
        for stream, shards in lengths.items()
    ]
    return -(-max(rows) // (global_batch // config.streams))


Lengths = dict[int, dict[int, "array[int]"]]
"""Tokens of every document, by stream and shard, in the order of the shard."""


def _document_lengths(
    config: DataConfig, source: Source, encode: Encode, seed: int, progress: Callable[[int], None] | None
) -> Lengths:
    layout, unwanted, counts = open_layout(config, source, seed), outside_training(config), Counts()
    lengths: Lengths = {stream: {} for stream in range(config.streams)}
    for shard in range(len(source.shards)):
        owners: list[int] = []
        texts: list[str] = []
        pending = 0

        def flush(shard: int = shard, owners: list[int] = owners, texts: list[str] = texts) -> None:
            for owner, ids in zip(owners, encode(texts), strict=True):
                lengths[owner].setdefault(shard, array("q")).append(len(ids))
            owners.clear()
            texts.clear()
            if progress is not None:
                progress(counts.documents)

        for record in source.read(shard):
            if counts.keeps(record, unwanted):
                owners.append(layout.owner(shard, record.number))
                texts.append(record.text)
                pending += len(record.text)
            if pending >= 4 * LARGEST_CHUNK:
                flush()
                pending = 0
        flush()
    return lengths


def _count_rows(
    config: DataConfig,
    source: Source,
    seed: int,
    seq_len: int,
    epochs: int,
    stream: int,
    shards: dict[int, "array[int]"],
) -> int:
    """Rows that one stream gives in so many epochs."""
    if config.packing == "full":
        tokens = sum(length + 1 for lengths in shards.values() for length in lengths if length)
        return epochs * -(-tokens // (seq_len - 1))
    if config.packing == "lines":
        return epochs * sum(-(-length // (seq_len - 2)) for lengths in shards.values() for length in lengths)
    layout, order = open_layout(config, source, seed), window_order(config, seed, stream)
    rows = number = 0
    for epoch in range(epochs):
        lengths = [length for shard in layout.shards(epoch, stream) for length in shards.get(shard, ())]
        for start in range(0, len(lengths), config.window):
            window = lengths[start : start + config.window]
            shuffled = [window[i] for i in order(number, len(window))]
            planner = DocumentPlanner(Cursor(), len(shuffled), shuffled.__getitem__, LOOK_AHEAD)
            while planner.row(seq_len):
                rows += 1
            number += 1
    return rows

"""The whole corpus: its sources, its fingerprint, one plain pass over it, and the number of steps in an epoch."""

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from base.errors import UserError
from data.best_fit import rows_of_best_fit
from data.config import DataConfig, leaf_sources
from data.document_counts import Counts
from data.document_planner import LOOK_AHEAD, DocumentPlanner
from data.mixes import keeps_its_place, shares
from data.packing import rows_in_order
from data.prepared.documents import shuffled
from data.prepared.source import PreparedSource
from data.random_orders import WeightedDraws
from data.source_protocol import Record, Source
from data.sources import check_fields, open_source
from data.streams import (
    PREPARED_WINDOW,
    nothing_to_read,
    open_layout,
    outside_training,
    shuffles_shards,
    window_order,
)
from data.token_streams import LARGEST_CHUNK, Cursor, Encode

log = logging.getLogger(__name__)


def open_sources(config: DataConfig, where: str = "config.data") -> list[Source]:
    """Open the source in the config, or all members of its mix. `where` is the path of `config` in messages.

    Raises:
      UserError: a source cannot be opened, a mix has no members or a weight that is not positive, or a field is set
        that the source does not read.
    """
    check_fields(config, where)
    if config.source != "mix":
        return [open_source(member, where) for member in leaf_sources(config)]
    if not config.mix:
        raise UserError(f"{where}.source='mix' has no members; list them in {where}.mix")
    for index, member in enumerate(config.mix):
        if not member.weight > 0:
            raise UserError(f"{where}.mix[{index}].weight={member.weight} should be positive")
        if config.temperature and member.source != "prepared":
            raise UserError(
                f"{where}.temperature={config.temperature} draws members by their size, which is known of prepared "
                f"ones alone; {where}.mix[{index}].source={member.source!r}: prepare it, or unset the temperature"
            )
    return [open_source(member, f"{where}.mix[{index}]") for index, member in enumerate(config.mix)]


def corpus_fingerprint(config: DataConfig, sources: Sequence[Source] | None = None) -> str:
    """Hex digest of a run's training documents: the sources, the held-out share, and weights that cannot change."""
    sources = open_sources(config) if sources is None else sources
    weighted = config.source == "mix" and not keeps_its_place(config)
    weights = [member.weight for member in config.mix] if weighted else []
    held_out = 0.0 if config.eval_source else config.eval_fraction
    content = json.dumps([[source.fingerprint() for source in sources], weights, held_out])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def training_documents(
    config: DataConfig,
    sources: Sequence[Source] | None = None,
    counts: Counts | None = None,
    *,
    read: Callable[[Source, float], Iterator[Record]] | None = None,
) -> Iterator[str]:
    """Yield every training document once, in the source's order.

    The members of a mix take turns by their weights until each has ended. So the first documents are a sample of the
    mix. The number of dropped documents is logged at the end.

    Args:
      config: the data.
      sources: the open sources; None to open the sources in the config.
      counts: counts to update while the documents are read.
      read: function from a source and its share of the draws, 1 in all, to its records; None for its own order.

    Raises:
      UserError: there is no training document.
    """
    sources = open_sources(config) if sources is None else sources
    counts = Counts() if counts is None else counts
    unwanted, before = outside_training(config), counts.documents
    try:
        weights = shares(config, sources)
        each = [weight / sum(weights) for weight in weights]
        members = [(read or _records)(source, share) for source, share in zip(sources, each, strict=True)]
        for record in _in_turns(members, weights):
            if counts.keeps(record, unwanted):
                yield record.text
    finally:  # also if the caller stops early
        if counts.dropped and counts.documents > before:
            log.info("read %d documents: %s", counts.documents - before, counts)
    if counts.documents == before:
        raise nothing_to_read(sources, counts)


def _records(source: Source, _: float) -> Iterator[Record]:
    for shard in range(len(source.shards)):
        yield from source.read(shard)


def _in_turns(members: list[Iterator[Record]], weights: list[float]) -> Iterator[Record]:
    """All records of the members, each member in its own order; a draw by weight chooses the next member."""
    while members:
        draws, number, end = WeightedDraws(weights, "turns", len(members)), 0, None
        while end is None:
            drawn = draws[number]
            number += 1
            if (record := next(members[drawn], None)) is None:
                end = drawn
            else:
                yield record
        members = members[:end] + members[end + 1 :]
        weights = weights[:end] + weights[end + 1 :]


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
    """The exact number of batches that `open_batches` gives for these epochs; it takes one pass over the corpus.

    Args:
      config: the data; not a mix.
      encode: function from texts to ids.
      seed: the run's seed.
      seq_len: row length S, in tokens.
      global_batch: number B of rows in a batch.
      epochs: number of passes over the corpus.
      sources: a list with the open source; None to open the source in the config.
      progress: function that gets the number of documents counted so far; called at intervals.

    Raises:
      UserError: the source is a mix, or a stream has no document.
    """
    if config.source == "mix":
        raise UserError(
            "a mix has no epochs: its sources end at different times; set config.steps instead of config.epochs"
        )
    source = (open_sources(config) if sources is None else sources)[0]
    if isinstance(source, PreparedSource):
        rows = [
            _rows_of_share(config, source, seed, seq_len, epochs, stream) for stream in range(config.streams)
        ]
        return -(-max(rows) // (global_batch // config.streams))
    lengths = _document_lengths(config, source, encode, seed, progress)
    rows = [
        _count_rows(config, source, seed, seq_len, epochs, stream, shards)
        for stream, shards in lengths.items()
    ]
    return -(-max(rows) // (global_batch // config.streams))


def _rows_of_share(
    config: DataConfig, source: PreparedSource, seed: int, seq_len: int, epochs: int, stream: int
) -> int:
    """Number of rows that one stream of a prepared corpus gives in these epochs."""
    first, stop = source.share(stream, config.streams, 0.0 if config.eval_source else config.eval_fraction)
    lengths = source.lengths(first, stop)
    if config.packing == "full":
        return epochs * -(-int((lengths + (lengths > 0)).sum()) // (seq_len - 1))
    if config.packing == "lines":
        return epochs * int((-(-lengths // (seq_len - 2))).sum())
    order = shuffled(len(lengths), seed, 0, stream)
    rows = 0
    for epoch in range(epochs):
        read = lengths[order(epoch, np.arange(len(lengths)))].tolist()
        for start in range(0, len(read), PREPARED_WINDOW):
            rows += _planned_rows(config.packing, read[start : start + PREPARED_WINDOW], seq_len)
    return rows


def _planned_rows(packing: str, lengths: Sequence[int], seq_len: int) -> int:
    """Number of rows of a window's documents that share rows, from their lengths in the window's order."""
    if packing == "best_fit":
        return rows_of_best_fit(lengths, seq_len)
    planner, rows = DocumentPlanner(Cursor(), len(lengths), lengths.__getitem__, LOOK_AHEAD), 0
    while planner.row(seq_len):
        rows += 1
    return rows


Lengths = dict[int, dict[int, "array[int]"]]
"""Number of tokens of every document, by stream and shard, in the shard's order."""


def _document_lengths(
    config: DataConfig, source: Source, encode: Encode, seed: int, progress: Callable[[int], None] | None
) -> Lengths:
    layout, unwanted, counts = open_layout(config, source, seed), outside_training(config), Counts()
    lengths: Lengths = {stream: {} for stream in range(config.streams)}
    for shard in range(len(layout.source.shards)):
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

        for record in layout.source.read(shard):
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
    """Number of rows that one stream gives in these epochs."""
    if config.packing == "full":
        tokens = sum(length + 1 for lengths in shards.values() for length in lengths if length)
        return epochs * -(-tokens // (seq_len - 1))
    if config.packing == "lines":
        return epochs * sum(-(-length // (seq_len - 2)) for lengths in shards.values() for length in lengths)
    layout, order = open_layout(config, source, seed), window_order(seed, stream)
    rows = number = 0
    for epoch in range(epochs):
        read = layout.shards(epoch, stream, shuffles_shards(config))
        lengths = [length for shard in read for length in shards.get(shard, ())]
        if config.window == 1:
            rows += rows_in_order(lengths, seq_len)
            continue
        for start in range(0, len(lengths), config.window):
            window = lengths[start : start + config.window]
            rows += _planned_rows(config.packing, [window[i] for i in order(number, len(window))], seq_len)
            number += 1
    return rows

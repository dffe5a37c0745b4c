"""Streams: who reads what, in which order, and reading on from any position."""

from collections.abc import Iterator

import numpy as np
import pytest

from data.config import DataConfig, SourceConfig
from data.document_counts import Counts
from data.random_orders import WeightedDraws, permutation, random_bits
from data.source_protocol import Record
from data.stream_records import Layout, OwnReader, Position, ShardOrder, SharedReader, open_readers
from data.streams import WindowReader, open_documents, window_order
from tests.memory_corpus import MemorySource, documents_of, make_corpus


def epoch_of(reader: OwnReader) -> list[tuple[int, int]]:
    """(shard, record) of everything up to the end of the epoch."""
    items = []
    while (item := reader.read()).record is not None:
        items.append((item.shard, item.record.number))
    return items


@pytest.mark.parametrize("shards", [3, 4, 31, 32, 37])
def test_every_record_belongs_to_one_stream(shards: int) -> None:
    source = MemorySource(make_corpus(shards, 50))
    layout = Layout(source, 4, 7)
    for epoch in range(2):
        parts = [epoch_of(OwnReader(layout, stream, Position(epoch))) for stream in range(4)]
        together = sorted(place for part in parts for place in part)
        assert together == [(s, n) for s in range(shards) for n in range(len(source._shards[s]))]


def test_streams_share_shards_where_there_are_enough_and_records_where_not() -> None:
    many, few = (
        Layout(MemorySource(make_corpus(32, 50)), 4, 7),
        Layout(MemorySource(make_corpus(3, 50)), 4, 7),
    )
    assert {shard % 4 for shard, _ in epoch_of(OwnReader(many, 1, Position()))} == {1}
    assert {(shard + number) % 4 for shard, number in epoch_of(OwnReader(few, 1, Position()))} == {1}


def test_short_shards_are_spread_over_the_streams() -> None:
    layout = Layout(MemorySource([["5"], ["6"], ["7"]]), 4, 7)
    assert [len(epoch_of(OwnReader(layout, stream, Position()))) for stream in range(4)] == [1, 1, 1, 0]


def test_the_order_of_shards_changes_with_epoch_and_seed_and_only_with_them() -> None:
    source = MemorySource(make_corpus(20, 20))
    orders = [Layout(source, 1, seed).shards(epoch, 0) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert Layout(source, 1, 1).shards(0, 0) == orders[0]
    assert Layout(source, 1).shards(3, 0) == list(range(20))


def test_random_choices_are_the_same_with_every_numpy() -> None:
    assert random_bits(2, "window", 1, 2, 3).tolist() == [7859501549393786179, 15920334565398663961]
    assert permutation(8, "shards", 0, 0).tolist() == [7, 6, 5, 3, 0, 1, 2, 4]


def test_draws_follow_the_weights_and_depend_on_nothing_but_their_number() -> None:
    draws = WeightedDraws([3.0, 1.0], "mix", 0, 5)
    drawn = [draws[number] for number in range(5000)]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.02)
    again = WeightedDraws([3.0, 1.0], "mix", 0, 5)
    assert [again[number] for number in (4999, 3, 1024, 1023)] == [
        drawn[number] for number in (4999, 3, 1024, 1023)
    ]


def interleaved(shared: SharedReader, streams: int, chosen: Iterator[int]) -> list[list[object]]:
    got: list[list[object]] = [[] for _ in range(streams)]
    for stream in chosen:
        got[stream].append(shared.read(stream))
    return got


@pytest.mark.parametrize("queued_chars", [1 << 20, 200, 0], ids=["roomy", "narrow", "none"])
@pytest.mark.parametrize("skew", [1.0, 6.0], ids=["even", "one stream runs ahead"])
def test_a_shared_reader_gives_each_stream_what_its_own_reader_would(queued_chars: int, skew: float) -> None:
    source = MemorySource(make_corpus(3, 60))
    layout = Layout(source, 4, 7)
    generator = np.random.default_rng(0)
    chance = np.array([skew, 1, 1, 1]) / (skew + 3)
    starts = {0: Position(0, 2, 3), 1: Position(), 2: Position(1, 0, 0), 3: Position(0, 1, 19)}
    shared = SharedReader(layout, starts, queued_chars)
    got = interleaved(shared, 4, iter(generator.choice(4, 500, p=chance).tolist()))
    for stream, items in enumerate(got):
        own = OwnReader(layout, stream, starts[stream])
        assert items == [own.read() for _ in items]


def test_streams_in_step_read_each_record_once() -> None:
    source = MemorySource(make_corpus(3, 60))
    readers = open_readers(
        Layout(source, 4, 7), dict.fromkeys(range(4), Position()), dict.fromkeys(range(4), ShardOrder())
    )
    for _ in range(10):
        for reader in readers.values():
            reader.read()
    assert source.records_read <= 50


def test_a_stream_that_fell_behind_shares_again_once_it_has_caught_up() -> None:
    source = MemorySource(make_corpus(1, 400))
    shared = SharedReader(Layout(source, 2), {0: Position(), 1: Position()}, queued_chars=400)
    for _ in range(100):
        shared.read(0)
    for _ in range(100):
        shared.read(1)
    before = source.records_read
    for _ in range(50):
        shared.read(0)
        shared.read(1)
    assert source.records_read - before <= 104


def windows_of(
    config: DataConfig, corpus: list[list[str]], stream: int, count: int, seed: int = 0
) -> list[list[str]]:
    documents = open_documents(config, [MemorySource(corpus)], seed, {stream: None})[stream]
    order = window_order(seed, stream)
    reader = WindowReader(documents, config.window, order, number=0, epoch=0, counts=Counts())
    return [reader.take().texts for _ in range(count)]


def test_a_window_holds_the_next_documents_in_another_order_and_stops_at_the_epochs_end() -> None:
    corpus = make_corpus(1, 20)
    config = DataConfig(streams=1, window=8, eval_fraction=0.0)
    windows = windows_of(config, corpus, 0, 6)
    assert [len(window) for window in windows] == [8, 8, 4, 8, 8, 4]
    assert [sorted(window) for window in windows[:3]] == [sorted(corpus[0][i : i + 8]) for i in (0, 8, 16)]
    assert (
        windows[0] != corpus[0][:8] and windows[0] != windows[3] and sorted(windows[0]) == sorted(windows[3])
    )


def test_a_window_of_one_keeps_the_order_of_the_files() -> None:
    corpus = make_corpus(12, 40)
    config = DataConfig(streams=1, window=1, eval_fraction=0.0)
    windows = windows_of(config, corpus, 0, 40)
    assert [window[0] for window in windows] == [text for shard in corpus for text in shard]


def test_the_last_window_is_empty_when_documents_end_with_the_one_before() -> None:
    config = DataConfig(streams=1, window=4, eval_fraction=0.0)
    corpus = [["5", "6", "7", "8", "!short"]]
    documents = open_documents(config, [MemorySource(corpus)], 0, {0: None})[0]
    reader = WindowReader(documents, 4, window_order(0, 0), number=0, epoch=0, counts=Counts())
    first, empty, again = reader.take(), reader.take(), reader.take()
    assert [(len(w.texts), w.last, w.number, w.epoch) for w in (first, empty, again)] == [
        (4, False, 0, 0),
        (0, True, 1, 0),
        (4, False, 1, 1),
    ]
    assert str(empty.counts) == "1 dropped (short: 1), 0 held out for evaluation"


def test_a_mix_draws_by_weight_and_repeats_its_members() -> None:
    config = DataConfig(
        source="mix",
        mix=(SourceConfig(weight=1.0), SourceConfig(weight=3.0)),
        streams=2,
        window=16,
        eval_fraction=0.0,
    )
    left, right = make_corpus(1, 30), make_corpus(1, 30, seed=1)
    opened = open_documents(config, [MemorySource(left), MemorySource(right)], 0, {0: None, 1: None})
    counts = Counts()
    drawn = [opened[0].read(counts) for _ in range(400)]
    assert sum(text in right[0] for text in drawn) == pytest.approx(300, abs=25)
    assert set(drawn) == {text for number in range(0, 30, 2) for text in (left[0][number], right[0][number])}
    assert [opened[1].read(counts) for _ in range(20)] != drawn[:20]


def test_documents_held_out_are_counted_and_never_read() -> None:
    corpus = make_corpus(2, 400)
    config = DataConfig(streams=1, window=1, eval_fraction=0.25)
    documents = open_documents(config, [MemorySource(corpus)], 0, {0: None})[0]
    counts = Counts()
    texts = []
    while (text := documents.read(counts)) is not None:
        texts.append(text)
    assert len(texts) == counts.documents == 400 - counts.held_out
    assert counts.held_out == pytest.approx(100, abs=30)
    assert set(texts) < set(documents_of(corpus))


def test_records_are_read_on_from_their_number() -> None:
    source = MemorySource([["5", "6", "7"]])
    reader = OwnReader(Layout(source, 1), 0, Position(0, 0, 2))
    assert reader.read().record == Record(2, "7", "")
    assert source.reads == [(0, 2)]

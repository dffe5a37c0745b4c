"""Batches: the same whoever makes them, exact on resume, ready ahead of their use."""

import gc
import json
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from base.errors import UserError
from data import token_streams
from data.batches import Batch, BatchIterator, batches_ahead, check_data, open_batches
from data.config import DataConfig, SourceConfig
from data.corpus import count_steps
from tests.memory_corpus import FIRST_TOKEN, SPECIAL, Encoder, MemorySource, documents_of, make_corpus


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks to a window, as with a real corpus."""
    monkeypatch.setattr(token_streams, "SMALLEST_CHUNK", 64)
    monkeypatch.setattr(token_streams, "LARGEST_CHUNK", 256)


CONFIG = DataConfig(streams=4, window=8, eval_fraction=0.1)


def configured(**changes: Any) -> DataConfig:
    return DataConfig(**{"streams": 4, "window": 8, "eval_fraction": 0.1, **changes})


def opened(
    config: DataConfig, sources: Sequence[MemorySource], encode: Encoder | None = None, **changes: Any
) -> BatchIterator:
    arguments: dict[str, Any] = {"seed": 1, "seq_len": 16, "global_batch": 8, **changes}
    return open_batches(config, encode or Encoder(), SPECIAL, sources=sources, **arguments)


def take(
    config: DataConfig, sources: Sequence[MemorySource], count: int | None = None, **changes: Any
) -> list[Batch]:
    """The first `count` batches, or all."""
    with opened(config, sources, **changes) as batches:
        return list(batches) if count is None else [next(batches) for _ in range(count)]


def text_tokens(batches: Sequence[Batch]) -> list[int]:
    """Every token but the special ones, sorted."""
    arrays = [batch.arrays["tokens"].ravel() for batch in batches]
    joined = np.concatenate(arrays)
    return sorted(joined[joined >= FIRST_TOKEN].tolist())


def assert_same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    assert len(left) == len(right)
    for index, (one, other) in enumerate(zip(left, right)):
        for name in ("tokens", "segments", "positions"):
            np.testing.assert_array_equal(one.arrays[name], other.arrays[name], f"batch {index}, {name}")
        assert one.states == other.states, f"batch {index}"


def with_drops(corpus: list[list[str]]) -> list[list[str]]:
    """The corpus with some records that its source drops, at the ends of shards too."""
    return [[text for pair in zip(shard, ["!short"] * len(shard)) for text in pair] for shard in corpus]


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
@pytest.mark.parametrize("shards", [3, 40], ids=["records shared out", "shards shared out"])
def test_resume_at_every_batch_repeats_and_loses_no_row(packing: str, shards: int) -> None:
    config = configured(packing=packing)
    source = MemorySource(with_drops(make_corpus(shards, 90)))
    whole = take(config, [source], epochs=3)
    assert whole[-1].states["0"]["epoch"] == 3
    for step in range(len(whole)):
        saved = json.loads(json.dumps(whole[step].states))
        assert_same(take(config, [source], epochs=3, states=saved), whole[step + 1 :])


@pytest.mark.parametrize("packing", ["full", "documents"])
def test_resume_of_a_mix_at_every_batch(packing: str) -> None:
    members = (SourceConfig(weight=3.0), SourceConfig(weight=1.0))
    config = configured(source="mix", mix=members, packing=packing)
    sources = [MemorySource(make_corpus(3, 40)), MemorySource(make_corpus(5, 30, seed=1))]
    whole = take(config, sources, 30)
    assert max(whole[-1].states["0"]["start"]["members"])[0] > 0, "the members' epochs end within the test"
    for step in range(len(whole)):
        saved = json.loads(json.dumps(whole[step].states))
        assert_same(take(config, sources, len(whole) - step - 1, states=saved), whole[step + 1 :])


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
@pytest.mark.parametrize("shards", [3, 40])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_same_global_batch(packing: str, shards: int, processes: int) -> None:
    config = configured(packing=packing)
    corpus = make_corpus(shards, 90)
    whole = take(config, [MemorySource(corpus)], 12)
    share = 8 // processes
    parts = [
        take(config, [MemorySource(corpus)], 12, rows=range(share * process, share * (process + 1)))
        for process in range(processes)
    ]
    for index, batch in enumerate(whole):
        for name, array in batch.arrays.items():
            joined = np.concatenate([part[index].arrays[name] for part in parts])
            np.testing.assert_array_equal(joined, array)
        states = {key: value for part in parts for key, value in part[index].states.items()}
        assert states == batch.states


def test_resume_on_another_number_of_processes() -> None:
    source = MemorySource(make_corpus(3, 90))
    whole = take(CONFIG, [source], 10)
    for rows in (range(4), range(4, 8), range(2, 4)):
        part = take(CONFIG, [source], 5, rows=rows, states=whole[4].states)
        for one, other in zip(part, whole[5:]):
            np.testing.assert_array_equal(
                one.arrays["tokens"], other.arrays["tokens"][rows.start : rows.stop]
            )


@pytest.mark.parametrize("shards", [3, 40])
def test_a_change_of_length_batch_and_packing_in_mid_run_loses_and_repeats_nothing(shards: int) -> None:
    corpus = make_corpus(shards, 120)
    source = MemorySource(corpus)
    batches = take(configured(packing="documents", eval_fraction=0.0), [source], 3, epochs=2, seq_len=12)
    for packing, seq_len, global_batch in [
        ("full", 21, 12),
        ("documents", 7, 4),
        ("lines", 10, 8),
        ("full", 5, 16),
    ]:
        config = configured(packing=packing, eval_fraction=0.0)
        shape = {"seq_len": seq_len, "global_batch": global_batch}
        batches += take(config, [source], 4, epochs=2, states=batches[-1].states, **shape)
    config = configured(packing="documents", eval_fraction=0.0)
    batches += take(config, [source], epochs=2, states=batches[-1].states)
    expected = sorted(2 * [int(word) for text in documents_of(corpus) for word in text.split()])
    assert text_tokens(batches) == expected


def test_states_are_small_with_a_window_of_a_thousand() -> None:
    config = DataConfig(streams=2, window=1024, packing="documents", eval_fraction=0.0)
    for batch in take(config, [MemorySource(make_corpus(1, 6000))], 60, seq_len=64):
        for state in batch.states.values():
            assert len(json.dumps(state)) < 600


def test_restoring_tokenizes_no_consumed_document_and_at_most_one_window_again() -> None:
    config = configured(eval_fraction=0.0)
    source = MemorySource(make_corpus(3, 90))
    batch = take(config, [source], 4)[-1]
    encode = Encoder()
    take(config, [source], 1, states=batch.states, encode=encode)
    consumed = set(text_tokens(take(config, [source], 4)))
    partly = {state["offset"] > 0 for state in batch.states.values()}
    repeated = [text for text in encode.texts if int(text.split()[0]) in consumed]
    assert partly == {True} and len(repeated) == len(batch.states), (
        "only the document that each stream stands in"
    )


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
@pytest.mark.parametrize("shards", [3, 40])
@pytest.mark.parametrize("window", [1, 8, 1000])
def test_count_steps_is_the_number_of_batches(packing: str, shards: int, window: int) -> None:
    config = configured(packing=packing, window=max(window, 1 + (packing == "best_fit")))
    source = MemorySource(make_corpus(shards, 90))
    shape = {"seed": 1, "seq_len": 16, "global_batch": 8, "epochs": 3}
    reports: list[int] = []
    steps = count_steps(config, Encoder(), sources=[source], progress=reports.append, **shape)
    batches = take(config, [source], epochs=3)
    assert steps == len(batches)
    assert reports[-1] == sum(state["counts"]["documents"] for state in batches[-1].states.values()) // 3


def test_documents_in_the_order_of_the_files_share_rows() -> None:
    corpus = [[f"{10 + number} {10 + number}" for number in range(40)]]
    config = DataConfig(streams=1, window=1, packing="documents", eval_fraction=0.0)
    shape: dict[str, Any] = {"seq_len": 32, "global_batch": 1, "epochs": 1}
    batches = take(config, [MemorySource(corpus)], **shape)
    assert (
        len(batches) == count_steps(config, Encoder(), sources=[MemorySource(corpus)], seed=1, **shape) == 5
    )
    words = np.concatenate([batch.arrays["tokens"][0] for batch in batches])
    assert words[words >= FIRST_TOKEN].tolist() == [int(w) for text in corpus[0] for w in text.split()]
    assert [batch.arrays["segments"].max() for batch in batches] == [8] * 5


def test_streams_that_end_sooner_give_padding_until_all_have_ended() -> None:
    corpus = [["5 6 7 8"], ["9 10 11 12 13 14 15 16 17 18 19 20"]]
    config = DataConfig(streams=2, window=1, eval_fraction=0.0)
    batches = take(config, [MemorySource(corpus)], epochs=1, seq_len=6, global_batch=2)
    np.testing.assert_array_equal(
        [batch.arrays["tokens"] for batch in batches],
        [
            [[0, 5, 6, 7, 8, 2], [0, 9, 10, 11, 12, 13]],
            [[1, 1, 1, 1, 1, 1], [0, 14, 15, 16, 17, 18]],
            [[1, 1, 1, 1, 1, 1], [0, 19, 20, 2, 1, 1]],
        ],
    )
    np.testing.assert_array_equal(batches[1].arrays["segments"][0], np.zeros(6))
    assert [state["rows"] for state in batches[-1].states.values()] == [1, 3]
    with opened(config, [MemorySource(corpus)], epochs=1, seq_len=6, global_batch=2, rows=range(1)) as part:
        rows = [next(part).arrays["tokens"].tolist() for _ in range(5)]
    assert rows == [[[0, 5, 6, 7, 8, 2]], *[[[1] * 6]] * 4], (
        "one process of two cannot know when the other has ended"
    )


def test_batches_do_not_depend_on_prefetch_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource(make_corpus(3, 90))
    expected = take(configured(prefetch=1), [source], 10)
    monkeypatch.setattr(token_streams, "SMALLEST_CHUNK", 1)
    monkeypatch.setattr(token_streams, "LARGEST_CHUNK", 1)
    assert_same(take(configured(prefetch=7), [source], 10), expected)


def test_more_batches_are_prepared_ahead_if_they_are_small() -> None:
    assert [batches_ahead(tokens) for tokens in (64, 1024, 4096, 1 << 20)] == [64, 64, 16, 4]
    with opened(CONFIG, [MemorySource(make_corpus(3, 90))]) as batches:
        assert batches._ready.maxsize == 64


@pytest.mark.parametrize("shards", [3, 40])
def test_the_last_epoch_reads_no_record_beyond_it(shards: int) -> None:
    source = MemorySource(make_corpus(shards, 90))
    take(CONFIG, [source], epochs=2)
    assert source.records_read == 2 * 90


def test_another_seed_gives_another_order_of_the_same_documents() -> None:
    source = MemorySource(make_corpus(3, 90))
    one, other = take(CONFIG, [source], epochs=1), take(CONFIG, [source], epochs=1, seed=2)
    assert text_tokens(one) == text_tokens(other)
    assert not np.array_equal(one[0].arrays["tokens"], other[0].arrays["tokens"])


def test_the_first_batch_does_not_wait_for_all_windows_to_be_tokenized() -> None:
    encode = Encoder()
    config = configured(window=1000, prefetch=1, eval_fraction=0.0)
    with opened(config, [MemorySource(make_corpus(3, 2000))], encode) as batches:
        next(batches)
        assert len(encode.texts) < 200


def test_a_warm_pipeline_keeps_batches_ready() -> None:
    with opened(CONFIG, [MemorySource(make_corpus(3, 2000))]) as batches:
        next(batches)
        waits = []
        for _ in range(10):
            time.sleep(0.02)
            waits.append(next(batches).wait)
    assert sorted(waits)[5] < 0.005


class BrokenSource(MemorySource):
    def read(self, shard: int, start: int = 0) -> Any:
        for record in super().read(shard, start):
            if record.number == 20:
                raise UserError("shard-0, line 21: broken")
            yield record


def test_an_error_in_the_background_is_raised_where_the_batch_is_asked_for() -> None:
    with opened(configured(streams=1, window=4), [BrokenSource(make_corpus(1, 40))]) as batches:
        with pytest.raises(UserError, match="shard-0, line 21: broken"):
            for _ in range(1000):
                next(batches)
        with pytest.raises(UserError, match="line 21"):
            next(batches)


def running() -> list[str]:
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("batches", "tokenize"))
    ]


def until_stopped() -> list[str]:
    deadline = time.monotonic() + 2
    while running() and time.monotonic() < deadline:
        time.sleep(0.01)
    return running()


def test_close_stops_the_background_work_at_once() -> None:
    batches = opened(CONFIG, [MemorySource(make_corpus(3, 2000))])
    next(batches)
    begin = time.perf_counter()
    batches.close()
    assert time.perf_counter() - begin < 0.5
    assert until_stopped() == []
    with pytest.raises(StopIteration):
        next(batches)


def test_an_iterator_that_is_dropped_stops_its_background_work() -> None:
    batches = opened(CONFIG, [MemorySource(make_corpus(3, 2000))])
    next(batches)
    del batches
    gc.collect()
    assert until_stopped() == []


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"global_batch": 10}, "config.global_batch=10 is not a multiple of config.data.streams=4"),
        ({"streams": 0}, {}, "config.data.streams=0 should be 1 or more"),
        ({"window": 0}, {}, "config.data.window=0 should be 1 or more"),
        ({"prefetch": -1}, {}, "config.data.prefetch=-1 should be 1 or more, or 0 for the default"),
        ({"eval_fraction": 1.0}, {}, "config.data.eval_fraction=1.0 should be at least 0 and below 1"),
        ({}, {"seq_len": 2}, "seq_len=2 should be at least 3"),
        ({}, {"epochs": 0}, "epochs=0 should be at least 1"),
        ({"source": "mix"}, {"epochs": 2}, "a mix has no epochs"),
        ({}, {"rows": range(1, 8)}, "should be a multiple of the number of processes"),
        (
            {"streams": 2},
            {"states": {"0": {}, "1": {}, "2": {}}},
            "data.streams=2, but the saved state has 3",
        ),
        ({"streams": 4}, {"states": {"0": {}}}, "data.streams=4, but the saved state has 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(configured(**changes), [MemorySource(make_corpus(1, 10))], **arguments)


def test_a_corpus_that_changed_under_a_state_is_refused() -> None:
    corpus = make_corpus(3, 90)
    states = take(CONFIG, [MemorySource(corpus)], 4)[-1].states
    shorter = [shard[:5] for shard in corpus]
    with pytest.raises(UserError, match="the corpus has changed since this run's state was saved"):
        take(CONFIG, [MemorySource(shorter)], 1, states=states)


def test_a_corpus_without_a_document_says_what_became_of_its_records() -> None:
    source = MemorySource([["!min_chars", "!min_chars"], ["!noisy"]])
    message = r"no document to train on in shard-0, shard-1: 3 dropped \(min_chars: 2, noisy: 1\), 0 held out"
    with pytest.raises(UserError, match=message):
        take(CONFIG, [source], 1)


def test_a_corpus_too_small_for_its_streams_says_so() -> None:
    with pytest.raises(UserError, match=r"stream 2 of 4 has no document.*lower config.data.streams"):
        take(configured(eval_fraction=0.0), [MemorySource([["5 6", "7 8"]])], 1)


def test_a_corpus_without_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="no document of the corpus has a single token"):
        take(configured(streams=1, eval_fraction=0.0), [MemorySource([["", " "]])], 1)


def test_equal_shares_where_there_are_hardly_more_shards_than_streams() -> None:
    corpus = [[f"{100 * shard + number}" for number in range(5, 85)] for shard in range(9)]
    config = DataConfig(streams=8, window=8, eval_fraction=0.0)
    batches = take(config, [MemorySource(corpus)], epochs=1, seq_len=16, global_batch=8)
    rows = [state["rows"] for state in batches[-1].states.values()]
    assert rows == [12] * 8, "90 documents of 2 tokens each for every stream, 15 tokens of text to a row"


def test_a_signal_handler_runs_while_a_batch_is_waited_for() -> None:
    waiting = threading.Event()

    class Slow(Encoder):
        def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
            waiting.wait(20)
            return super().__call__(texts)

    class StoppedError(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with opened(CONFIG, [MemorySource(make_corpus(3, 90))], Slow()) as batches:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            begin = time.monotonic()
            with pytest.raises(StoppedError):
                next(batches)
            assert time.monotonic() - begin < 5
            waiting.set()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_values_out_of_range_are_refused_at_the_place_they_were_set() -> None:
    check_data(DataConfig())
    with pytest.raises(UserError, match=r"^config\.phases\[1\]\.data\.window=0 should be 1 or more"):
        check_data(DataConfig(window=0), "config.phases[1].data")

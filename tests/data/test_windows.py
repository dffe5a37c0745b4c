"""Windows that change in mid-run, which loses and repeats no document, and windows of few documents."""

import json
from typing import Any

import numpy as np
import pytest

from data.batches import Batch
from data.config import SourceConfig
from tests.data.test_batches import assert_same, configured, small_chunks, take, text_tokens  # noqa: F401
from tests.memory_corpus import FIRST_TOKEN, MemorySource, documents_of, make_corpus


@pytest.mark.parametrize("packing", ["full", "documents", "lines"])
@pytest.mark.parametrize("shards", [1, 3, 40])
@pytest.mark.parametrize(
    "windows", [(1, 64), (64, 1), (64, 128), (8, 1, 7), (128, 1, 7), (1, 8, 1, 1000, 1)], ids=str
)
def test_a_change_of_window_in_mid_run_loses_and_repeats_nothing(
    packing: str, shards: int, windows: tuple[int, ...]
) -> None:
    corpus = make_corpus(shards, 640, longest=8)
    source = MemorySource(corpus)
    batches: list[Batch] = []
    for window in windows:
        config = configured(packing=packing, window=window, eval_fraction=0.0)
        states = json.loads(json.dumps(batches[-1].states)) if batches else None
        batches += take(config, [source], 9, epochs=3, states=states)
    batches += take(config, [source], epochs=3, states=batches[-1].states)
    expected = sorted(3 * [int(word) for text in documents_of(corpus) for word in text.split()])
    assert text_tokens(batches) == expected


@pytest.mark.parametrize("windows", [(64, 1), (1, 64), (128, 1, 7)], ids=str)
@pytest.mark.parametrize("shards", [3, 40])
def test_after_a_change_of_window_a_resume_and_other_processes_give_the_same_rows(
    shards: int, windows: tuple[int, ...]
) -> None:
    corpus = make_corpus(shards, 200, longest=12)
    states = None
    for window in windows[:-1]:
        states = take(configured(window=window), [MemorySource(corpus)], 7, states=states)[-1].states
    config = configured(window=windows[-1])
    whole = take(config, [MemorySource(corpus)], 20, states=states)
    for step in range(0, 19, 3):
        saved = json.loads(json.dumps(whole[step].states))
        assert_same(take(config, [MemorySource(corpus)], 19 - step, states=saved), whole[step + 1 :])
    halves = [
        take(config, [MemorySource(corpus)], 20, states=states, rows=rows) for rows in (range(4), range(4, 8))
    ]
    for index, batch in enumerate(whole):
        joined = np.concatenate([half[index].arrays["tokens"] for half in halves])
        np.testing.assert_array_equal(joined, batch.arrays["tokens"])


def test_a_window_of_one_reads_in_the_order_of_the_files_from_the_next_epoch_on() -> None:
    corpus = make_corpus(12, 60, longest=8)
    source = MemorySource(corpus)
    shape: dict[str, Any] = {"seq_len": 16, "global_batch": 1, "epochs": 2}
    before = take(configured(streams=1, window=16, eval_fraction=0.0), [source], 5, **shape)
    after = take(
        configured(streams=1, window=1, eval_fraction=0.0), [source], states=before[-1].states, **shape
    )
    second = np.concatenate([batch.arrays["tokens"][0] for batch in before + after])
    words = [int(token) for token in second if token >= FIRST_TOKEN]
    in_order = [int(word) for shard in corpus for text in shard for word in text.split()]
    assert words[len(in_order) :] == in_order
    assert words[: len(in_order)] != in_order and sorted(words[: len(in_order)]) == sorted(in_order)


@pytest.mark.parametrize("windows", [(16, 1), (1, 16), (16, 1, 7), (300, 1)], ids=str)
def test_a_change_of_window_in_a_mix_draws_every_document_of_an_epoch_once(windows: tuple[int, ...]) -> None:
    members = (SourceConfig(weight=3.0), SourceConfig(weight=1.0))
    corpora = [make_corpus(40, 60, longest=3), make_corpus(5, 30, longest=3, seed=1)]
    corpora[1] = [[" ".join(str(10_000 + int(w)) for w in text.split()) for text in s] for s in corpora[1]]
    batches: list[Batch] = []
    for window in windows:
        config = configured(
            source="mix", mix=members, streams=1, window=window, packing="lines", eval_fraction=0.0
        )
        states = json.loads(json.dumps(batches[-1].states)) if batches else None
        batches += take(
            config, [MemorySource(corpus) for corpus in corpora], 31, states=states, global_batch=5
        )
    # Of so long a run all but the last windows' documents are drawn: each as often as any, or once more.
    rest = take(
        config, [MemorySource(corpus) for corpus in corpora], 60, states=batches[-1].states, global_batch=5
    )
    words = text_tokens(batches + rest)
    for corpus in corpora:
        counts = [words.count(int(text.split()[0])) for text in documents_of(corpus)]
        assert max(counts) - min(counts) <= 1, counts


@pytest.mark.parametrize("window", [1, 8])
def test_a_state_without_the_order_of_its_shards_goes_on_in_that_of_its_window(window: int) -> None:
    config = configured(window=window)
    source = MemorySource(make_corpus(40, 90))
    whole = take(config, [source], 12)
    for step in range(11):
        old = json.loads(json.dumps(whole[step].states))
        for state in old.values():
            del state["end"]
            state["start"] = state["start"] and state["start"][:3]
        resumed = take(config, [source], 11 - step, states=old)
        for one, other in zip(resumed, whole[step + 1 :], strict=True):
            np.testing.assert_array_equal(one.arrays["tokens"], other.arrays["tokens"])


def test_a_window_of_few_documents_that_share_rows_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    source = MemorySource(make_corpus(1, 60))
    for window, warned in ((1, False), (2, True), (64, False)):
        caplog.clear()
        take(configured(window=window, packing="documents"), [source], 1)
        assert ("so with config.data.window=2 most of it may be padding" in caplog.text) == warned

"""Fault 17: the corpus ends in mid-batch, again and again; each epoch's documents are exact all the same."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from data.batches import Batch, open_batches
from data.config import DataConfig
from tests.memory_corpus import FIRST_TOKEN, SPECIAL, Encoder, MemorySource, documents_of, make_corpus

STREAMS = 4


def run(config: DataConfig, corpus: list[list[str]], epochs: int, killed_every: int | None) -> list[Batch]:
    """All batches of a run that is killed after every so many batches and goes on from the state it saved."""
    batches: list[Batch] = []
    states = None
    while True:
        with open_batches(
            config,
            Encoder(),
            SPECIAL,
            seed=3,
            seq_len=13,
            global_batch=12,
            states=states,
            epochs=epochs,
            sources=[MemorySource(corpus)],
        ) as opened:
            for index, batch in enumerate(opened, 1):
                batches.append(batch)
                states = json.loads(json.dumps(batch.states))
                if index == killed_every:
                    break
            else:
                return batches


def epochs_of(batches: Sequence[Batch], stream: int) -> list[Counter[int]]:
    """How often each token of a stream occurs in each epoch: an epoch ends when all that it began with is used up."""
    epochs: list[Counter[int]] = []
    share = 12 // STREAMS
    for batch in batches:
        for token in batch.arrays["tokens"][share * stream : share * (stream + 1)].ravel().tolist():
            if token < FIRST_TOKEN:
                continue
            if not epochs or token in epochs[-1]:
                epochs.append(Counter())
            epochs[-1][token] += 1
    return epochs


@pytest.mark.parametrize("packing", ["full", "documents", "lines"])
@pytest.mark.parametrize("shards", [3, 43], ids=["records shared out", "shards shared out"])
@pytest.mark.parametrize("killed_every", [None, 1, 7])
def test_each_epoch_has_each_document_once(packing: str, shards: int, killed_every: int | None) -> None:
    corpus = make_corpus(shards, 61)
    config = DataConfig(streams=STREAMS, window=8, packing=packing, eval_fraction=0.0)
    batches = run(config, corpus, 3, killed_every)
    documents = {int(text.split()[0]): text for text in documents_of(corpus)}
    parts = [epochs_of(batches, stream) for stream in range(STREAMS)]
    assert [len(part) for part in parts] == [3] * STREAMS
    everything = Counter(int(word) for text in documents.values() for word in text.split())
    for epoch in range(3):
        assert sum((part[epoch] for part in parts), Counter()) == everything
    ends = [
        index
        for index, (one, other) in enumerate(pairwise(batches))
        if any(one.states[stream]["epoch"] < other.states[stream]["epoch"] for stream in one.states)
    ]
    assert len(ends) > 3, "the streams' epochs end within different batches"
    final = batches[-1].states.values()
    assert all(state["epoch"] == 3 for state in final)
    assert sum(state["counts"]["documents"] for state in final) == 3 * 61


@pytest.mark.parametrize("packing", ["full", "documents", "lines"])
def test_no_row_holds_the_end_of_one_epoch_and_the_beginning_of_the_next(packing: str) -> None:
    corpus = make_corpus(3, 61)
    config = DataConfig(streams=STREAMS, window=8, packing=packing, eval_fraction=0.0)
    batches = run(config, corpus, 2, None)
    firsts = {int(text.split()[0]) for text in documents_of(corpus)}
    lasts = {int(text.split()[-1]) for text in documents_of(corpus)}
    share = 12 // STREAMS
    for stream in range(STREAMS):
        rows = [
            row for b in batches for row in b.arrays["tokens"][share * stream : share * (stream + 1)].tolist()
        ]
        seen: set[int] = set()
        for before, row in zip([None, *rows], rows):
            text = [token for token in row if token >= FIRST_TOKEN]
            if text and text[0] in seen and before is not None:
                seen = set()
                ended = [token for token in before if token >= FIRST_TOKEN]
                assert text[0] in firsts and ended[-1] in lasts
            seen.update(text)


def test_an_epoch_that_ends_with_a_row_ends_without_a_row_of_padding() -> None:
    corpus = [["5 6 7", "8 9 10"]]
    config = DataConfig(streams=1, window=1, eval_fraction=0.0)
    with open_batches(
        config,
        Encoder(),
        SPECIAL,
        seed=0,
        seq_len=5,
        global_batch=1,
        epochs=2,
        sources=[MemorySource(corpus)],
    ) as opened:
        rows = [batch.arrays["tokens"][0].tolist() for batch in opened]
    assert rows == [[0, 5, 6, 7, 2], [0, 8, 9, 10, 2]] * 2

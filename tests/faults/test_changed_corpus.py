"""A corpus that changed while a run was stopped: what the run was reading is compared, and nothing is read twice."""

import copy
from collections.abc import Callable

import pytest

from base.errors import UserError
from data.batches import Batch, open_batches
from data.config import DataConfig
from tests.memory_corpus import SPECIAL, Encoder, MemorySource, make_corpus

Corpus = list[list[str]]
PACKINGS = ("full", "documents", "lines")


def batches(
    corpus: Corpus, packing: str, states: dict | None = None, count: int = 6, window: int = 8
) -> list[Batch]:
    config = DataConfig(streams=2, window=window, eval_fraction=0.0, packing=packing)
    with open_batches(
        config,
        Encoder(),
        SPECIAL,
        sources=[MemorySource(corpus)],
        seed=1,
        seq_len=16,
        global_batch=2,
        states=states,
    ) as opened:
        return [next(opened) for _ in range(count)]


def other_letters(corpus: Corpus) -> None:
    """Every document of the same length, with other words."""
    for shard in corpus:
        shard[:] = [" ".join(str(int(word) + 10_000) for word in text.split()) for text in shard]


def shorter_documents(corpus: Corpus) -> None:
    for shard in corpus:
        shard[:] = [text.split()[0] for text in shard]


def joined(corpus: Corpus) -> None:
    """Words that have moved from a document to the one before."""
    for shard in corpus:
        for index in range(0, len(shard) - 1, 2):
            words = shard[index + 1].split()
            if len(words) > 1:
                shard[index : index + 2] = [f"{shard[index]} {words[0]}", " ".join(words[1:])]


@pytest.mark.parametrize("change", [other_letters, shorter_documents, joined])
@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("packing", PACKINGS)
def test_texts_at_hand_that_are_others_are_refused(
    packing: str, window: int, change: Callable[[Corpus], None]
):
    corpus = make_corpus(4, 60)
    made = batches(corpus, packing, count=20, window=window)
    states = next(batch.states for batch in made if any(state["size"] for state in batch.states.values()))
    changed = copy.deepcopy(corpus)
    change(changed)
    with pytest.raises(
        UserError, match=r"the corpus has changed since this run's state was saved \(.*\); put "
    ):
        batches(changed, packing, states, window=window)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_document_that_is_shorter_than_what_was_read_of_it_is_refused(packing: str):
    """States of older code have no digest of their texts: with these, joining documents end to end went on for ever."""
    corpus = make_corpus(2, 12, longest=200)
    found = 0
    for number in range(12):
        states = batches(corpus, packing, count=number + 1)[-1].states
        if not any(state["size"] and state["offset"] > 1 for state in states.values()):
            continue
        found += 1
        for state in states.values():
            state.pop("texts", None)
        changed = copy.deepcopy(corpus)
        shorter_documents(changed)
        with pytest.raises(
            UserError, match=r"of a document of 1 tokens, \d+ were read\); put the old text back"
        ):
            batches(changed, packing, states)
    assert found


@pytest.mark.parametrize("packing", PACKINGS)
def test_text_that_the_run_has_yet_to_read_may_change(packing: str):
    corpus = make_corpus(2, 60)
    states = batches(corpus, packing)[1].states
    changed = [[*shard, *more] for shard, more in zip(corpus, make_corpus(2, 20, seed=5))]
    assert len(batches(changed, packing, states)) == 6


@pytest.mark.parametrize("packing", PACKINGS)
def test_states_of_older_code_go_on(packing: str):
    corpus = make_corpus(4, 60)
    whole = batches(corpus, packing, count=6)
    states = whole[2].states
    for state in states.values():
        state.pop("texts", None)
    again = batches(corpus, packing, states, count=3)
    for one, other in zip(whole[3:], again, strict=True):
        assert {name: array.tolist() for name, array in one.arrays.items()} == {
            name: array.tolist() for name, array in other.arrays.items()
        }

"""The held-out share, and the rows that evaluation reads."""

from typing import Any

import numpy as np
import pytest

from base.errors import UserError
from data.batches import open_batches
from data.config import DataConfig, SourceConfig
from data.corpus import training_documents
from data.document_counts import Counts
from data.held_out_documents import HeldOut
from data.held_out_rows import evaluation_rows
from tests.memory_corpus import FIRST_TOKEN, SPECIAL, Encoder, MemorySource, documents_of, make_corpus


def tokens_of(rows: Any) -> set[int]:
    return set(rows[rows >= FIRST_TOKEN].tolist())


def held_out_tokens(corpus: list[list[str]], fraction: float) -> set[int]:
    held_out = HeldOut(fraction)
    return {int(word) for text in documents_of(corpus) if held_out(text) for word in text.split()}


def test_the_share_held_out_is_about_the_fraction_asked_for() -> None:
    held_out = HeldOut(0.1)
    assert np.mean([held_out(f"document {number}") for number in range(20000)]) == pytest.approx(
        0.1, abs=0.007
    )


def test_the_same_text_is_always_on_the_same_side() -> None:
    texts = [f"document {number}" for number in range(2000)]
    one, larger = HeldOut(0.1), HeldOut(0.2)
    chosen = {text for text in texts if one(text)}
    assert chosen == {text for text in texts if HeldOut(0.1)(text)}
    assert chosen < {text for text in texts if larger(text)}, (
        "raising the fraction moves no text back to training"
    )
    assert [text for text in texts[:40] if one(text)] == []


def test_nothing_is_held_out_at_zero() -> None:
    assert not any(HeldOut(0.0)(f"document {number}") for number in range(1000))


def test_a_lone_surrogate_has_a_side() -> None:
    assert HeldOut(0.999999)("\ud800") is True


@pytest.mark.parametrize("packing", ["full", "documents", "lines"])
@pytest.mark.parametrize("shards", [3, 40])
def test_training_and_evaluation_share_the_documents_between_them(packing: str, shards: int) -> None:
    corpus = make_corpus(shards, 300)
    source = MemorySource(corpus)
    config = DataConfig(streams=4, window=16, packing=packing, eval_fraction=0.2)
    rows = evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=10**4, sources=[source])
    with open_batches(
        config, Encoder(), SPECIAL, seed=0, seq_len=24, global_batch=8, epochs=1, sources=[source]
    ) as batches:
        trained = set().union(*(tokens_of(batch.arrays["tokens"]) for batch in batches))
    evaluated = tokens_of(rows["tokens"])
    assert evaluated == held_out_tokens(corpus, 0.2)
    assert evaluated.isdisjoint(trained)
    assert evaluated | trained == {int(word) for text in documents_of(corpus) for word in text.split()}


def test_evaluation_rows_are_in_the_order_of_the_files_and_stop_at_max_rows() -> None:
    corpus = make_corpus(3, 3000)
    held_out = HeldOut(0.2)
    config = DataConfig(eval_fraction=0.2)
    source = MemorySource(corpus)
    rows = evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=7, sources=[source])
    expected = []
    for text in (text for shard in corpus for text in shard if held_out(text)):
        expected += [*map(int, text.split()), SPECIAL.sep]
    assert rows["tokens"].shape == (7, 24)
    assert rows["tokens"][:, 1:].ravel().tolist() == expected[: 7 * 23]
    assert (rows["tokens"][:, 0] == SPECIAL.cls).all() and (rows["segments"] == 1).all()
    assert source.records_read < 1000


def test_evaluation_rows_do_not_depend_on_streams_or_window() -> None:
    corpus = make_corpus(3, 300)
    results = [
        evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=[MemorySource(corpus)])
        for config in (DataConfig(eval_fraction=0.2), DataConfig(eval_fraction=0.2, streams=2, window=1))
    ]
    np.testing.assert_array_equal(results[0]["tokens"], results[1]["tokens"])


def test_a_source_of_its_own_for_evaluation_holds_nothing_out() -> None:
    config = DataConfig(eval_source=SourceConfig(), eval_fraction=0.5, streams=1)
    corpus, other = make_corpus(2, 40), make_corpus(1, 10, seed=9)
    rows = evaluation_rows(
        config, Encoder(), SPECIAL, seq_len=24, max_rows=100, sources=[MemorySource(other)]
    )
    assert tokens_of(rows["tokens"]) == {int(word) for text in other[0] for word in text.split()}
    assert sorted(training_documents(config, [MemorySource(corpus)])) == documents_of(corpus)


def test_the_members_of_a_mix_share_the_rows_by_weight() -> None:
    config = DataConfig(
        source="mix",
        mix=(SourceConfig(weight=3.0), SourceConfig(weight=1.0)),
        eval_fraction=0.2,
    )
    left = make_corpus(1, 400)
    right = [[" ".join(str(100_000 + int(word)) for word in text.split()) for text in left[0]]]
    sources = [MemorySource(left), MemorySource(right)]
    rows = evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=sources)["tokens"]
    assert [max(row) > 100_000 for row in rows.tolist()] == [False] * 15 + [True] * 5


@pytest.mark.parametrize("fraction", [0.0, 0.001])
def test_nothing_held_out_is_an_error_that_says_what_to_do(fraction: float) -> None:
    config = DataConfig(eval_fraction=fraction)
    with pytest.raises(
        UserError, match=rf"config.data.eval_fraction={fraction} holds no document out.*raise it"
    ):
        evaluation_rows(
            config, Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=[MemorySource(make_corpus(1, 20))]
        )


def test_an_evaluation_source_without_a_document_is_an_error() -> None:
    config = DataConfig(eval_source=SourceConfig(path="empty.txt"))
    with pytest.raises(UserError, match=r"data.eval_source.path='empty.txt' has no document to evaluate on"):
        evaluation_rows(
            config, Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=[MemorySource([["!short"]])]
        )


def test_training_documents_are_one_plain_pass_without_what_is_held_out() -> None:
    corpus = make_corpus(3, 200)
    corpus[1].insert(0, "!noisy")
    held_out, counts = HeldOut(0.2), Counts()
    texts = list(training_documents(DataConfig(eval_fraction=0.2), [MemorySource(corpus)], counts))
    kept = [text for shard in corpus for text in shard if not text.startswith("!")]
    assert texts == [text for text in kept if not held_out(text)]
    assert counts.as_dict() == {
        "documents": len(texts),
        "held_out": 200 - len(texts),
        "dropped": {"noisy": 1},
    }


def test_training_documents_of_a_corpus_without_any_says_what_became_of_them() -> None:
    with pytest.raises(UserError, match=r"no document to train on in shard-0: 2 dropped \(noisy: 2\)"):
        list(training_documents(DataConfig(), [MemorySource([["!noisy", "!noisy"]])]))


def test_evaluation_without_a_share_held_out_is_refused_before_anything_is_read() -> None:
    source = MemorySource(make_corpus(1, 20))
    with pytest.raises(UserError, match=r"config\.data\.eval_fraction=0.0 holds no document out"):
        evaluation_rows(
            DataConfig(eval_fraction=0.0), Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=[source]
        )
    assert source.records_read == 0


def test_a_mix_whose_rows_would_all_come_from_a_member_without_documents_is_refused() -> None:
    config = DataConfig(
        source="mix", mix=(SourceConfig(weight=0.001), SourceConfig(weight=1.0)), eval_fraction=0.5
    )
    sources = [MemorySource(make_corpus(1, 20)), MemorySource([["!noisy"]])]
    with pytest.raises(UserError, match="holds no document out for evaluation"):
        evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=4, sources=sources)


def test_the_first_training_documents_of_a_mix_are_a_sample_of_it() -> None:
    config = DataConfig(
        source="mix", mix=(SourceConfig(weight=3.0), SourceConfig(weight=1.0)), eval_fraction=0.0
    )
    left = [[f"{number}" for number in range(1000)]]
    right = [[f"{number}" for number in range(1000, 2000)]]
    texts = list(training_documents(config, [MemorySource(left), MemorySource(right)]))
    assert sorted(map(int, texts)) == list(range(2000)), "each once"
    assert sum(int(text) < 1000 for text in texts[:400]) == pytest.approx(300, abs=25)
    assert [text for text in texts if int(text) < 1000] == left[0]


def test_an_evaluation_source_without_a_document_is_named_by_what_was_set() -> None:
    for changes, place in (({"source": "hub", "name": "org/x"}, "name='org/x'"), ({}, "source='pydoc'")):
        config = DataConfig(eval_source=SourceConfig(**changes))
        with pytest.raises(UserError, match=rf"config\.data\.eval_source\.{place} has no document"):
            evaluation_rows(
                config, Encoder(), SPECIAL, seq_len=24, max_rows=20, sources=[MemorySource([["!short"]])]
            )

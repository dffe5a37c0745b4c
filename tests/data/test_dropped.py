"""What sources drop is counted by reason, and shown."""

import logging

import pytest

from data.batches import Batch, dropped, open_batches
from data.config import DataConfig
from data.corpus import training_documents
from data.held_out_rows import evaluation_rows
from data.source_protocol import BLANK
from tests.memory_corpus import SPECIAL, Encoder, MemorySource, make_corpus


def run(config: DataConfig, corpus: list[list[str]], epochs: int) -> list[Batch]:
    """All batches of so many epochs."""
    with open_batches(
        config,
        Encoder(),
        SPECIAL,
        seed=1,
        seq_len=8,
        global_batch=2,
        epochs=epochs,
        sources=[MemorySource(corpus)],
    ) as batches:
        return list(batches)


def test_what_is_dropped_is_logged_when_an_epoch_has_ended_and_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = [f"{number} {number + 1}" for number in range(5, 85, 2)]
    corpus = [["!short", "!noisy", *words[:20], "!short", *words[20:]]]
    config = DataConfig(streams=2, window=1, eval_fraction=0.0)
    with caplog.at_level(logging.INFO, "data.batches"):
        batches = run(config, corpus, 2)
    assert dropped(batches[-1].states) == {"noisy": 2, "short": 4}
    assert caplog.messages == [
        "documents of 2 streams so far, counted again in each epoch: 3 dropped (noisy: 1, short: 2)",
        "documents of 2 streams so far, counted again in each epoch: 6 dropped (noisy: 2, short: 4)",
    ]


def test_nothing_is_logged_where_nothing_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "data.batches"):
        batches = run(DataConfig(streams=2), make_corpus(3, 90), 1)
    assert dropped(batches[-1].states) == {} and caplog.messages == []


def test_what_is_dropped_of_one_pass_and_of_evaluation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    corpus = make_corpus(1, 100)
    corpus[0].insert(3, "!noisy")
    config = DataConfig(eval_fraction=0.2)
    with caplog.at_level(logging.INFO, "data"):
        trained = list(training_documents(config, [MemorySource(corpus)]))
        evaluation_rows(
            config, Encoder(), SPECIAL, seq_len=24, max_rows=10**4, sources=[MemorySource(corpus)]
        )
    assert caplog.messages == [
        f"read {len(trained)} documents: 1 dropped (noisy: 1), {100 - len(trained)} held out for evaluation",
        f"evaluation reads {100 - len(trained)} documents: 1 dropped (noisy: 1)",
    ]


def test_blank_lines_are_no_documents_and_count_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    corpus = [[f"!{BLANK}", "5 6", f"!{BLANK}", "7 8", "!noisy", f"!{BLANK}"]]
    with caplog.at_level(logging.INFO, "data"):
        batches = run(DataConfig(streams=1, eval_fraction=0.0), corpus, 2)
    assert dropped(batches[-1].states) == {"noisy": 2}
    assert batches[-1].states["0"]["counts"]["documents"] == 4
    assert not any("blank" in message for message in caplog.messages)

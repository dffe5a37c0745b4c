"""The corpus as a whole: what identifies it, and members of a mix that cannot be."""

import pytest

from data.config import DataConfig, SourceConfig
from data.corpus import corpus_fingerprint, count_steps, open_sources
from data.errors import UserError
from tests.memory_corpus import Encoder, MemorySource, make_corpus

SOURCES = [MemorySource(make_corpus(2, 10))]


def test_the_fingerprint_changes_with_what_is_trained_on_and_with_nothing_else() -> None:
    base = corpus_fingerprint(DataConfig(), SOURCES)
    assert base == corpus_fingerprint(DataConfig(window=7, packing="lines", prefetch=1), SOURCES)
    assert base != corpus_fingerprint(DataConfig(eval_fraction=0.1), SOURCES)
    assert base != corpus_fingerprint(DataConfig(eval_source=SourceConfig()), SOURCES)
    assert base != corpus_fingerprint(DataConfig(), [MemorySource(make_corpus(2, 11))])


def test_the_fingerprint_of_a_mix_changes_with_the_weights() -> None:
    mixes = [DataConfig(source="mix", mix=(SourceConfig(weight=weight),)) for weight in (1.0, 2.0)]
    assert corpus_fingerprint(mixes[0], SOURCES) != corpus_fingerprint(mixes[1], SOURCES)


def test_a_mix_without_members_or_with_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="list them in data"):
        open_sources(DataConfig(source="mix"))
    with pytest.raises(UserError, match=r"data.mix\[1\].weight=0.0 should be positive"):
        open_sources(DataConfig(source="mix", mix=(SourceConfig(), SourceConfig(weight=0.0))))


def test_a_mix_has_no_steps_to_count() -> None:
    config = DataConfig(source="mix", mix=(SourceConfig(),))
    with pytest.raises(UserError, match="a mix has no epochs"):
        count_steps(config, Encoder(), seed=0, seq_len=8, global_batch=8, epochs=1, sources=SOURCES)

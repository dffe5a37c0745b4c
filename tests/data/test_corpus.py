"""The corpus as a whole: what identifies it, and members of a mix that cannot be."""

from pathlib import Path

import pytest

from base.errors import UserError
from data.config import DataConfig, SourceConfig
from data.corpus import corpus_fingerprint, count_steps, open_sources
from data.held_out_rows import evaluation_rows
from tests.memory_corpus import SPECIAL, Encoder, MemorySource, make_corpus

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
    with pytest.raises(UserError, match=r"list them in config\.data\.mix"):
        open_sources(DataConfig(source="mix"))
    with pytest.raises(UserError, match=r"data.mix\[1\].weight=0.0 should be positive"):
        open_sources(DataConfig(source="mix", mix=(SourceConfig(), SourceConfig(weight=0.0))))


def test_a_mix_has_no_steps_to_count() -> None:
    config = DataConfig(source="mix", mix=(SourceConfig(),))
    with pytest.raises(UserError, match="a mix has no epochs"):
        count_steps(config, Encoder(), seed=0, seq_len=8, global_batch=8, epochs=1, sources=SOURCES)


def test_a_path_or_a_mix_that_the_source_would_not_read_is_refused() -> None:
    message = r"config\.data\.path='a\.txt' has no effect: config\.data\.source='pydoc' does not read it; unset it, or"
    with pytest.raises(UserError, match=message):
        open_sources(DataConfig(path="a.txt"))
    with pytest.raises(
        UserError, match=r"config\.data\.mix has no effect: config\.data\.source='pydoc' does not"
    ):
        open_sources(DataConfig(mix=(SourceConfig(),)))
    with pytest.raises(
        UserError, match=r"config\.data\.path='a\.txt' has no effect: config\.data\.source='mix'"
    ):
        open_sources(DataConfig(source="mix", path="a.txt", mix=(SourceConfig(),)))


def test_a_data_set_named_by_a_recipe_is_passed_over_when_files_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hei\n")
    config = DataConfig(source="files", path=str(tmp_path / "a.txt"), name="allenai/c4", subset="en")
    assert list(open_sources(config)[0].shards) == ["a.txt"]


def test_mistakes_in_a_mix_and_in_the_evaluation_source_are_named_by_their_place() -> None:
    members = (SourceConfig(), SourceConfig(source="files", path="nowhere.txt"))
    with pytest.raises(
        UserError, match=r"config\.data\.mix\[1\]\.path: no such file or folder: 'nowhere.txt'"
    ):
        open_sources(DataConfig(source="mix", mix=members))
    config = DataConfig(eval_source=SourceConfig(source="oscar", path="nowhere"))
    with pytest.raises(UserError, match=r"config\.data\.eval_source\.path='nowhere' is not a folder"):
        evaluation_rows(config, Encoder(), SPECIAL, seq_len=24, max_rows=20)

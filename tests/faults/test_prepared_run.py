"""A run that trains from a prepared corpus: stopped and resumed to the bit, with the tokenizer of the shards."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from data.config import DataConfig, SourceConfig
from data.prepare.config import LengthConfig, PrepareConfig
from data.prepare.preparation import Task, prepare
from pretrain.job import assemble
from pretrain.train import train
from tests.faults.test_resume import PHASES, leaves, losses, on_devices, stop_at
from tests.tiny import tiny_config, write_corpus
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.run_tokenizer import ensure_tokenizer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 120 documents."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write_corpus(folder / "text.txt")
    config = PrepareConfig(
        steps=("length", "exact"), length=LengthConfig(min_words=5, min_mean_word=1.0), shards=3
    )
    data = DataConfig(source="files", path=str(text), eval_fraction=0.1)
    out = folder / "shards"
    out.mkdir()
    prepare(
        Task(config, data, TokenizerConfig(vocab_size=300, min_frequency=1), 32), epath.Path(out), None, 1
    )
    return out


@pytest.mark.slow
def test_a_run_from_shards_that_is_stopped_is_the_run_that_was_never_stopped(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_devices(monkeypatch, 2)
    changes = {"data": {"source": "prepared"}, "phases": PHASES, "steps": None, "eval": {"every": 4}}
    config = tiny_config(shards, **changes)
    whole = train(config, epath.Path(tmp_path / "whole"))
    for stop in (4, 7):
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            assert train(config, epath.Path(tmp_path / "parts")).step == stop
    resumed = train(config, epath.Path(tmp_path / "parts"))
    assert resumed.step == whole.step and resumed.metrics["eval/loss"] == whole.metrics["eval/loss"]
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    for expected, actual in zip(leaves(whole.state), leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_tokenizer_of_a_run_is_that_of_the_shards(shards: Path, tmp_path: Path) -> None:
    config = tiny_config(shards, data={"source": "prepared"})
    job = assemble(config, epath.Path(tmp_path / "run"), None)
    assert job.fingerprints["tokenizer"] == load(str(shards / "tokenizer")).fingerprint()
    epochs = dataclasses.replace(config, epochs=2, steps=None)
    assert assemble(epochs, epath.Path(tmp_path / "epochs"), None).epoch_steps
    other = assemble(
        tiny_config(write_corpus(tmp_path / "text.txt", seed=1)), epath.Path(tmp_path / "other"), None
    )
    assert other.fingerprints["tokenizer"] != job.fingerprints["tokenizer"]
    wrong = dataclasses.replace(config, tokenizer=TokenizerConfig(path=str(tmp_path / "other/tokenizer")))
    with pytest.raises(UserError, match=r"config.data.path=.* was made with another tokenizer"):
        assemble(wrong, epath.Path(tmp_path / "wrong"), None)
    (tmp_path / "lacking").mkdir()
    for file in shards.iterdir():
        if file.is_file():
            (tmp_path / "lacking" / file.name).write_bytes(file.read_bytes())
    lacking = tiny_config(tmp_path / "lacking", data={"source": "prepared"})
    with pytest.raises(UserError, match=r"has no tokenizer/tokenizer.json; copy the whole folder"):
        assemble(lacking, epath.Path(tmp_path / "none"), None)


def test_a_missing_folder_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "none", data={"source": "prepared"})
    with pytest.raises(UserError, match=r"config.data.path=.*/none': there is no such folder") as refused:
        train(config, epath.Path(tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_text_beside_a_prepared_evaluation_is_refused_before_a_tokenizer_is_trained(
    shards: Path, tmp_path: Path
) -> None:
    text = write_corpus(tmp_path / "text.txt")
    held_out = SourceConfig(source="prepared", path=str(shards))
    data = DataConfig(source="files", path=str(text), eval_source=held_out)
    run = epath.Path(tmp_path / "run")
    with pytest.raises(
        UserError, match=rf"set config.tokenizer.path='{shards}/tokenizer', or evaluate on text"
    ):
        ensure_tokenizer(TokenizerConfig(vocab_size=300), data, run, model_max_length=32, progress=False)
    assert not run.exists()
    named = TokenizerConfig(path=str(shards / "tokenizer"))
    assert ensure_tokenizer(named, data, run, model_max_length=32, progress=False)

"""A model that goes out and comes back: a run, export, transformers' save_pretrained, init_from of another run."""

import logging
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from etils import epath

from pretrain.export import export
from pretrain.job import assemble
from pretrain.origin import origin_params
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with on_one_device():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train(tiny_config(corpus, steps=2), epath.Path(folder / "run"))
    export(epath.Path(folder / "run"), epath.Path(folder / "exported"))
    return folder / "exported"


def test_a_run_goes_through_transformers_and_begins_another(exported: Path, corpus: Path, tmp_path: Path):
    theirs = tmp_path / "theirs"
    transformers.AutoModelForMaskedLM.from_pretrained(exported).save_pretrained(theirs)
    transformers.AutoTokenizer.from_pretrained(exported).save_pretrained(theirs)

    config, workdir = tiny_config(corpus, steps=2, init_from=str(theirs)), epath.Path(tmp_path / "second")
    job = assemble(config, workdir, None)
    expected, _ = restore_params(exported.parent / "run")
    jax.tree.map(np.testing.assert_array_equal, origin_params(job), expected)
    outcome = train(config, workdir)
    assert (outcome.step, outcome.interrupted) == (2, "")


def test_a_bare_encoder_begins_a_run_with_the_head_of_its_seed(
    exported: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    theirs = tmp_path / "theirs"
    transformers.AutoModel.from_pretrained(exported).save_pretrained(theirs)
    transformers.AutoTokenizer.from_pretrained(exported).save_pretrained(theirs)
    job = assemble(tiny_config(corpus, seed=3, init_from=str(theirs)), epath.Path(tmp_path / "run"), None)
    with caplog.at_level(logging.WARNING):
        params = origin_params(job)
    assert f"{theirs} has no masked-language-model head; a fresh one is made" in caplog.messages
    expected, _ = restore_params(exported.parent / "run")
    jax.tree.map(np.testing.assert_array_equal, params["layers"], expected["layers"])
    fresh = jax.jit(job.model.init)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, params["head"], fresh["head"])

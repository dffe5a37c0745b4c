"""A run's tokenizer: trained once from the documents that pretraining reads, or copied from where the config says."""

import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from data.config import DataConfig
from data.errors import UserError
from tokenizer.config import TokenizerConfig
from tokenizer.ensure import ensure_tokenizer
from tokenizer.load import load

REPOSITORY = Path(__file__).parents[2]
CONFIG_FILE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "steps": 10, "seq_len": 32, "model": {"hidden_size": 8},
        "tokenizer": {"vocab_size": 264}, "data": {"source": "files", "path": "%s", "eval_fraction": 0.0},
    })
"""


@pytest.fixture
def corpus(tmp_path) -> str:
    (tmp_path / "corpus.txt").write_text("rain and wind\n" * 20 + "wind and rain\n" * 20)
    return str(tmp_path / "corpus.txt")


def ensure(workdir, corpus, **fields):
    data = DataConfig(source="files", path=corpus, eval_fraction=0.0)
    config = TokenizerConfig(vocab_size=264, **fields)
    return ensure_tokenizer(config, data, epath.Path(workdir), model_max_length=32, progress=False)


def contents(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (workdir / "tokenizer").iterdir()}


def test_it_is_trained_once_and_then_kept(tmp_path, corpus):
    first = ensure(tmp_path / "run", corpus)
    before = contents(tmp_path / "run")
    Path(corpus).unlink()  # what is there needs no corpus
    again = ensure(tmp_path / "run", corpus)
    assert (
        again.fingerprint() == first.fingerprint() == load(str(tmp_path / "run" / "tokenizer")).fingerprint()
    )
    assert contents(tmp_path / "run") == before


def test_a_given_tokenizer_is_copied_into_the_run(tmp_path, corpus):
    trained = ensure(tmp_path / "first", corpus)
    path = str(tmp_path / "first" / "tokenizer")
    given = ensure(tmp_path / "second", "/no/such/corpus", path=path)
    assert given.fingerprint() == trained.fingerprint()
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_another_tokenizer_than_the_runs_own_is_refused(tmp_path, corpus):
    ensure(tmp_path / "first", corpus)
    ensure(tmp_path / "second", corpus, add_prefix_space=True)
    with pytest.raises(
        UserError, match=r"is not the tokenizer that this run began with, in .*/first/tokenizer"
    ):
        ensure(tmp_path / "first", corpus, path=str(tmp_path / "second" / "tokenizer"))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tokenizer", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_trains_and_run_again_leaves_it(tmp_path, corpus):
    (tmp_path / "config.py").write_text(CONFIG_FILE % corpus)
    arguments = (f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "run" / "tokenizer"
    assert first.stdout == f"{folder} now holds a tokenizer of 264 tokens\n"
    assert "tokenizer: 40 documents read, 0.0 MB; merging\n" in first.stderr
    before = contents(tmp_path / "run")
    assert b'"model_max_length": 32' in before["tokenizer_config.json"]
    again = command(*arguments, "--config.tokenizer.vocab_size=300")
    assert again.stdout == f"{folder} holds a tokenizer of 264 tokens already; it is left as it is\n"
    assert contents(tmp_path / "run") == before


def test_the_commands_mistakes_are_one_line_and_status_2(tmp_path, corpus):
    (tmp_path / "config.py").write_text(CONFIG_FILE % corpus)
    config = f"--config={tmp_path / 'config.py'}"
    without = command(config)
    assert (without.returncode, without.stderr) == (
        2,
        "error: no --workdir given; for example --workdir=runs/quickstart\n",
    )
    too_large = command(config, f"--workdir={tmp_path / 'run'}", "--config.tokenizer.vocab_size=300")
    assert too_large.returncode == 2
    assert too_large.stderr.splitlines()[-1].startswith(
        "error: tokenizer.vocab_size=300 is more than these 40 documents"
    )
    assert not (tmp_path / "run").exists()

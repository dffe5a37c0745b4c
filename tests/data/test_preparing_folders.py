"""Preparations touch only what is theirs, and see when what they depend on has changed."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from base.errors import UserError
from data.config import DataConfig, SourceConfig
from data.corpus import open_sources
from data.prepare import preparation, steps, tokenizing
from data.prepare.__main__ import main
from data.prepare.preparation import Task, fingerprints, prepare
from data.prepared.index import INDEX, WORK
from tests.data import test_preparing
from tests.data.test_preparing import prepared, sentences, stopping, task_of, write
from tokenizer.config import TokenizerConfig

tokenizer = test_preparing.tokenizer  # a fixture


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return write(tmp_path / "text", [sentences(seed) for seed in range(9)])


def recipe(tmp_path: Path) -> str:
    (tmp_path / "recipe.py").write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    return f"--config={tmp_path / 'recipe.py'}"


def test_only_the_preparations_own_folder_and_files_are_removed(
    tmp_path: Path,
    data: DataConfig,
    tokenizer: Path,
) -> None:
    out, work = tmp_path / "out", tmp_path / "scratch"
    for folder in (out, work, out / "work"):
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
    (out / "thesis.tmp").write_text("years of work")
    left = out / "shard-00000-of-00002.array_record.77.tmp"
    left.write_text("of a process that was killed")
    task = task_of(data, tokenizer)
    prepare(task, epath.Path(out), work, 1)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    assert (out / "work/thesis.txt").exists() and (out / "thesis.tmp").exists() and not left.exists()
    (work / WORK).mkdir()
    (work / WORK / "made_from.json").write_text('"another"')
    prepare(task, epath.Path(out), work, 1)
    assert (work / WORK).exists(), "the work of another preparation"
    prepared(data, tokenizer, out)
    assert (out / "thesis.txt").exists() and not (out / WORK).exists()


@pytest.mark.parametrize("work", ["out", "", "out/../out", "link"])
def test_a_folder_of_work_that_is_or_contains_the_output_is_refused(tmp_path: Path, work: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match=r"--work=.* is or contains --out=.*; set --work to a folder apart"):
        main(["data.prepare", recipe(tmp_path), f"--out={tmp_path / 'out'}", f"--work={tmp_path / work}"])


def test_a_tokenizer_that_another_preparation_left_is_not_taken(
    tmp_path: Path,
    data: DataConfig,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = epath.Path(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(tokenizing, "tokenize", stopping(tokenizing.tokenize, 0))
        with pytest.raises(KeyboardInterrupt):
            prepare(task_of(data, None), out, tmp_path / "one", 1)
    other = prepare(task_of(data, tokenizer), out, tmp_path / "other", 1)
    assert other.index.tokenizer == preparation.load(str(tokenizer)).fingerprint()


def test_a_preparation_without_its_tokenizer_takes_another_and_keeps_its_texts(
    tmp_path: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, task = epath.Path(tmp_path / "out"), task_of(data, None)
    large = Task(task.config, data, TokenizerConfig(vocab_size=50_000, min_frequency=1), 32)
    with pytest.raises(UserError, match=r"config.tokenizer.vocab_size=50000 is more than"):
        prepare(large, out, None, 1)
    shards = task_of(data, None, shards=2)
    with pytest.raises(
        UserError, match=r"with config.prepare.shards=0, config.tokenizer.vocab_size=50000; set"
    ):
        prepare(shards, out, None, 1)
    with monkeypatch.context() as patch:
        patch.setattr(steps.CleanWriter, "run", None)  # nothing is cleaned again
        prepare(task, out, None, 1)
    fresh = epath.Path(tmp_path / "fresh")
    assert prepare(task, out, None, 1).index == prepare(task, fresh, None, 1).index


def test_the_fingerprint_follows_all_that_the_shards_depend_on(
    tmp_path: Path,
    data: DataConfig,
    tokenizer: Path,
) -> None:
    def made_from(named: TokenizerConfig, seq_len: int = 32, of: DataConfig = data, **values: Any) -> str:
        return fingerprints(Task(task_of(data, None, **values).config, of, named, seq_len), open_sources(of))

    trained, named = TokenizerConfig(vocab_size=300), TokenizerConfig(path=str(tmp_path / "tokenizer"))
    shares = [DataConfig(**{**data.__dict__, "eval_fraction": share}) for share in (0.1, 0.2)]
    own = DataConfig(**{**shares[0].__dict__, "eval_source": SourceConfig(source="files", path="x")})
    assert made_from(trained, of=shares[0]) != made_from(trained, of=shares[1])
    assert made_from(trained, of=shares[0]) != made_from(trained, of=own) == made_from(trained)
    assert made_from(trained) != made_from(trained, 64), "a trained tokenizer names the length"

    for file in tokenizer.iterdir():
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        (tmp_path / "tokenizer" / file.name).write_bytes(file.read_bytes())
    before = made_from(named)
    assert made_from(named, 64) == made_from(named, of=own) == before
    file = tmp_path / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    file.write_text(json.dumps(content))
    assert made_from(named) != before

    values: dict[str, Any] = {
        "steps": ("overlap",),
        "overlap": {"files": str(tmp_path / "task.tsv"), "ngram": 3},
    }
    (tmp_path / "task.tsv").write_text("one two three\n")
    before = made_from(trained, **values)
    assert made_from(trained, **values) == before
    (tmp_path / "task.tsv").write_text("one two four\n")
    assert made_from(trained, **values) != before


def test_another_length_of_rows_is_named_where_it_matters(
    tmp_path: Path,
    data: DataConfig,
    tokenizer: Path,
) -> None:
    out = epath.Path(tmp_path / "out")
    task = task_of(data, None)
    prepare(task, out, None, 1)
    with pytest.raises(
        UserError, match=r"with another config.prepare, config.tokenizer, config.seq_len, config.data"
    ):
        prepare(Task(task.config, data, task.tokenizer, 64), out, None, 1)


def test_damaged_files_of_a_preparation_are_one_line(
    tmp_path: Path, data: DataConfig, tokenizer: Path
) -> None:
    out = tmp_path / "out"
    prepared(data, tokenizer, out)
    report = out / "report.json"
    for text in ("", report.read_text()[:-9], "[]", "{}"):
        report.write_text(text)
        with pytest.raises(UserError, match=r"report.json is damaged \(.+\); the shards are whole"):
            prepared(data, tokenizer, out)
    report.unlink()
    with pytest.raises(
        UserError, match=r"report.json is missing; the shards are whole: .* delete .*index.json"
    ):
        prepared(data, tokenizer, out)
    (out / INDEX).unlink()
    (out / WORK).mkdir()
    (out / WORK / "made_from.json").write_text("")
    with pytest.raises(
        UserError, match=r"made_from.json is damaged \(.+\); delete the folder .*unmask-prepare"
    ):
        prepared(data, tokenizer, out)


def test_an_archive_of_an_evaluation_that_is_cut_is_one_line(
    tmp_path: Path,
    data: DataConfig,
    tokenizer: Path,
) -> None:
    packed = gzip.compress(b"one two three four\n" * 99)
    (tmp_path / "task.tsv.gz").write_bytes(packed[:-9])
    overlap = {"files": str(tmp_path / "task.tsv.gz"), "ngram": 3}
    with pytest.raises(UserError, match=r"config.prepare.overlap.files: .*task.tsv.gz after line \d+: .+"):
        prepared(data, tokenizer, tmp_path / "out", steps=("overlap",), overlap=overlap)

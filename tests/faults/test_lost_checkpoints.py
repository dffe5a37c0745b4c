"""A run whose checkpoints are gone is refused: it has trained, and is not begun anew."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from finetune.results.final_outputs import finish
from finetune.train import train as finetune
from pretrain.train import train
from tests.faults.test_resume import stop_at
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_that_has_lost_its_checkpoints_is_refused(tmp_path, monkeypatch):
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=4, checkpoint={"every": 2})
    workdir = epath.Path(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(config, workdir).step == 3
    assert json.loads((tmp_path / "run" / "saved.json").read_text()) == {"step": 3}
    shutil.move(tmp_path / "run" / "checkpoints", tmp_path / "away")
    before = contents(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"has saved step 3 \(saved.json\), and has no checkpoint any more: put its folder"
    ):
        train(config, workdir)
    assert contents(tmp_path / "run") == before, "a refused run has changed files"
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    shutil.move(tmp_path / "away", tmp_path / "run" / "checkpoints")
    assert train(config, workdir).step == 4
    assert json.loads((tmp_path / "run" / "saved.json").read_text()) == {"step": 4}


def test_a_finished_run_of_older_code_is_refused_too(tmp_path):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_finetune(tmp_path / "task", epochs=1)
    finish(finetune(config, workdir), workdir)
    (tmp_path / "run" / "saved.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = contents(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"has saved step 7 \(finished.json\), and has no checkpoint any more"
    ):
        finetune(config, workdir)
    assert contents(tmp_path / "run") == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, monkeypatch):
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=3)
    workdir = epath.Path(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr("pretrain.reports.recorder.Recorder.step", lambda *arguments, **more: 1 / 0)
        train(config, workdir)
    assert (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "saved.json").exists()
    assert train(config, workdir).step == 3


@pytest.mark.parametrize("text", [None, "", '{"hid'])
def test_a_network_file_that_is_gone_or_damaged_is_made_again(tmp_path, monkeypatch, caplog, text):
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=4)
    workdir = epath.Path(tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        train(config, workdir)
    file = tmp_path / "run" / "model.json"
    whole = file.read_text()
    file.unlink() if text is None else file.write_text(text)
    assert train(config, workdir).step == 4
    assert "model.json is missing or damaged; it is made again from the config" in caplog.text
    assert json.loads(file.read_text()) == json.loads(whole)

"""A branch of a run: a checkpoint in a workdir of its own, from which a decay goes on."""

import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict
from pretrain import checkpoint
from pretrain.config import PretrainConfig
from pretrain.resume import RULES
from pretrain.runtime.changes import changes, check_unchanged, told
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.faults.test_damaged_checkpoints import truncate
from tests.faults.test_resume import losses, stop_at
from tests.tiny import on_one_device, tiny_config, write_corpus


def stable(corpus, **changes):
    values = {
        "steps": 12,
        "schedule": {"name": "constant"},
        "eval": {"every": 3},
        "checkpoint": {"every": 4, "keep": 9},
    }
    return tiny_config(corpus, **{**values, **changes})


def run(*arguments: object) -> int:
    return checkpoint.main(["checkpoint", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A stable run that was stopped after step 8, and its corpus."""
    folder = tmp_path_factory.mktemp("stable")
    corpus = write_corpus(folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch, on_one_device():
        stop_at(patch, 8)
        train(stable(corpus), epath.Path(folder / "run"))
    return folder / "run", corpus


def test_a_decay_goes_on_from_a_branch_and_the_stable_run_goes_on_beside_it(stopped, tmp_path, capsys):
    folder, corpus = stopped
    before, out = content(folder), tmp_path / "decay"
    assert run("branch", folder, "--step=4", f"--out={out}") == 0
    assert f"{out} holds step 4" in capsys.readouterr().out
    assert sorted(losses(out)) == [1, 2, 3, 4]
    decay = {"name": "wsd", "decay_fraction": 1 / 3}
    config = stable(corpus, steps=9, schedule=decay, eval={"every": 0})
    with on_one_device():
        with pytest.raises(UserError, match=r"config\.schedule\.name was 'constant', is 'wsd'.*--accept_ch"):
            train(config, epath.Path(out))
        outcome = train(config, epath.Path(out), accept_changes=True)
    assert outcome.step == 9 and json.loads((out / "finished.json").read_text())["step"] == 9
    assert content(folder) == before

    with on_one_device():
        train(stable(corpus), epath.Path(folder))
        train(stable(corpus), epath.Path(tmp_path / "whole"))
    assert losses(folder) == losses(tmp_path / "whole")
    ours, theirs = losses(out), losses(folder)
    # The learning rate of the update after step 7 is the first that is lower; step 9 is the first to show it.
    assert [ours[step] for step in range(1, 9)] == [theirs[step] for step in range(1, 9)]
    assert ours[9] != theirs[9]
    assert restore_params(folder, 4)[1]["best"]["step"] == 3
    assert restore_params(out, "best")[1]["step"] == 9, "the best of the run is not in its branch"


def test_a_decay_on_other_data_is_told_in_a_few_words(stopped):
    """A branch goes on with phases that the run did not have."""
    data = {"source": "files", "path": "best.txt", "streams": 4}
    phases = [{"steps": 8}, {"steps": 4, "schedule": "1-sqrt", "data": data}]
    before, now = stable(stopped[1]), stable(stopped[1], steps=None, phases=phases)
    text = "data.path='best.txt', data.source='files', data.streams=4, schedule='1-sqrt', steps=4"
    assert told(changes(RULES, as_dict(before), now), PretrainConfig) == {
        "phases[0]": ("nothing", "steps=8"),
        "phases[1]": ("nothing", text),
        "steps": ("12", "None"),
    }
    assert told(changes(RULES, as_dict(now), before), PretrainConfig)["phases[1]"] == (text, "nothing")
    other = stable(stopped[1], steps=None, phases=[{"steps": 8}, {"steps": 5, "schedule": "1-sqrt"}])
    assert told(changes(RULES, as_dict(now), other), PretrainConfig) == {
        "phases[1].data": ("path='best.txt', source='files', streams=4", "nothing"),
        "phases[1].steps": ("4", "5"),
    }
    with pytest.raises(
        UserError, match=r"config: config.phases\[0\] was nothing, is steps=8; config.phases\[1\] was"
    ):
        check_unchanged(RULES, as_dict(before), now, accept=False)


def test_the_newest_checkpoint_is_copied_where_no_step_is_named(stopped, tmp_path):
    assert run("branch", stopped[0], f"--out={tmp_path / 'new'}") == 0
    newest = restore_params(stopped[0])[1]["step"]
    assert [path.name for path in (tmp_path / "new" / "checkpoints").iterdir()] == [str(newest)]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_cannot_be_branched_is_refused_and_leaves_nothing(stopped, tmp_path):
    folder = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    truncate(folder / "checkpoints" / "4")
    for arguments, message in (
        (("--step=5", f"--out={tmp_path}/new"), r"there is no checkpoint of step 5 in .*; there are \["),
        (("--step=4", f"--out={tmp_path}/new"), r"checkpoint 4 cannot be copied: it is damaged \("),
        ((f"--out={folder}",), r"is there already; name a new folder"),
        (("--out=gs://bucket/new",), r"--out=gs://bucket/new is in a bucket, where branch copies nothing: "),
        ((), r"no --out given"),
    ):
        with pytest.raises(UserError, match=message):
            run("branch", folder, *arguments)
    for flag in ("--step=4", "--out=x"):
        with pytest.raises(UserError, match=r"has no effect: list copies nothing; leave it out"):
            run("list", folder, flag)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_checkpoint_that_its_run_deletes_meanwhile_is_said_to_be_gone(stopped, tmp_path, monkeypatch, what):
    folder, copy = Path(shutil.copytree(stopped[0], tmp_path / "run")), shutil.copytree

    def deleting(source, target, *more):  # copytree calls itself
        if Path(source).name == "4":
            gone = next(path for path in (Path(source) / "state").rglob("*") if path.is_file())
            shutil.rmtree(source) if what == "folder" else gone.unlink()
        return copy(source, target, *more)

    monkeypatch.setattr("pretrain.branch.shutil.copytree", deleting)
    with pytest.raises(UserError, match=r"checkpoint 4 in .*/run was deleted by its run while it was copied"):
        run("branch", folder, "--step=4", f"--out={tmp_path}/new")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

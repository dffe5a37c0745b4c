"""`python -m pretrain.checkpoint`: what a run has saved, whether it is sound, and less of it."""

import shutil
from pathlib import Path

import pytest
from etils import epath

from base import lock
from base.errors import UserError
from base.lock import held
from pretrain import checkpoint
from pretrain.runtime.checkpointer import Checkpointer
from tests.faults.test_damaged_checkpoints import STEPS, state, truncate


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    checkpointer = Checkpointer(folder, keep=9)
    for step in STEPS:
        counts = {"0": {"counts": {"documents": 100 * step}}}
        best = {"step": 3, "eval/loss": 1.0}
        checkpointer.save(step, state(step), {"best": best, "data": {"0": counts}})
    checkpointer.close()
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def run(*arguments: object) -> int:
    return checkpoint.main(["checkpoint", *map(str, arguments)])


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_steps_sizes_and_contents_are_listed(folder: Path, capsys):
    assert run("list", folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["step", "3", "6", "9"]
    size = sum(path.stat().st_size for path in (folder / "checkpoints" / "9").rglob("*") if path.is_file())
    assert f"{size / 1024:.1f} KiB" in lines[3] and "900 documents read" in lines[3]
    assert ["(best)" in line for line in lines[1:]] == [True, False, False]


def test_every_file_is_verified_and_what_is_damaged_is_named(folder: Path, capsys):
    assert run("verify", folder) == 0
    assert capsys.readouterr().out.count(" sound ") == 3
    truncate(folder / "checkpoints" / "6")
    assert run("list", folder) == 0, "listing reads no arrays"
    assert run("verify", folder) == 1
    out = capsys.readouterr().out
    assert out.count(" sound ") == 2 and "damaged" in out and "bytes, not" in out
    assert steps(folder) == ["3", "6", "9"], "nothing is moved"


def test_what_was_set_aside_and_what_has_no_manifest_is_shown(folder: Path, capsys):
    (folder / "checkpoints" / "6").rename(folder / "checkpoints" / "6.unreadable")
    checkpointer = Checkpointer(folder, keep=9, verify=False)
    checkpointer.save(12, state(12), {"best": None})
    checkpointer.close()
    assert run("verify", folder) == 0
    out = capsys.readouterr().out
    assert "set aside" in out and "6.unreadable" in out and "unchecked" in out


def test_pruning_keeps_the_newest_and_the_best(folder: Path, capsys):
    assert run("prune", folder) == 0
    assert capsys.readouterr().out == "deleted 6; kept 3, 9\n"
    assert steps(folder) == ["3", "9"]
    assert run("prune", folder, "--keep=5") == 0
    assert capsys.readouterr().out == "nothing to delete; kept 3, 9\n"


def test_nothing_is_pruned_beside_a_damaged_checkpoint(folder: Path):
    truncate(folder / "checkpoints" / "9")
    with pytest.raises(
        UserError, match=r"checkpoint 9, which would be kept, is damaged .*nothing is deleted"
    ):
        run("prune", folder)
    assert steps(folder) == ["3", "6", "9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{folder}"], "'show' should be one of list, verify, prune"),
        (["list"], "required: workdir"),
        (["list", "{folder}/nowhere"], "has no folder checkpoints"),
        (["prune", "{folder}", "--keep=0"], "--keep=0 should be 1 or more"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, arguments: list[str], message: str):
    with pytest.raises(UserError, match=message):
        run(*(argument.format(folder=folder) for argument in arguments))


def test_a_run_without_checkpoints_is_told(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run("list", tmp_path)


def test_a_run_keeps_its_best_beside_the_newest(tmp_path: Path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    for step in STEPS:
        checkpointer.save(step, state(step), {"best": {"step": 3, "eval/loss": 1.0}})
    checkpointer.close()
    assert steps(tmp_path) == ["3", "9"]


def test_the_checkpoints_of_a_run_that_trains_are_not_pruned(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "_has_ended", lambda found: False)
    with held(epath.Path(folder)), pytest.raises(UserError, match="trains in --workdir"):
        run("prune", folder)
    assert steps(folder) == ["3", "6", "9"]

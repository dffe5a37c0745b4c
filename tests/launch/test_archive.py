"""The code that goes to the machines: a commit or the tree, the same bytes for the same files, and no secrets."""

import io
import subprocess
import tarfile
from dataclasses import replace

import pytest

from data.errors import UserError
from launch.archive import make_archive
from launch.config import LaunchConfig

COMMIT, TREE = LaunchConfig(), replace(LaunchConfig(), source="archive")


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "a.py").write_text("first\n")
    (tmp_path / ".gitignore").write_text("runs/\n.venv/\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder, *words):
    own = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *own, *words], cwd=folder, check=True)


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def content(archive, name):
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        return tar.extractfile(name).read().decode()


def test_a_dirty_tree_is_refused_or_archived_or_left_for_a_commit(checkout):
    (checkout / "a.py").write_text("second\n")
    with pytest.raises(UserError, match=r"changes that are not committed \(a\.py\): commit them"):
        make_archive(COMMIT, checkout)
    assert content(make_archive(TREE, checkout), "a.py") == "second\n"
    assert content(make_archive(replace(COMMIT, commit="HEAD"), checkout), "a.py") == "first\n"


@pytest.mark.parametrize("name", ["nothing", "--help"])
def test_an_unknown_commit_is_named(name, checkout):
    with pytest.raises(UserError, match=f"config.commit='{name}' is no commit"):
        make_archive(replace(COMMIT, commit=name), checkout)


def test_runs_environments_and_keys_stay_behind(checkout, capsys):
    for name in (
        ".venv/x",
        "runs/r/model",
        ".env",
        "keys/my.pem",
        ".ssh/id_rsa",
        "service-account.json",
        "new.py",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    assert make_archive(TREE, checkout).names == {".gitignore", "a.py", "new.py"}
    assert "left out" in capsys.readouterr().err


def test_code_that_holds_a_secret_of_the_environment_is_refused_without_repeating_it(checkout):
    (checkout / "a.py").write_text("token = 'hf_canary_4711'\n")
    commit(checkout)
    with pytest.raises(UserError, match=r"a\.py holds the value of HF_TOKEN") as refused:
        make_archive(COMMIT, checkout, {"HF_TOKEN": "hf_canary_4711"})
    assert "canary" not in str(refused.value)


def test_the_same_files_make_the_same_archive(checkout):
    assert make_archive(COMMIT, checkout).digest == make_archive(TREE, checkout).digest

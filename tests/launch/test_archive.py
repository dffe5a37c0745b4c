"""The code that goes to the machines: a commit or the tree, the same bytes for the same files, and no secrets."""

import io
import os
import subprocess
import tarfile
from dataclasses import replace

import pytest

import launch.archive
from base.errors import UserError
from launch.archive import main, make_archive
from launch.config import LaunchConfig
from tests.launch.secret_names import PLAIN, SECRETS

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


def put(checkout, *names):
    for name in names:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)


@pytest.mark.parametrize("source", ["commit", "archive"])
@pytest.mark.parametrize("secret", SECRETS)
def test_what_is_named_as_a_secret_stays_behind_and_is_named(secret, source, checkout, capsys):
    put(checkout, secret)
    commit(checkout)
    archive = make_archive(replace(LaunchConfig(), source=source), checkout)
    assert archive.names == {".gitignore", "a.py"}
    assert capsys.readouterr().err == f"launch: left out, because such files often hold secrets: {secret}\n"


@pytest.mark.parametrize("settings", [COMMIT, TREE])
def test_templates_code_and_public_keys_go_along(settings, checkout, capsys):
    put(checkout, *PLAIN)
    commit(checkout)
    assert make_archive(settings, checkout).names == {".gitignore", "a.py", *PLAIN}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("settings", [COMMIT, TREE])
def test_a_private_key_stays_behind_whatever_its_file_is_called(settings, checkout, capsys):
    key = "-----BEGIN RSA PRIVATE " + "KEY-----"
    for name in ("my-project-1a2b3c.json", "notes.txt", "reader.py"):
        (checkout / name).write_text(f'{{"private_key": "{key}"}}')
    commit(checkout)
    assert make_archive(settings, checkout).names == {".gitignore", "a.py", "reader.py"}
    assert capsys.readouterr().err == (
        "launch: left out, because a private key is in them: my-project-1a2b3c.json, notes.txt\n"
    )


def test_many_secrets_are_one_line(checkout, capsys):
    put(checkout, *(f"{number}.pem" for number in range(20)), "a\nb.key")
    commit(checkout)
    assert make_archive(COMMIT, checkout).names == {".gitignore", "a.py"}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(", 14.pem, 15.pem and 13 more\n")


def test_the_newest_commit_is_written_to_a_file(checkout, monkeypatch):
    monkeypatch.setattr(launch.archive, "ROOT", checkout)
    expected = make_archive(COMMIT, checkout).content
    (checkout / "a.py").write_text("second\n")
    file = checkout / "code.tar.gz"
    assert main(["archive.py", str(file)]) == 0
    assert file.read_bytes() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "takes one argument: the file to write the archive to"),
        (["--out"], "takes one argument: the file to write the archive to"),
        (["no/folder"], "no/folder cannot be written: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(arguments, message, checkout, monkeypatch):
    monkeypatch.setattr(launch.archive, "ROOT", checkout)
    with pytest.raises(UserError, match=message):
        main(["archive.py", *arguments])


def test_runs_and_environments_stay_behind(checkout):
    put(checkout, ".venv/x", "runs/r/model", "new.py")
    assert make_archive(TREE, checkout).names == {".gitignore", "a.py", "new.py"}


def test_a_link_leads_to_no_secret_and_not_out_of_the_commit(checkout):
    put(checkout, ".env", "configs/base.py")
    for link, target in {
        "plain.py": "a.py",
        "configs/mine.py": "base.py",
        "twice.py": "configs/mine.py",
        "settings.txt": ".env",
        "outside": "/etc/hostname",
        "above": "../x",
        "round": "round",
    }.items():
        (checkout / link).symlink_to(target)
    commit(checkout)
    archive = make_archive(COMMIT, checkout)
    plain = {".gitignore", "a.py", "configs/base.py"}
    assert archive.names == plain | {"plain.py", "configs/mine.py", "twice.py"}
    assert content(archive, "twice.py") == "configs/base.py"
    assert make_archive(TREE, checkout).names == plain


def test_a_name_that_is_not_utf8_goes_along(checkout):
    name = os.fsdecode(b"caf\xe9.txt")
    put(checkout, "x")
    (checkout / name).write_text("")
    assert name in make_archive(TREE, checkout).names
    commit(checkout)
    assert name in make_archive(COMMIT, checkout).names


def test_what_git_complains_of_is_told(tmp_path):
    with pytest.raises(
        UserError, match=r"git cannot read .*, the code for the machines: fatal: not a git repo"
    ):
        make_archive(COMMIT, tmp_path)


def test_code_that_holds_a_secret_of_the_environment_is_refused_without_repeating_it(checkout):
    (checkout / "a.py").write_text("token = 'hf_canary_4711'\n")
    commit(checkout)
    with pytest.raises(UserError, match=r"a\.py holds the value of HF_TOKEN") as refused:
        make_archive(COMMIT, checkout, {"HF_TOKEN": "hf_canary_4711"})
    assert "canary" not in str(refused.value)


def test_the_same_files_make_the_same_archive(checkout):
    assert make_archive(COMMIT, checkout).digest == make_archive(TREE, checkout).digest

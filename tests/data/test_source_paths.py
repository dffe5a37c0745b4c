"""Files named by paths, lists and globs, local and remote: which are read, and which are passed over."""

import dataclasses
from pathlib import Path

import fsspec
import pytest

from base.errors import UserError
from data.config import SourceConfig
from data.sources import open_source
from data.sources.paths import walk_files


def config(path: object, **changes) -> SourceConfig:
    return dataclasses.replace(SourceConfig(source="files", path=str(path)), **changes)


def refused(path: object) -> str:
    with pytest.raises(UserError) as raised:
        open_source(config(path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def kept(source) -> list[str]:
    return [
        record.text
        for shard in range(len(source.shards))
        for record in source.read(shard)
        if not record.dropped
    ]


def test_globs_and_lists_give_each_file_once_in_natural_order(tmp_path):
    for part in (10, 2, 1):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / f"part_{part}.txt").write_text(f"{part}\n")
    (tmp_path / "z.txt").write_text("z\n")
    source = open_source(config(f"{tmp_path}/z.txt, {tmp_path}/**/*.txt,{tmp_path}/deep/part_2.txt"))
    assert list(source.shards) == ["deep/part_1.txt", "deep/part_2.txt", "deep/part_10.txt", "z.txt"]
    assert kept(source) == ["1", "2", "10", "z"]


def test_brackets_in_a_file_name_are_taken_literally(tmp_path):
    (tmp_path / "a[1].txt").write_text("hei\n")
    assert kept(open_source(config(tmp_path / "a[1].txt"))) == ["hei"]


def test_links_to_files_and_folders_are_followed_as_in_a_hugging_face_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    (snapshot / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for number in range(2):
        (blobs / f"{number}").write_text(f"blob {number}\n")
        (snapshot / "data" / f"{number}.txt").symlink_to(f"../../../blobs/{number}")
    (tmp_path / "elsewhere" / "2.txt").write_text("linked folder\n")
    (snapshot / "more").symlink_to(tmp_path / "elsewhere")
    (snapshot / "again").symlink_to(snapshot)  # a loop
    assert kept(open_source(config(snapshot / "data" / "*.txt"))) == ["blob 0", "blob 1"]
    assert kept(open_source(config(snapshot / "*" / "*.txt"))) == ["blob 0", "blob 1", "linked folder"]
    assert kept(open_source(config(snapshot / "**" / "*.txt"))) == ["blob 0", "blob 1", "linked folder"]
    assert [file.name for file in walk_files(str(snapshot))] == ["data/0.txt", "data/1.txt", "more/2.txt"]


def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    assert f"'{tmp_path}/a.txt' is a link to '{tmp_path}/gone', which does not exist" in refused(
        tmp_path / "*.txt"
    )


def test_an_empty_folder_name_does_not_read_the_working_directory():
    with pytest.raises(UserError, match=r"config\.data\.path='' names no folder"):
        walk_files("")


def hide(root: Path) -> list[str]:
    """Write two files and what editors, notebooks and other systems leave beside them; all their names."""
    names = [
        "a.txt",
        "deep/b.txt",
        ".stale.txt",
        "._a.txt",
        ".ipynb_checkpoints/a-checkpoint.txt",
        "deep/.old.txt",
        "deep/.git/c.txt",
        ".cache/d/e.txt",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    return names


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "deep/b.txt"]),
        ("**", ["a.txt", "deep/b.txt"]),
        ("*/*.txt", ["deep/b.txt"]),
        ("?stale.txt,a.txt", ["a.txt"]),
        ("[.]stale.txt,a.txt", ["a.txt"]),
        (".*.txt", [".stale.txt", "._a.txt"]),
        ("**/.*.txt", [".stale.txt", "._a.txt", "deep/.old.txt"]),
        (".cache/**/*.txt", [".cache/d/e.txt"]),
        (".*/*.txt", [".ipynb_checkpoints/a-checkpoint.txt"]),
        (".stale.txt", [".stale.txt"]),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_glob_passes_over_names_that_begin_with_a_dot(tmp_path, glob, names, remote):
    written = hide(tmp_path)
    root = str(tmp_path)
    if remote:
        root = f"memory:/{tmp_path}"
        for name in written:
            fsspec.filesystem("memory").pipe_file(f"{tmp_path}/{name}", f"{name}\n".encode())
    if glob.startswith(("?", "[")):  # names nothing, though a name without the dot would match
        assert "matches no file" in refused(f"{root}/{glob.split(',')[0]}")
        return
    assert sorted(kept(open_source(config(f"{root}/{glob}")))) == sorted(names)
    assert [file.name for file in walk_files(root)] == ["a.txt", "deep/b.txt"]


def test_a_folder_in_a_folder_that_begins_with_a_dot_is_read_where_it_is_named(tmp_path):
    hide(tmp_path)
    assert [file.name for file in walk_files(str(tmp_path / ".cache"))] == ["d/e.txt"]


def test_a_comma_in_a_name_is_its_own_or_escaped(tmp_path):
    (tmp_path / "Smith, John").mkdir()
    for name in ("a,b.txt", "c.txt", "Smith, John/d.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    assert kept(open_source(config(tmp_path / "a,b.txt"))) == ["a,b.txt"]
    both = rf"{tmp_path}/a\,b.txt, {tmp_path}/c.txt,{tmp_path}/Smith\, John/*.txt"
    assert sorted(kept(open_source(config(both)))) == ["Smith, John/d.txt", "a,b.txt", "c.txt"]
    message = refused(f"{tmp_path}/a,b.txt,{tmp_path}/c.txt")
    assert f"no such file or folder: '{tmp_path}/a'" in message
    assert message.endswith(r"; a comma that is part of a name is written \,")


@pytest.mark.parametrize("name", ["a[1].txt", "what?.txt", "*.txt", "run[1]/a.txt", "[x]/b*/c.txt"])
@pytest.mark.parametrize("remote", [False, True])
def test_what_exists_is_taken_by_its_exact_name(tmp_path, name, remote):
    for written in (name, "whatx.txt", "run1/a.txt", "other.txt"):
        (tmp_path / written).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / written).write_text(f"{written}\n")
        fsspec.filesystem("memory").pipe_file(f"{tmp_path}/{written}", f"{written}\n".encode())
    root = f"memory:/{tmp_path}" if remote else str(tmp_path)
    assert kept(open_source(config(f"{root}/{name}"))) == [name]
    folder, _, last = name.rpartition("/")
    if folder:
        assert kept(open_source(config(f"{root}/{folder}/?{last[1:]}"))) == [name]

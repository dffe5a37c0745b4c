"""The manifest of a checkpoint: the size and digest of each of its files.

It is written when the files are complete and before the checkpoint is committed. It is checked before anything is read,
since array data has no checksums of its own: a flipped byte would be restored without a word.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import xxhash
from etils import epath

from base.storage import is_remote, objects_below

FOLDER = "manifest"
"""The folder of a checkpoint that holds it; a checkpoint without this folder was written by older code."""
FILE = "metadata"
COMMITTED = "commit_success.txt"
"""The file that Orbax writes last."""
ALGORITHM = "xxh3_128"
THREADS = 8
PIECE = 4 * 2**20
"""Bytes that are read at a time."""
WRITTEN_LATER = ("_CHECKPOINT_METADATA", COMMITTED)
"""Files of a checkpoint's own folder that Orbax writes when it commits."""

Files: TypeAlias = Mapping[str, tuple[int, str]]
"""The size in bytes and the digest of each file, by its path in the checkpoint's folder."""


def write(folder: epath.Path) -> None:
    """Write the manifest of a checkpoint whose files are complete.

    Args:
      folder: where it goes, in the checkpoint's folder; becomes `FOLDER` when it is complete.
    """
    content = {"algorithm": ALGORITHM, "files": files(folder.parent)}
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n")


def exists(checkpoint: epath.Path) -> bool:
    """Whether a checkpoint has a manifest, or should have: its folder is there."""
    return (checkpoint / FOLDER).exists()


def read(checkpoint: epath.Path) -> Files:
    """The files that a checkpoint consists of.

    Raises:
      ValueError: the manifest is damaged, or the checkpoint was never committed; the message says which.
    """
    if not (checkpoint / COMMITTED).exists():
        raise ValueError(f"it was never committed: {COMMITTED} is missing")
    try:
        content = json.loads((checkpoint / FOLDER / FILE).read_text())
        listed = {str(name): (int(size), str(digest)) for name, (size, digest) in content["files"].items()}
        algorithm = content["algorithm"]
    except FileNotFoundError:
        raise ValueError(f"{FOLDER}/{FILE} is missing") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{FOLDER}/{FILE} is damaged") from None
    if algorithm != ALGORITHM:
        raise ValueError(f"{FOLDER}/{FILE} has digests of another kind, {algorithm}")
    return listed


def flaw(checkpoint: epath.Path, listed: Files, names: Iterable[str]) -> str:
    """What is wrong with some files of a checkpoint; '' where they are as they were written.

    Args:
      checkpoint: its folder.
      listed: its manifest.
      names: the files to check.

    Raises:
      OSError: a file cannot be read, for a reason that is not damage.
    """
    wanted = sorted(names)
    found = files(checkpoint, wanted)
    for name in wanted:
        if name not in found:
            return f"{name} is missing"
        if found[name][0] != listed[name][0]:
            return f"{name} has {found[name][0]:,} bytes, not {listed[name][0]:,}"
        if found[name][1] != listed[name][1]:
            return f"{name} has another content than was written (its digest differs)"
    return ""


def files(checkpoint: epath.Path, names: Iterable[str] | None = None) -> dict[str, tuple[int, str]]:
    """The files of a checkpoint as they are now; those of `names` that are there, or all but the manifest."""
    if is_remote(checkpoint):
        found = objects_below(checkpoint)
        wanted = _listed(found) if names is None else [name for name in names if name in found]
        return {name: found[name] for name in wanted}
    if names is None:
        folder = Path(checkpoint)  # epath has no recursive globs
        names = _listed(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(THREADS) as pool:
        read_files = pool.map(lambda name: (name, _local(checkpoint / name)), names)
        return {name: found for name, found in read_files if found is not None}


def _listed(names: Iterable[str]) -> list[str]:
    """The files that a manifest lists."""
    return sorted(name for name in names if name not in WRITTEN_LATER and not name.startswith(FOLDER))


def _local(path: epath.Path) -> tuple[int, str] | None:
    """The size and digest of a file; None where there is none."""
    digest, size = xxhash.xxh3_128(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return size, digest.hexdigest()

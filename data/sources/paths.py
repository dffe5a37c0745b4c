"""Finding and opening the files of a corpus, local or remote (gs:// and whatever else fsspec reaches).

fsspec directly, not etils.epath: with TensorFlow installed epath reads gs:// through TensorFlow, whose import takes
seconds in every process that reads, and its listing returns no sizes.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from data.errors import UserError

READ_BLOCK = 4 * 2**20
MAGIC = re.compile(r"[*?[]")


class File(NamedTuple):
    """A file of the corpus."""

    path: str
    """Local path or URL."""
    name: str
    """Path below the folder that all the files share: the same wherever the corpus lies."""
    size: int
    """Bytes."""


def find_files(patterns: str, where: str = "config.data.path") -> list[File]:
    """Files that comma-separated paths and globs name, each once, part_2 before part_10.

    Raises:
      UserError: nothing given, a missing file, a folder, a glob that matches no file, or a store that cannot be read.
    """
    found: dict[str, int] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        found.update(_match(pattern, where))
    if not found:
        raise UserError(
            f"{where}={patterns!r} names no file; give paths or globs, comma-separated, local or gs://"
        )
    return _named(found)


def walk_files(folder: str, where: str = "config.data.path") -> list[File]:
    """Every file below a folder, in natural order of their names.

    Raises:
      UserError: no such folder, or a store that cannot be read.
    """
    with _explained(folder, where):
        fs, path = _filesystem(folder)
        if not fs.isdir(path):
            raise UserError(
                f"{where}={folder!r} is not a folder; give the folder that holds the corpus, local or gs://"
            )
        found = _sizes(fs, fs.find(path, detail=True), folder)
    root = fs.unstrip_protocol(path) if is_remote(folder) else path
    return _named(found, root.rstrip("/"))


def open_file(path: str) -> IO[bytes]:
    """Open a local or remote file for reading, streamed in blocks; seekable."""
    if not is_remote(path):
        return Path(path).open("rb", buffering=2**18)
    fs, inner = _filesystem(path)
    return io.BufferedReader(fs.open(inner, "rb", block_size=READ_BLOCK), 2**18)


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts runs of digits by their value: part_2 before part_10."""
    return [(0, int(run), run) if run.isdecimal() else (1, 0, run) for run in re.split(r"(\d+)", name) if run]


def _match(pattern: str, where: str) -> dict[str, int]:
    with _explained(pattern, where):
        fs, path = _filesystem(pattern)
        # A name with glob characters in it may still be a file's own name.
        if MAGIC.search(path) and not fs.isfile(path):
            listing = {
                name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"
            }
            if not listing:
                raise UserError(
                    f"{where}: the glob {pattern!r} matches no file; ** matches folders at any depth"
                )
            return _sizes(fs, listing, pattern)
        info = fs.info(path)
        if info["type"] == "directory":
            raise UserError(
                f"{where}: {pattern!r} is a folder; name its files, for example {pattern.rstrip('/')}/*.jsonl.gz"
            )
        return _sizes(fs, {path: info}, pattern)


def _sizes(fs: Any, listing: dict[str, dict[str, Any]], asked: str) -> dict[str, int]:
    return {
        fs.unstrip_protocol(name) if is_remote(asked) else name: int(info["size"])
        for name, info in listing.items()
    }


def _filesystem(path: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(path if is_remote(path) else str(Path(path).expanduser().absolute()))


@contextlib.contextmanager
def _explained(path: str, where: str) -> Iterator[None]:
    """Turn what the store answers into one line; stores raise exceptions of many libraries, so all are taken."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        hint = "" if is_remote(path) else "; a relative path starts at the working directory"
        raise UserError(f"{where}: no such file or folder: {path!r}{hint}") from None
    except Exception as error:
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: cannot read {path!r}: {reason}") from error


def _named(found: dict[str, int], root: str | None = None) -> list[File]:
    if root is None:
        root = _common_folder(list(found))
    files = [File(path, path[len(root) :].lstrip("/"), size) for path, size in found.items()]
    return sorted(files, key=lambda file: natural_key(file.name))


def _common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all the paths, without a trailing slash."""
    parents = [path.rsplit("/", 1)[0].split("/") for path in paths]
    shared = []
    for parts in zip(*parents):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)


def suffixes(path: str) -> tuple[str, str]:
    """(format, compression) by the file's name, lower case: ('.jsonl', '.gz'); ('', '') where it has no extension."""
    parts = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    if parts and parts[-1] in (".gz", ".zst"):
        return (parts[-2] if len(parts) > 1 else ""), parts[-1]
    return (parts[-1] if parts else ""), ""

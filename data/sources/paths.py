"""Lists and opens the files of a corpus, local or remote (gs:// and all other stores of fsspec).

It uses fsspec and not etils.epath, because listings of etils.epath have no sizes.
"""

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from base.errors import UserError
from base.passwords import check_no_password
from base.storage import is_remote

READ_BLOCK = 4 * 2**20
BUFFER = 2**18
SMALL_BUFFER = 2**13
BEYOND = 2**14
"""Bytes of the first read beyond a part's end; each further one is twice as long."""
FORMATS = (".txt", ".jsonl", ".json", ".parquet")
"""Endings of files of documents."""
MAGIC = re.compile(r"[*?[]")
UNESCAPED_COMMA = re.compile(r"(?<!\\),")
NEXT_ADDRESS = re.compile(r",\s*\w+://")
"""Matches a list of addresses. Such a list is surely not the name of one file, so no store is asked."""


class File(NamedTuple):
    """A file of the corpus."""

    path: str
    """Local path or URL."""
    name: str
    """Path below the folder that all files share; it does not depend on the location of the corpus."""
    size: int
    """Size in bytes."""


def find_files(patterns: str, where: str = "config.data.path") -> list[File]:
    """Files that comma-separated paths and globs match, each once, part_2 before part_10.

    A glob ignores files and folders whose names begin with a dot, unless the matching part of the glob begins with a
    dot too. A name that exists is taken exactly, even if it contains glob characters.

    Raises:
      UserError: the text is empty, a file is missing, a path is a folder, a glob matches no file, or a store cannot be
        read.
    """
    check_no_password(patterns, where)
    sizes: dict[str, int] = {}
    named = split_paths(patterns)
    for pattern in named:
        try:
            sizes.update(_match(pattern, where))
        except UserError as error:
            if len(named) == 1 or "no such file" not in str(error):
                raise
            raise UserError(f"{error}; a comma that is part of a name is written \\,") from None
    if not sizes:
        raise UserError(
            f"{where}={patterns!r} names no file; give paths or globs, comma-separated, local or gs://"
        )
    return _named(sizes)


def split_paths(paths: str) -> list[str]:
    r"""The paths or globs in a comma-separated list; `\,` is a comma in a name.

    If a file's name is the whole text, the text is that one path.
    """
    if "," in paths and not NEXT_ADDRESS.search(paths) and _is_file(paths.strip()):
        return [paths.strip()]
    parts = (part.replace("\\,", ",").strip() for part in UNESCAPED_COMMA.split(paths))
    return [part for part in parts if part]


def _is_file(path: str) -> bool:
    with contextlib.suppress(Exception):  # any library may raise; each part is checked later
        fs, inner = _filesystem(path)
        return bool(fs.isfile(inner))
    return False


def walk_files(folder: str, where: str = "config.data.path", depth: int | None = None) -> list[File]:
    """Every file below a folder, in natural order of names; links are followed.

    Files and folders below it whose names begin with a dot are ignored.

    Args:
      folder: the folder, local or remote.
      where: the setting that names the folder, for messages.
      depth: largest number of levels below the folder; None for all.

    Raises:
      UserError: the folder is not given, does not exist, or is in a store that cannot be read.
    """
    check_no_password(folder, where)
    if not folder.strip():
        raise UserError(f"{where}={folder!r} names no folder; set it to one, local or gs://")
    with _explained(folder, where):
        fs, path = _filesystem(folder)
        if not fs.isdir(path):
            raise UserError(
                f"{where}={folder!r} is not a folder; set it to the folder that holds the data, local or gs://"
            )
        root = path.rstrip("/")
        wanted = partial(_matches_glob, root=root, glob=["**"])
        if not is_remote(folder):
            return _named(_local_sizes(filter(wanted, _local_paths(path, depth)), where), root)
        listing = fs.find(path, maxdepth=depth, detail=True)
        sizes = _sizes(fs, {name: listing[name] for name in filter(wanted, listing)}, folder)
    return _named(sizes, fs.unstrip_protocol(path).rstrip("/"))


def open_file(path: str) -> io.BufferedReader:
    """Open a local or remote file for reading; it is streamed in blocks, and seekable.

    Raises:
      UserError: the file cannot be opened. Each later read may raise it too.
    """
    with readable(path):
        if is_remote(path):
            fs, inner = _filesystem(path)
            raw = fs.open(inner, "rb", block_size=READ_BLOCK)
        else:
            raw = Path(path).open("rb", buffering=0)  # noqa: SIM115 - the reader returned closes it
    return io.BufferedReader(_Readable(path, raw), BUFFER)


def open_part(path: str, stop: int | None = None) -> io.BufferedReader:
    """Open a local or remote file for reading a part, without the reading ahead of `open_file`.

    Args:
      path: the file.
      stop: the byte after the part, up to which blocks of a remote file are large; None for reading here and there.

    Raises:
      UserError: as for `open_file`.
    """
    with readable(path):
        if is_remote(path):
            fs, inner = _filesystem(path)
            raw = fs.open(inner, "rb", cache_type="none")
        else:
            raw = Path(path).open("rb", buffering=0)  # noqa: SIM115 - the reader returned closes it
    if stop is None:
        return io.BufferedReader(_Readable(path, raw), SMALL_BUFFER)
    return io.BufferedReader(_UpTo(path, raw, stop), READ_BLOCK if is_remote(path) else BUFFER)


class _Readable(io.RawIOBase):
    """A file whose reading errors become UserErrors with its name, so that they differ from damage in its content."""

    def __init__(self, path: str, raw: Any):
        self._path = path
        self._raw = raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with readable(self._path):
            return int(self._raw.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with readable(self._path):
            return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _UpTo(_Readable):
    """A file of which one call reads up to a place, and calls beyond it read little at first."""

    def __init__(self, path: str, raw: Any, stop: int):
        super().__init__(path, raw)
        self._stop = stop
        self._beyond = BEYOND

    def readinto(self, buffer: Any) -> int:
        left = self._stop - self.tell()
        if left <= 0:
            left, self._beyond = self._beyond, 2 * self._beyond
        return super().readinto(memoryview(buffer)[:left])


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn an error of opening or reading a file into one line."""
    try:
        yield
    except Exception as error:
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        raise UserError(
            f"{path}: cannot be read: {_reason(error)}; correct that and run the same command again"
        ) from error


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that compares runs of digits by value: part_2 before part_10."""
    return [(0, int(run), run) if run.isdecimal() else (1, 0, run) for run in re.split(r"(\d+)", name) if run]


def _match(pattern: str, where: str) -> dict[str, int]:
    with _explained(pattern, where):
        fs, path = _filesystem(pattern)
        root, glob = _split_glob(fs, path)
        if glob:
            wanted = partial(_matches_glob, root=root, glob=glob)
            if is_remote(pattern):
                listing = fs.glob("/".join((escape(root), *glob)), detail=True)
                sizes = _sizes(fs, {name: listing[name] for name in filter(wanted, listing)}, pattern)
            else:
                # fsspec's own search ignores links, and so for example a whole Hugging Face cache.
                depth = None if "**" in glob else len(glob)
                sizes = _local_sizes(filter(wanted, _local_paths(root or "/", depth)), where)
            if not sizes:
                raise UserError(
                    f"{where}: the glob {pattern!r} matches no file; ** matches folders at any depth"
                )
            return sizes
        info = fs.info(path)
        if info["type"] == "directory":
            endings = [suffixes(name) for name in fs.ls(path, detail=False)]
            known = [ending for ending in endings if ending[0] in FORMATS] or [(".jsonl", ".gz")]
            form, compression = min(known, key=lambda ending: FORMATS.index(ending[0]))
            raise UserError(
                f"{where}: {pattern!r} is a folder; name its files, for example "
                f"{pattern.rstrip('/')}/*{form}{compression}"
            )
        return _sizes(fs, {path: info}, pattern)


def _sizes(fs: Any, listing: dict[str, dict[str, Any]], asked: str) -> dict[str, int]:
    return {
        fs.unstrip_protocol(name) if is_remote(asked) else name: int(info["size"])
        for name, info in listing.items()
        if info["type"] != "directory"
    }


def _split_glob(fs: Any, path: str) -> tuple[str, list[str]]:
    """The folder where a glob starts, and the glob's parts below it; no parts if the exact path exists.

    Raises:
      OSError: a part such as a**.
    """
    parts = path.split("/")
    known = 0  # number of leading parts that are names, not globs
    for number, part in enumerate(parts, 1):
        if MAGIC.search(part) and not fs.exists("/".join(parts[:number])):
            break
        known = number
    if known == len(parts):
        return path, []
    if wrong := next((part for part in parts[known:] if "**" in part and part != "**"), None):
        raise OSError(f"** should be a whole part of the path, not {wrong}")
    return "/".join(parts[:known]), parts[known:]


def _matches_glob(path: str, root: str, glob: Sequence[str]) -> bool:
    """Whether a path below `root` matches the parts of a glob."""
    return _match_parts(path[len(root) :].lstrip("/").split("/"), glob)


def _match_parts(names: Sequence[str], glob: Sequence[str]) -> bool:
    if not glob or not names:
        return not glob and not names
    hidden = names[0].startswith(".")
    if glob[0] == "**":
        # It matches any number of folders and, as the last part, any file in them.
        return _match_parts(names, glob[1:]) or (
            not hidden and (_match_parts(names[1:], glob) or (len(glob) == 1 and len(names) == 1))
        )
    if hidden and not glob[0].startswith("."):
        return False
    return fnmatchcase(names[0], glob[0]) and _match_parts(names[1:], glob[1:])


def _local_paths(folder: str, depth: int | None = None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of all non-folders below a folder, down to `depth`. A link back to a folder in `above` is not followed."""
    real = os.path.realpath(folder)
    if real in above or not Path(folder).is_dir():
        return
    with os.scandir(folder) as entries:
        by_name = sorted(entries, key=lambda entry: entry.name)
    for entry in by_name:
        if not entry.is_dir():
            yield entry.path
        elif depth is None or depth > 1:
            yield from _local_paths(entry.path, depth and depth - 1, (*above, real))


def _local_sizes(paths: Iterator[str], where: str) -> dict[str, int]:
    """Sizes of the regular files among local paths. A file that several linked folders show is taken once."""
    sizes: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for path in paths:
        folder, name = os.path.split(path)
        place = (os.path.realpath(folder), name)
        if place in seen:
            continue
        seen.add(place)
        try:
            info = Path(path).stat()
        except FileNotFoundError:
            raise UserError(
                f"{where}: {path!r} is a link to {os.path.realpath(path)!r}, which does not exist; correct or remove it"
            ) from None
        if stat.S_ISREG(info.st_mode):
            sizes[path] = info.st_size
    return sizes


def information(path: str) -> dict[str, Any]:
    """What a store tells of a file now: its size, and often a checksum; not what it told before."""
    fs, inner = _filesystem(path)
    fs.invalidate_cache(fs._parent(inner))
    return dict(fs.info(inner))


def _filesystem(path: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(path if is_remote(path) else str(Path(path).expanduser().absolute()))


@contextlib.contextmanager
def _explained(path: str, where: str) -> Iterator[None]:
    """Turn an error of a store into one line. Stores raise exceptions of many libraries, so all are caught."""
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
        raise UserError(f"{where}: cannot read {path!r}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _named(sizes: dict[str, int], root: str | None = None) -> list[File]:
    if root is None:
        root = _common_folder(list(sizes))
    files = [File(path, path[len(root) :].lstrip("/"), size) for path, size in sizes.items()]
    return sorted(files, key=lambda file: natural_key(file.name))


def _common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that contains all paths, without a trailing slash."""
    parents = [path.rsplit("/", 1)[0].split("/") for path in paths]
    shared = []
    for parts in zip(*parents):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)


def suffixes(path: str) -> tuple[str, str]:
    """(format, compression) from a file's name, in lower case: ('.jsonl', '.gz'); ('', '') without an extension."""
    parts = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    if parts and parts[-1] in (".gz", ".zst"):
        return (parts[-2] if len(parts) > 1 else ""), parts[-1]
    return (parts[-1] if parts else ""), ""

"""Where files are kept: file systems, and buckets (gs://) with the one client that reaches them.

Buckets are reached through gcsfs, by etils.epath and fsspec; the arrays of checkpoints through TensorStore. Both try
again, with a delay that doubles and some chance in it, what a bucket answers with 408, 429 or 5xx or not at all:
gcsfs for half a minute, TensorStore for a quarter of an hour.
"""

import contextlib
import json
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from base.errors import UserError

if TYPE_CHECKING:
    from etils import epath

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
ROLES = "roles/storage.objectUser and roles/storage.legacyBucketReader"
"""What an account needs on the bucket of a workdir: to write objects, and to look the bucket itself up."""


def choose_client() -> None:
    """Settle how buckets are reached, in this process and those it starts; called before any is.

    Where TensorFlow is installed, epath would use its file system: seconds of import in every process, and rules of its
    own about credentials, emulators and retries. gcsfs would otherwise remember listings, in which what another process
    or TensorStore has written does not show, and ask each bucket over gRPC whether it is a zonal one.
    """
    os.environ["EPATH_USE_TF"] = "false"
    os.environ.setdefault("FSSPEC_GCS", json.dumps({"use_listings_cache": False}))
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises anyway


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as gs://BUCKET/NAME."""
    return "://" in os.fspath(path)


def write_text(path: "epath.Path", text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: "epath.Path", content: bytes) -> None:
    """Write a file whole or not at all: beside its place and moved there; into a bucket at once, where a reader sees
    the old object until the new one is complete."""
    if is_remote(path):
        filesystem, inner = _open(path)
        filesystem.pipe_file(inner, content)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def move_folder(source: "epath.Path", target: "epath.Path") -> None:
    """Move a folder to a place where nothing is.

    A bucket copies its objects one by one and then deletes them; where that was cut off it may be done again.
    """
    if not is_remote(source):
        source.rename(target)
        return
    filesystem, inner = _open(source)
    _, place = _open(target)
    for name in filesystem.find(inner):
        filesystem.cp_file(name, place + name[len(inner) :])
    filesystem.rm(inner, recursive=True)


def check_readable(path: str | os.PathLike[str], setting: str) -> None:
    """Refuse a bucket that may not be read or cannot be reached; whether the path is there is not looked at.

    Args:
      path: any path; a local one passes.
      setting: the flag or field that it was set by, for messages.

    Raises:
      UserError: in one line, what is wrong and how to put it right.
    """
    if is_remote(path):
        with explained(path, setting):
            filesystem, inner = _open(path)
            filesystem.exists(inner.rstrip("/"))


def check_writable(folder: "epath.Path", setting: str, probe: str = ".writable") -> None:
    """Refuse a folder in a bucket that is not there, may not be written, or cannot be reached, by writing, reading,
    listing and deleting a probe.

    Args:
      folder: in a bucket.
      setting: the flag or field that it was set by, for messages.
      probe: the name of the object; another for each process.

    Raises:
      UserError: in one line, what is wrong and how to put it right.
    """
    with explained(folder, setting):
        filesystem, inner = _open(folder)
        bucket, _, name = inner.partition("/")
        if not bucket or not name.strip("/"):
            raise UserError(
                f"{setting}={os.fspath(folder)} should name a folder in a bucket: gs://BUCKET/NAME"
            )
        if os.fspath(folder).startswith("gs://") and not BUCKET.fullmatch(bucket):
            raise UserError(
                f"{setting}={os.fspath(folder)}: a bucket's name is of small letters, digits, '-', '_' and '.'"
            )
        place = f"{inner.rstrip('/')}/{probe}"
        filesystem.pipe_file(place, b"")
        filesystem.cat_file(place)
        filesystem.ls(inner)
        filesystem.rm_file(place)
        if os.fspath(folder).startswith("gs://"):
            _look_up(bucket)


def _look_up(bucket: str) -> None:
    """Ask for the bucket itself, by the client and with the permission that Orbax needs for every checkpoint."""
    from google.cloud import storage

    storage.Client().get_bucket(bucket)


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], setting: str = "") -> Iterator[None]:
    """Turn what a bucket's clients raise into one line; what a file system raises passes.

    Args:
      path: what was to be reached.
      setting: the flag or field that it was set by; empty where that is not known.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # gcsfs, aiohttp, google.auth, google.cloud and requests, each with its own
        if not is_remote(path):
            raise
        where = f"{setting}={os.fspath(path)}".removeprefix("=")
        raise UserError(f"{where}: {_flaw(error, os.fspath(path))}") from error


def outage(error: BaseException) -> str:
    """What to say of an exception of a remote file's client that the run could not go on after; empty for any other."""
    if type(error).__module__.split(".")[0] not in ("aiohttp", "gcsfs", "google", "requests"):
        return ""
    return f"a bucket or server failed ({_said(error)}); run the same command again to go on from the last checkpoint"


DAMAGE = (
    ValueError,  # JSON, Unicode, numpy and TensorStore among them
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
)
"""What reading raises where a file, or one that belongs to it, does not hold what it should."""
PASSING = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED): "
)
"""How TensorStore and XLA begin the message of what says nothing about the content of a file."""


def check_damage(error: Exception, what: str) -> None:
    """Return where an exception in reading `what` shows that its content is damaged; raise where it does not.

    Raises:
      UserError: a network, a permission or the memory has failed: the file is to be left as it is.
      Exception: the error itself, where it is neither.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(_passes(each) for each in chain):
        raise UserError(
            f"{what} cannot be read now ({type(error).__name__}: {_said(error)}); it is left as it is: run the same "
            "command again when that has passed"
        ) from error
    if not any(isinstance(each, DAMAGE) for each in chain):
        raise error


def _passes(error: BaseException) -> bool:
    """Whether an exception speaks of the way to a file, and not of its content."""
    return (
        (isinstance(error, OSError) and not isinstance(error, DAMAGE))
        or isinstance(error, MemoryError)
        or bool(outage(error))
        or PASSING.match(str(error)) is not None
    )


def _said(error: BaseException) -> str:
    """The message of an exception, without the address that gcsfs puts on a line before what the bucket says."""
    text = str(error)
    return " ".join((text.partition("\n")[2] or text).split())[:300] or type(error).__name__


def _flaw(error: BaseException, path: str) -> str:
    """What is wrong, and how to put it right."""
    said, kind, status = _said(error), type(error).__name__, _status(error)
    if "Project was not passed" in said:
        return "Google's client knows no project; set GOOGLE_CLOUD_PROJECT in the environment"
    if status == 401 or kind in ("DefaultCredentialsError", "RefreshError"):
        return (
            f"there are no valid Google credentials ({said}); run `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or give the machine a service account"
        )
    if status == 403:
        return f"permission denied ({said}); the account needs {ROLES} on the bucket"
    if status == 404:
        bucket = path.split("://", 1)[-1].split("/")[0]
        return f"there is no bucket {bucket}; make it (`gcloud storage buckets create gs://{bucket}`), or name another"
    return f"the bucket cannot be reached ({kind}: {said}); try again when it can"


def _status(error: BaseException) -> int:
    """The HTTP status that an exception stands for, 0 where there is none."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return 403
    try:
        return int(getattr(error, "code", 0) or 0)  # gcsfs has a number or its text, google.cloud an enum
    except (TypeError, ValueError):
        return 0


def _open(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The file system of a URL, and what the path is called there."""
    from fsspec.core import url_to_fs

    return url_to_fs(os.fspath(path))

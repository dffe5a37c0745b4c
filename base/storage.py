"""Reading and writing of files on file systems and in buckets (gs://), with one client for all buckets.

etils.epath and fsspec reach buckets through gcsfs; checkpoints write their arrays through TensorStore. Both clients
repeat a request if the bucket answers with 408, 429 or 5xx, or not at all. The delay doubles each time, with a random
part. gcsfs gives up after half a minute, TensorStore after a quarter of an hour.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from base.errors import UserError

if TYPE_CHECKING:
    from etils import epath

T = TypeVar("T")

logger = logging.getLogger(__name__)

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
PAUSES = (0.5, 2.0, 8.0)
"""Seconds between attempts to read."""
ROLES = "roles/storage.objectUser and roles/storage.legacyBucketReader"
"""Roles that an account needs on a workdir's bucket: to write objects, and to look up the bucket itself."""


def choose_client() -> None:
    """Choose the client for buckets, in this process and its child processes; call it before any use of a bucket.

    If TensorFlow is installed, epath would use TensorFlow's file system. It takes seconds to import in every process,
    and it has its own rules for credentials, emulators and retries. gcsfs would cache listings, and a cached listing
    does not show what another process or TensorStore has written. gcsfs would also ask each bucket over gRPC whether
    it is a zonal bucket.
    """
    os.environ["EPATH_USE_TF"] = "false"
    os.environ.setdefault("FSSPEC_GCS", json.dumps({"use_listings_cache": False}))
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises anyway


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, such as gs://BUCKET/NAME."""
    return "://" in os.fspath(path)


def write_text(path: "epath.Path", text: str) -> None:
    """Write a text file; readers see the whole new file or the old one."""
    write_bytes(path, text.encode())


def write_bytes(path: "epath.Path", content: bytes) -> None:
    """Write a file; readers see the whole new file or the old one.

    On a file system the content goes to a temporary file, which is then renamed. In a bucket an upload is atomic:
    readers see the old object until the new one is complete.
    """
    if is_remote(path):
        filesystem, inner = _open(path)
        filesystem.pipe_file(inner, content)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def create(path: "epath.Path", text: str) -> bool:
    """Write a file that does not exist yet; of several processes that try, one succeeds.

    Returns:
      Whether it was this one; False if the file exists.
    """
    if not is_remote(path):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return True
    if not os.fspath(path).startswith("gs://"):
        write_text(path, text)
        return True
    from google.api_core.exceptions import PreconditionFailed
    from google.cloud import storage

    bucket, _, name = os.fspath(path).removeprefix("gs://").partition("/")
    try:
        storage.Client().bucket(bucket).blob(name).upload_from_string(text, if_generation_match=0)
    except PreconditionFailed:
        return False
    return True


def write_out(path: str, text: str, flag: str) -> None:
    """Write a text to a path that the user gave in a flag. Create the folder if it does not exist.

    Args:
      path: a file, local or in a bucket.
      text: the content.
      flag: the flag that gave the path, for messages.

    Raises:
      UserError: the file cannot be written.
    """
    from etils import epath  # only where something is written: it takes a second

    file = epath.Path(path).expanduser()
    try:
        with explained(file, flag):
            if not file.parent.exists():
                file.parent.mkdir(parents=True)
            write_text(file, text)
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {error.strerror or error}") from error


def free_name(folder: "epath.Path", name: str) -> "epath.Path":
    """A path in a folder that does not exist: of this name, or with a number after it."""
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(1)))
    return next(folder / each for each in names if not (folder / each).exists())


def move_folder(source: "epath.Path", target: "epath.Path") -> None:
    """Move a folder to a path where nothing exists.

    A bucket copies the objects one by one and then deletes the old ones. If that is interrupted, call it again.
    """
    if not is_remote(source):
        source.rename(target)
        return
    filesystem, inner = _open(source)
    _, place = _open(target)
    for name in filesystem.find(inner):
        filesystem.cp_file(name, place + name[len(inner) :])
    filesystem.rm(inner, recursive=True)


def objects_below(folder: "epath.Path") -> dict[str, tuple[int, str]]:
    """The size in bytes and the checksum of each object of a folder in a bucket, by its path in the folder.

    The bucket computes the checksum (CRC32C) when it receives an object, so that nothing is downloaded. It is '' if the
    bucket gives none.
    """
    filesystem, inner = _open(folder)
    inner = inner.rstrip("/")
    found = filesystem.find(inner, detail=True)
    return {
        name[len(inner) + 1 :]: (int(about["size"]), str(about.get("crc32c") or ""))
        for name, about in found.items()
    }


def patiently(function: Callable[[], T], what: str) -> T:
    """Call a function that reads files, and again after a pause if the network, the disk or the memory has failed.

    Args:
      function: safe to be called again.
      what: the name of what it reads, for the message.

    Raises:
      Exception: what the last call raised.
    """
    for pause in PAUSES:
        try:
            return function()
        except Exception as error:
            if not any(_is_transient(each) for each in _chain(error)):
                raise
            logger.warning(
                "%s cannot be read (%s: %s); reading again in %g s",
                what,
                type(error).__name__,
                _detail(error),
                pause,
            )
            time.sleep(pause)
    return function()


def check_readable(path: str | os.PathLike[str], setting: str) -> None:
    """Refuse a bucket that cannot be read or reached; whether the path itself exists does not matter.

    Args:
      path: any path; a local one is not checked.
      setting: the flag or field that holds the path, for messages.

    Raises:
      UserError: the reason and the remedy, in one line.
    """
    if is_remote(path):
        with explained(path, setting):
            filesystem, inner = _open(path)
            filesystem.exists(inner.rstrip("/"))


def check_writable(folder: "epath.Path", setting: str, probe: str = ".writable") -> None:
    """Refuse a folder in a bucket if the bucket does not exist, cannot be reached, or does not permit writing.

    The check writes, reads, lists and deletes a small object in the folder.

    Args:
      folder: a folder in a bucket.
      setting: the flag or field that holds the folder, for messages.
      probe: the name of the small object; each process needs a different one.

    Raises:
      UserError: the reason and the remedy, in one line.
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
                f"{setting}={os.fspath(folder)}: a bucket's name has lower-case letters, digits, '-', '_' and '.'"
            )
        place = f"{inner.rstrip('/')}/{probe}"
        filesystem.pipe_file(place, b"")
        filesystem.cat_file(place)
        filesystem.ls(inner)
        filesystem.rm_file(place)
        if os.fspath(folder).startswith("gs://"):
            _look_up(bucket)


def _look_up(bucket: str) -> None:
    """Ask for the bucket itself. Orbax does this for every checkpoint, with this client and permission."""
    from google.cloud import storage

    storage.Client().get_bucket(bucket)


@contextlib.contextmanager
def explained(path: str | os.PathLike[str], setting: str = "") -> Iterator[None]:
    """Turn errors of a bucket's clients into one line; errors of a file system pass unchanged.

    Args:
      path: the path that the body reads or writes.
      setting: the flag or field that holds the path; empty if it is not known.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each of the five clients has its own errors
        if not is_remote(path):
            raise
        where = f"{setting}={os.fspath(path)}".removeprefix("=")
        raise UserError(f"{where}: {_flaw(error, os.fspath(path))}") from error


class StorageError(Exception):
    """The disk or the network has failed, and it ends a run; the message is one line."""


def outage(error: BaseException) -> str:
    """The message for an error of storage, or of a bucket's or server's client, that ends a run; else empty."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "a file"
        return f"{where} cannot be written ({error.strerror}): make room, then run the same command again"
    if type(error).__module__.split(".")[0] not in ("aiohttp", "gcsfs", "google", "requests"):
        return ""
    return f"a bucket or server failed ({_detail(error)}); run the same command again to go on from the last checkpoint"


DAMAGE = (
    ValueError,  # includes the errors of JSON, Unicode, numpy and TensorStore
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
"""Exceptions that reading raises if a file, or a file that belongs to it, has wrong content."""
PASSING = re.compile(
    r"(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED): "
)
"""Start of messages of TensorStore and XLA about a failure that says nothing about a file's content."""


DISK = re.compile(r"\[os_error_code='(\d+)'\]")
"""How TensorStore says that the file system has refused something; its own words stand before this, or elsewhere."""


def check_damage(error: Exception, what: str) -> None:
    """Return if an exception shows that a file's content is damaged; raise otherwise.

    Args:
      error: the exception that reading raised.
      what: the name of the file, for the message.

    Raises:
      UserError: the network, a permission or the memory failed. The file may be good, so it is kept.
      KeyboardInterrupt: a signal broke off the reading.
      Exception: `error` itself, if it has another reason.
    """
    chain = _chain(error)
    for signalled in (each for each in chain if isinstance(each, KeyboardInterrupt)):
        raise signalled
    if any(_is_transient(each) for each in chain):
        raise UserError(
            f"{what} cannot be read now ({type(error).__name__}: {_detail(error)}); it is left as it is: run the "
            "same command again when the problem has passed"
        ) from error
    if not any(isinstance(each, DAMAGE) for each in chain):
        raise error


def is_storage_failure(error: BaseException) -> bool:
    """Whether an exception reports that the disk, the network or a permission failed while files were written."""
    return any(_is_transient(each) or DISK.search(str(each)) for each in _chain(error))


def storage_flaw(error: BaseException) -> str:
    """What the disk or the network says in such an exception, on one line: File too large."""
    found = DISK.search(str(error))
    return os.strerror(int(found[1])) if found else (getattr(error, "strerror", "") or _detail(error))


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _is_transient(error: BaseException) -> bool:
    """Whether an exception reports a failure on the way to a file, and not in its content."""
    return (
        (isinstance(error, OSError) and not isinstance(error, DAMAGE))
        or isinstance(error, MemoryError)
        or bool(outage(error))
        or PASSING.match(str(error)) is not None
    )


def _detail(error: BaseException) -> str:
    """The message of an exception; gcsfs puts an address on the first line, which is left out."""
    text = str(error)
    return " ".join((text.partition("\n")[2] or text).split())[:300] or type(error).__name__


def _flaw(error: BaseException, path: str) -> str:
    """The reason of an error and its remedy, for the user's message."""
    message, kind, status = _detail(error), type(error).__name__, _status(error)
    if "Project was not passed" in message:
        return "Google's client knows no project; set GOOGLE_CLOUD_PROJECT in the environment"
    if status == 401 or kind in ("DefaultCredentialsError", "RefreshError"):
        return (
            f"there are no valid Google credentials ({message}); run `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a key file, or give the machine a service account"
        )
    if status == 403:
        return f"permission denied ({message}); the account needs {ROLES} on the bucket"
    if status == 404:
        bucket = path.split("://", 1)[-1].split("/")[0]
        return f"there is no bucket {bucket}; make it (`gcloud storage buckets create gs://{bucket}`), or name another"
    return f"the bucket cannot be reached ({kind}: {message}); run the same command again later"


def _status(error: BaseException) -> int:
    """The HTTP status that an exception stands for; 0 if it stands for none."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return 403
    try:
        return int(getattr(error, "code", 0) or 0)  # gcsfs: a number or its text; google.cloud: an enum
    except (TypeError, ValueError):
        return 0


def _open(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The file system of a URL, and the path within it."""
    from fsspec.core import url_to_fs

    return url_to_fs(os.fspath(path))

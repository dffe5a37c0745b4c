"""Notices that a file of the corpus changes while a run reads it, also between two epochs."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from base.errors import UserError
from base.storage import is_remote
from data.source_protocol import Record
from data.sources.paths import File, information, readable

MARKS = ("crc32c", "md5Hash", "etag", "ETag", "generation", "mtime", "LastModified", "updated", "created")
"""What stores tell of an object's content or age; the first that a store gives is compared."""

RECORDS_BETWEEN_LOOKS = 4096
"""Records after which a local file is looked at again while it is read."""


class Version(NamedTuple):
    """What tells one version of a file from another."""

    size: int
    """Size in bytes."""
    mark: str
    """Time of the last change in nanoseconds; for an object in a store, its checksum or another value of MARKS."""


class FileVersions:
    """The versions of the files that a source has read, from the first time each is opened."""

    def __init__(self) -> None:
        """Start without any file."""
        self._opened: dict[str, Version] = {}

    def unchanged(self, records: Iterable[Record], *files: File | None) -> Iterator[Record]:
        """Yield the records that are read from files, while the files stay as they were.

        A file is looked at before its first record, after its last and, if it is local, in between.

        Raises:
          UserError: a file has changed since it was listed, or since the first time it was opened.
        """
        present = [file for file in files if file]
        local = [file for file in present if not is_remote(file.path)]
        self._check(present)
        try:
            for count, record in enumerate(records, 1):
                yield record
                if not count % RECORDS_BETWEEN_LOOKS:
                    self._check(local)
        except UserError:
            self._check(present)  # a change explains damage better than the damage does
            raise
        self._check(present)

    def _check(self, files: Iterable[File]) -> None:
        for file in files:
            now = _version(file.path)
            before = self._opened.setdefault(file.path, Version(file.size, now.mark))
            if now != before:
                raise UserError(
                    f"{file.path}: the file has changed while the run was reading the corpus "
                    f"({_difference(before, now)}); put the old file back and run the same command again, or add "
                    "--accept_changes to go on with text that the run has yet to read"
                )


def _version(path: str) -> Version:
    with readable(path):
        if is_remote(path):
            about = information(path)
            return Version(
                int(about["size"]), next((str(about[mark]) for mark in MARKS if about.get(mark)), "")
            )
        status = Path(path).stat()
        return Version(status.st_size, str(status.st_mtime_ns))


def _difference(before: Version, now: Version) -> str:
    if before.size != now.size:
        return f"{before.size} bytes before, {now.size} now"
    if now.mark.isdecimal() and len(now.mark) > 18:
        when = datetime.fromtimestamp(int(now.mark) / 1e9, UTC)
        return f"written again at {when:%Y-%m-%d %H:%M:%S} UTC, with as many bytes"
    return "written again, with as many bytes"

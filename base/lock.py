"""The lock of a folder: FOLDER/lock.json says which process works there, and that it still does.

The first process of a run holds the lock of the workdir, renews it every `BEAT` seconds, and looks before each save
whether it is still its own. A lock that nobody renews is taken over: at once if its process ran on this machine and
has ended, else after `STALE` seconds, of which at least `WATCH` are spent looking at it. The clocks of two machines may
differ by minutes, so the time in a lock only shortens the wait, and a lock that changes is never taken over.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from base.errors import UserError
from base.json_files import parsed
from base.storage import create, outage, write_text

FILE = "lock.json"
BEAT = 20.0
"""Seconds between renewals."""
STALE = 90.0
"""Seconds without a renewal after which a lock on another machine is nobody's."""
WATCH = 30.0
"""Seconds that a lock on another machine is looked at, however old it seems: a beat, and time to write it."""
SETTLE = 0.2
"""Seconds after which a lock that several processes took over at once is one's."""
LOOK = 1.0
"""Seconds between looks at a lock that may be renewed."""

logger = logging.getLogger(__name__)

_HELD: set[str] = set()
"""Ids of the locks that this process holds now."""


class Lock:
    """The lock of one folder, held by this process."""

    def __init__(self, workdir: epath.Path, flag: str = "--workdir", does: str = "trains"):
        """Take the lock.

        Args:
          workdir: the folder.
          flag: the flag that gave the folder, for messages.
          does: what a process that holds the lock does in the folder, for messages.

        Raises:
          UserError: another process holds it.
        """
        self._workdir, self._file = workdir, workdir / FILE
        self._flag, self._does = flag, does
        self._own = {"id": uuid.uuid4().hex, **_this_process()}
        self._take()
        _HELD.add(self._own["id"])
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="workdir-lock", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Refuse to go on where the lock is no longer this process's.

        Raises:
          UserError: another process has it, or the workdir is gone.
        """
        found = _read(self._file)
        if found is None:
            raise UserError(
                f"the workdir {self._workdir} is gone, or its {FILE}: the run ends, since it could save nothing there"
            )
        if found["id"] != self._own["id"]:
            raise UserError(
                f"{_who(found)} has taken over the workdir {self._workdir}: this run ends, and saves nothing more"
            )

    def release(self) -> None:
        """Give the lock back, if it is still this process's."""
        self._ended.set()
        self._beating.join()
        _HELD.discard(self._own["id"])
        with contextlib.suppress(Exception):  # what is left is taken over by the next run
            if (found := _read(self._file)) and found["id"] == self._own["id"]:
                self._file.unlink()

    def _take(self) -> None:
        found = _read(self._file)
        if found is None and self._file.exists():  # damaged, or another process is writing it
            time.sleep(SETTLE)
            found = _read(self._file)
        if found is not None and not _has_ended(found):
            self._wait(found)
        if found is None and not self._file.exists():
            if not create(self._file, self._content()):
                raise self._held(self._other())
            return
        if found is not None:
            what = f"{self._flag}={self._workdir}"
            logger.warning("taking over %s from %s, which has ended without a word", what, _who(found))
        self._write()
        time.sleep(SETTLE)  # of several processes that take it over, the last that wrote has it
        if (now := self._other())["id"] != self._own["id"]:
            raise self._held(now)

    def _wait(self, found: dict[str, Any]) -> None:
        """Wait until a lock has not been renewed for `STALE` seconds, and not while this process looks at it.

        Raises:
          UserError: it is renewed.
        """
        if found["host"] == self._own["host"]:
            raise self._held(found)
        age = time.time() - found["time"]  # by two clocks
        seconds = min(STALE, max(STALE - age, WATCH))
        logger.info(
            "waiting %.0f s whether %s still %s in %s", seconds, _who(found), self._does, self._workdir
        )
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(LOOK)
            now = _read(self._file)
            if now is None:
                return
            if now != found:
                raise self._held(now)

    def _held(self, found: dict[str, Any]) -> UserError:
        return UserError(
            f"{_who(found)} {self._does} in {self._flag}={self._workdir}: stop it, or set another {self._flag} "
            f"(if it has ended, delete {self._file})"
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                found = _read(self._file)
                if found is not None and found["id"] == self._own["id"]:
                    self._write()
            except Exception as error:  # the next beat may succeed, and saves look for themselves
                if not isinstance(error, OSError) and not outage(error):
                    raise

    def _other(self) -> dict[str, Any]:
        """The lock that is there now; another process may be writing it."""
        for _ in range(50):
            if (found := _read(self._file)) is not None:
                return found
            time.sleep(SETTLE / 10)
        return {"id": "", "pid": "?", "host": "an unknown host"}

    def _write(self) -> None:
        write_text(self._file, self._content())

    def _content(self) -> str:
        return json.dumps({**self._own, "time": time.time()}) + "\n"


@contextlib.contextmanager
def held(workdir: epath.Path, flag: str = "--workdir", does: str = "trains") -> Iterator[Lock]:
    """Hold the lock of a folder; `flag` and `does` are for messages (see `Lock`).

    Raises:
      UserError: another process holds it.
    """
    lock = Lock(workdir, flag, does)
    try:
        yield lock
    finally:
        lock.release()


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """When a process of this machine started, since a number is used again; '' where there is none, or no /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {after_name[19]}"
    except (OSError, IndexError):
        return ""


def _has_ended(found: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock ran on this machine and has ended, or is this one and has let it go."""
    mine = _this_process()
    if found["host"] != mine["host"]:
        return False
    if found["pid"] == mine["pid"] and found["started"] == mine["started"]:
        return found["id"] not in _HELD  # an earlier run of this process
    return bool(found["started"]) and _started(found["pid"]) != found["started"]


def _read(file: epath.Path) -> dict[str, Any] | None:
    """A lock; None where there is none, or a damaged one."""
    try:
        found = parsed(file.read_bytes())
        wanted = {"id": str, "host": str, "pid": int, "started": str, "time": float}
        return found if all(isinstance(found[name], kind) for name, kind in wanted.items()) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        return None


def _who(found: dict[str, Any]) -> str:
    return f"process {found['pid']} on {found['host']}"

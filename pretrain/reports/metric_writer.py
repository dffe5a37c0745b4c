"""Write a run's metrics to WORKDIR/metrics.jsonl, one JSON object a line, to TensorBoard events and other trackers.

metrics.jsonl has each step of the run once. When a run resumes at step k, lines of later steps are removed, because the
run makes these steps again. Only one process of a run writes. Objects in a bucket cannot be extended. So in a bucket,
the files are rewritten once a minute, and when they are flushed before every checkpoint.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from etils import epath

from base.json_files import parsed, warn_once
from base.storage import is_remote, write_text
from pretrain.reports.tensorboard_events import EventWriter
from pretrain.reports.trackers import Tracker
from pretrain.runtime.optional_outputs import attempt

FILE_NAME = "metrics.jsonl"
REWRITE_SECONDS = 60.0

Line = dict[str, Any]
"""{"step": n, "train/loss": 2.5, ...}; a value that is not finite is None."""


def read_metrics(path: epath.PathLike) -> list[Line]:
    """The lines of a metrics.jsonl, in order. Damaged lines, which a crash may leave, are left out with a warning."""
    path = epath.Path(path)
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines = [parsed_line(text) for text in texts]
    damaged = [number for number, line in enumerate(lines, 1) if line is None]
    if damaged:
        which = (
            f"line {damaged[0]} is"
            if len(damaged) == 1
            else f"{len(damaged)} lines (from {damaged[0]} on) are"
        )
        warn_once(f"{path}: {which} damaged and left out")
    return [line for line in lines if line is not None]


def parsed_line(text: bytes) -> Line | None:
    """A line of a metrics.jsonl; None if it is not an object with a step and numbers."""
    try:
        line = parsed(text)
        numbers = [value for value in line.values() if value is not None]
        known = type(line["step"]) is int and all(type(value) in (int, float) for value in numbers)
        return line if known and all(float(value) is not None for value in numbers) else None
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        OverflowError,
    ):  # no JSON, no object, no float
        return None


class MetricWriter:
    """A writer of scalars to metrics.jsonl and trackers that does not delay the training loop.

    Slow writes happen on a separate thread. A failed write (a full disk, a lost connection) logs a warning and does not
    stop the run. The next write makes up for it.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        resume_step: int | None = None,
        trackers: Sequence[str] = ("tensorboard",),
        project: str = "",
    ):
        """Open the files of a run; importing TensorBoard's writer takes 3 to 4 seconds.

        Args:
          workdir: the run's folder, local or gs://.
          resume_step: the step at which the run resumes; lines of later steps are removed. None removes all lines.
          trackers: where metrics go too; "tensorboard" writes events into WORKDIR/tensorboard.
          project: of the other trackers.
        """
        self._path = epath.Path(workdir) / FILE_NAME
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else read_metrics(self._path)
        self._lines = [_as_json(line) for line in kept if line["step"] <= (resume_step or 0)]
        self._rewrite(self._lines)
        self._rewritten = time.monotonic()
        self._file: FileIO | None = None
        if not is_remote(self._path):
            self._file = FileIO(Path(self._path), "a")
        self._unwritten = b""
        """The end of the lines so far that is not in the file yet."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._events: EventWriter | None = None
        folder = self._path.parent
        self._trackers = [Tracker(kind, folder, project) for kind in trackers if kind != "tensorboard"]
        if "tensorboard" in trackers:
            attempt("TensorBoard", self._open_events, remedy="this call of the run has no events")

    def _open_events(self) -> None:
        self._events = EventWriter(self._path.parent / "tensorboard")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step. NaN and infinities become null in metrics.jsonl."""
        values = {name: float(value) for name, value in values.items()}
        line = _as_json({"step": int(step), **values})
        if self._file is not None:
            self._unwritten += line.encode()
            attempt("metrics.jsonl", self._append)
        else:
            self._lines.append(line)
        if self._events is not None:
            self._submit("TensorBoard", self._events.scalars, int(step), values)
        for tracker in self._trackers:
            tracker.scalars(int(step), values)
        if self._file is None and time.monotonic() - self._rewritten > REWRITE_SECONDS:
            self._put()

    def write_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Show a flat config ({'optimizer.name': 'adamw', ...}) among the hyperparameters of each tracker."""
        for tracker in self._trackers:
            tracker.hyperparameters(values)
        if self._events is not None:
            self._submit("TensorBoard", self._events.hyperparameters, values)

    def flush(self) -> None:
        """Wait until everything written so far is in the files."""
        self._put()
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Flush, and close the files."""
        self.flush()
        if self._events is not None:
            self._submit("TensorBoard", self._events.close)
        self._thread.shutdown(wait=True)
        for tracker in self._trackers:
            tracker.close()
        if self._file is not None:
            if self._unwritten:
                attempt("metrics.jsonl", self._append)
            attempt("metrics.jsonl", self._file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, what: str, action: Callable[..., Any], *arguments: Any) -> None:
        self._thread.submit(attempt, what, action, *arguments)

    def _append(self) -> None:
        """Write what is not in the file yet. A full disk takes a part of it, then refuses the rest."""
        assert self._file is not None
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def _put(self) -> None:
        """Let the thread write everything so far into the files."""
        self._rewritten = time.monotonic()
        if self._file is None:
            self._submit("metrics.jsonl", self._rewrite, list(self._lines))
        if self._events is not None:
            self._submit("TensorBoard", self._events.flush)

    def _rewrite(self, lines: list[str]) -> None:
        write_text(self._path, "".join(lines))


def _as_json(line: Line) -> str:
    safe = {name: value if value is None or math.isfinite(value) else None for name, value in line.items()}
    return json.dumps(safe) + "\n"

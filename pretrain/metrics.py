"""Where a run's metrics go: WORKDIR/metrics.jsonl, one JSON object a line, and TensorBoard events.

metrics.jsonl is the run's true history: when a run resumes at step k, what an earlier attempt wrote after k
is taken out, since those steps are made again. Only one process of a run writes.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from etils import epath

FILE_NAME = "metrics.jsonl"
REWRITE_SECONDS = 60.0  # object stores cannot append: there the whole file is written anew, this often

Line = dict[str, Any]
"""{"step": n, "train/loss": 2.5, ...}; a value that is not finite is None."""

logger = logging.getLogger(__name__)


def read_metrics(path: epath.PathLike) -> list[Line]:
    """The lines of a metrics.jsonl, in order. A line that a crash left unfinished is left out."""
    path = epath.Path(path)
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class MetricWriter:
    """Writes scalars to metrics.jsonl and TensorBoard without holding up the loop.

    Slow writes happen on a thread of their own. A write that fails (a full disk, a lost connection) is
    reported as a warning and does not stop the run.
    """

    def __init__(self, workdir: epath.PathLike, *, resume_step: int | None = None, tensorboard: bool = True):
        """Open the files of a run; importing TensorBoard's writer takes 3 to 4 seconds.

        Args:
          workdir: the run's folder, local or gs://.
          resume_step: the step that the run goes on from: lines of later steps are taken out. None starts
          anew.
          tensorboard: write TensorBoard events into WORKDIR/tensorboard too.
        """
        self._path = epath.Path(workdir) / FILE_NAME
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else read_metrics(self._path)
        self._lines = [_as_json(line) for line in kept if line["step"] <= (resume_step or 0)]
        self._rewrite(self._lines)
        self._rewritten = time.monotonic()
        self._file = None if _is_remote(self._path) else self._path.open("a")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._tensorboard = _open_tensorboard(self._path.parent / "tensorboard") if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars that belong to `step`; NaN and infinities become null in metrics.jsonl."""
        values = {name: float(value) for name, value in values.items()}
        line = _as_json({"step": int(step), **values})
        if self._file is not None:
            file = self._file
            _attempt("metrics.jsonl", lambda: (file.write(line), file.flush()))
        else:
            self._lines.append(line)
            if time.monotonic() - self._rewritten > REWRITE_SECONDS:
                self._rewrite_later()
        if self._tensorboard is not None:
            self._submit("TensorBoard", self._tensorboard.write_scalars, int(step), values)

    def write_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Show a flat config ({'optimizer.name': 'adamw', ...}) in TensorBoard's hyperparameters."""
        if self._tensorboard is not None:
            plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
            self._submit("TensorBoard", self._tensorboard.write_hparams, plain)

    def flush(self) -> None:
        """Wait until everything written so far is in the files."""
        if self._file is None:
            self._rewrite_later()
        if self._tensorboard is not None:
            self._submit("TensorBoard", self._tensorboard.flush)
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Flush, and close the files."""
        self.flush()
        if self._tensorboard is not None:
            self._submit("TensorBoard", self._tensorboard.close)
        self._thread.shutdown(wait=True)
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, what: str, action: Callable[..., Any], *arguments: Any) -> None:
        self._thread.submit(_attempt, what, action, *arguments)

    def _rewrite_later(self) -> None:
        self._rewritten = time.monotonic()
        self._submit("metrics.jsonl", self._rewrite, list(self._lines))

    def _rewrite(self, lines: list[str]) -> None:
        temporary = self._path.with_name(FILE_NAME + ".tmp")
        temporary.write_text("".join(lines))
        temporary.replace(self._path)


def _as_json(line: Line) -> str:
    safe = {name: value if value is None or math.isfinite(value) else None for name, value in line.items()}
    return json.dumps(safe) + "\n"


def _attempt(what: str, action: Callable[..., Any], *arguments: Any) -> None:
    try:
        action(*arguments)
    except Exception as error:  # whatever goes wrong with a log line must not end a training run
        logger.warning("%s could not be written: %s", what, error)


def _is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def _open_tensorboard(folder: epath.Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on stderr
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same
    import tensorflow as tf  # type: ignore[import-untyped]
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # a full TensorFlow would take the memory that JAX needs
    return metric_writers.SummaryWriter(os.fspath(folder))

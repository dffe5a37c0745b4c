"""Write TensorBoard events of a run. Only this module imports TensorFlow and clu.

TensorFlow always writes to the local disk, because its client for buckets has other rules than ours for credentials and
retries. For a run in a bucket, this module copies the growing files into the bucket. A file has at most a few MB,
because an object in a bucket cannot be extended and each copy sends the whole file.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from base.storage import is_remote, write_bytes

FILE_BYTES = 4 * 2**20
"""For a bucket, a new file starts beyond this size, so that the repeated copies stay small."""


class EventWriter:
    """A writer of scalars and hyperparameters into a folder that TensorBoard reads."""

    def __init__(self, folder: epath.Path):
        """Open the folder, local or gs://; importing TensorFlow takes 3 to 4 seconds."""
        self._folder = folder
        self._staging = tempfile.TemporaryDirectory(prefix="events-") if is_remote(folder) else None
        self._copied: dict[str, int] = {}
        self._writer = _open_writer(self._staging.name if self._staging else os.fspath(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step."""
        self._writer.write_scalars(step, values)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Write a flat config as hyperparameters."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
        self._writer.write_hparams(plain)

    def flush(self) -> None:
        """Write everything so far into the folder."""
        self._writer.flush()
        if self._staging is not None and self._copy(Path(self._staging.name)) > FILE_BYTES:
            self._writer.close()
            self._copy(Path(self._staging.name))
            for file in Path(self._staging.name).iterdir():
                file.unlink()
            self._writer = _open_writer(self._staging.name)

    def close(self) -> None:
        """Flush, and close the file."""
        self._writer.close()
        if self._staging is not None:
            self._copy(Path(self._staging.name))
            self._staging.cleanup()

    def _copy(self, staging: Path) -> int:
        """Copy the files that have grown into the bucket. Returns the size of all local files in bytes."""
        sizes = {file.name: file.stat().st_size for file in staging.iterdir()}
        for name, size in sizes.items():
            if self._copied.get(name) != size:
                write_bytes(self._folder / name, (staging / name).read_bytes())
                self._copied[name] = size
        return sum(sizes.values())


def _open_writer(folder: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # suppresses TensorFlow's messages on stderr
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # suppresses the message about oneDNN
    import tensorflow as tf  # type: ignore[import-untyped]
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # a TensorFlow with GPUs would take the memory that JAX needs
    return metric_writers.SummaryWriter(folder)

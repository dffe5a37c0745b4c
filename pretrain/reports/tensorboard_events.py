"""TensorBoard events of a run: the one file that knows TensorFlow and clu.

TensorFlow writes the files on the local disk, also for a run in a bucket: its own client for buckets has other rules
than ours for credentials and retries. They are copied into the bucket as they grow, in files of a few MB, since an
object cannot be appended to.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from base.storage import is_remote, write_bytes

FILE_BYTES = 4 * 2**20
"""In a bucket the next file is begun beyond this size, so that what is copied again and again stays small."""


class EventWriter:
    """Writes scalars and hyperparameters into a folder that TensorBoard reads."""

    def __init__(self, folder: epath.Path):
        """Open the folder, local or gs://; importing TensorFlow takes 3 to 4 seconds."""
        self._folder = folder
        self._staging = tempfile.TemporaryDirectory(prefix="events-") if is_remote(folder) else None
        self._copied: dict[str, int] = {}
        self._writer = _open_writer(self._staging.name if self._staging else os.fspath(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars that belong to `step`."""
        self._writer.write_scalars(step, values)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Show a flat config."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
        self._writer.write_hparams(plain)

    def flush(self) -> None:
        """Have everything written so far in the folder."""
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
        """Copy what has grown into the bucket; the size of all that is on the local disk."""
        sizes = {file.name: file.stat().st_size for file in staging.iterdir()}
        for name, size in sizes.items():
            if self._copied.get(name) != size:
                write_bytes(self._folder / name, (staging / name).read_bytes())
                self._copied[name] = size
        return sum(sizes.values())


def _open_writer(folder: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on stderr
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same
    import tensorflow as tf  # type: ignore[import-untyped]
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # a full TensorFlow would take the memory that JAX needs
    return metric_writers.SummaryWriter(folder)

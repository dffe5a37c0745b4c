"""From the host's rows to the devices: which rows of a batch are this process's, and global arrays made of them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from pretrain.flops import squared_segment_lengths
from pretrain.sharding import sharding

AXES = {
    "tokens": ("batch", "seq"),
    "segments": ("batch", "seq"),
    "positions": ("batch", "seq"),
    "attended": ("batch",),
}


def local_rows(mesh: Mesh, global_batch: int) -> range:
    """The rows of a global batch that this process's devices hold: one contiguous block."""
    indices = sharding(mesh, ("batch",)).addressable_devices_indices_map((global_batch,)).values()
    spans = [index[0].indices(global_batch)[:2] for index in indices if index is not None]
    rows = range(min(start for start, _ in spans), max(stop for _, stop in spans))
    if len(rows) != sum(stop - start for start, stop in set(spans)):
        raise ValueError(
            f"the rows of this process's devices are not contiguous on the mesh {mesh.shape}: {spans}"
        )
    return rows


def abstract_batch(mesh: Mesh, global_batch: int, seq_len: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch's shapes, dtypes and shardings."""
    shape = (global_batch, seq_len)
    return {
        name: jax.ShapeDtypeStruct(
            shape[: len(axes)], np.float32 if name == "attended" else np.int32, sharding=sharding(mesh, axes)
        )
        for name, axes in AXES.items()
    }


def to_devices(arrays: Mapping[str, np.ndarray], mesh: Mesh, global_batch: int) -> dict[str, jax.Array]:
    """Make global arrays [B, ...] of this process's rows (tokens, segments, positions [b, S]), and add `attended`."""
    local = {**arrays, "attended": squared_segment_lengths(arrays["segments"]).astype(np.float32)}
    return {
        name: jax.make_array_from_process_local_data(
            sharding(mesh, axes), local[name], (global_batch, *local[name].shape[1:])
        )
        for name, axes in AXES.items()
    }

"""The rows of a global batch that this process holds, and global arrays made of these rows."""

import bisect
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from pretrain.devices.flops import seen_pairs
from pretrain.devices.mesh import sharding

AXES = {
    "tokens": ("batch", "seq"),
    "segments": ("batch", "seq"),
    "positions": ("batch", "seq"),
    "attended": ("batch",),
}


@functools.cache
def local_rows(mesh: Mesh, global_batch: int) -> tuple[int, ...]:
    """The rows of a global batch that this process's devices hold, ascending.

    If the tensor axis of the mesh crosses processes, several processes hold the same rows. On a pod, the mesh follows
    the interconnect, so the rows of a process need not be adjacent.
    """
    indices = sharding(mesh, ("batch",)).addressable_devices_indices_map((global_batch,)).values()
    spans = [index[0].indices(global_batch) for index in indices if index is not None]
    return tuple(sorted({row for span in spans for row in range(*span)}))


def global_array(
    held: np.ndarray, mesh: Mesh, axes: Sequence[str | None], rows: Sequence[int], global_batch: int
) -> jax.Array:
    """An array [B, ...] of which `held` [b, ...] has the rows that this process's devices hold."""
    return laid_out(held, sharding(mesh, axes), rows, global_batch)


def laid_out(
    held: np.ndarray, layout: NamedSharding, rows: Sequence[int] | None = None, count: int = 0
) -> jax.Array:
    """Make a global array from the part that this process holds. Each device gets its part.

    Args:
      held: the whole array, or its rows `rows`.
      layout: the global array's.
      rows: the numbers of the rows that `held` has, ascending; None: all.
      count: rows of the global array, where `held` does not have all.
    """

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        if rows is None or index is None:
            return held if index is None else held[index]
        start, stop, _ = index[0].indices(count)
        first = bisect.bisect_left(rows, start)
        return held[first : first + stop - start]

    shape = held.shape if rows is None else (count, *held.shape[1:])
    return jax.make_array_from_callback(shape, layout, part)


def abstract_batch(mesh: Mesh, global_batch: int, seq_len: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch's shapes, dtypes and shardings."""
    shape = (global_batch, seq_len)
    return {
        name: jax.ShapeDtypeStruct(
            shape[: len(axes)], np.float32 if name == "attended" else np.int32, sharding=sharding(mesh, axes)
        )
        for name, axes in AXES.items()
    }


def to_devices(
    arrays: Mapping[str, np.ndarray], mesh: Mesh, global_batch: int, windows: Sequence[int] = ()
) -> dict[str, jax.Array]:
    """Make global arrays [B, ...] of this process's rows, and add `attended`, which FLOPs are counted from.

    Args:
      arrays: tokens, segments and positions [b, S].
      mesh: the devices.
      global_batch: rows B of all processes.
      windows: of the network's layers (`EncoderConfig.windows`).
    """
    local = {**arrays, "attended": seen_pairs(arrays["segments"], windows).astype(np.float32)}
    rows = local_rows(mesh, global_batch)
    return {name: global_array(local[name], mesh, axes, rows, global_batch) for name, axes in AXES.items()}

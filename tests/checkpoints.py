"""How tests write checkpoints of small arrays."""

import jax
import orbax.checkpoint as ocp

LEAST = 4096
"""Bytes: a part of one of the larger arrays of a tiny run, its table of words."""


def split_large_arrays_alone() -> None:
    """Have Orbax write a small array whole, and split only a large one among the devices that hold copies of it.

    It cuts each part out by a program of its own for every shape, place and device: a hundred for a run on a mesh.
    """
    ocp.type_handlers.get_type_handler(jax.Array)._min_slice_bytes_for_replica_parallel = LEAST

"""Kernels of Pallas on a mesh: XLA cannot split their calls, so each device runs one on its own rows and heads."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from pretrain.devices.mesh import spec

Local = Callable[
    [Float[Array, "b S n H"], Float[Array, "b S n H"], Float[Array, "b S n H"], Int[Array, "b S"]],
    Float[Array, "b S n H"],
]
"""A kernel on one device: query, key, value, segments -> output, for b rows and n heads."""


def on_each_device(
    compute: Local,
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    segments: Int[Array, "B S"],
) -> Float[Array, "B S N H"]:
    """Run a kernel with rows and heads split as activations are. Without a mesh (`jax.set_mesh`), it runs as it is.

    Rows or heads whose number the mesh does not divide are computed on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return compute(query, key, value, segments)
    heads = spec(mesh, ("batch", "seq", "act_heads", None), query.shape)
    rows = spec(mesh, ("batch", "seq"), segments.shape)
    # Pallas calls do not say over which mesh axes their results vary, so this is not checked.
    run = jax.shard_map(compute, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)
    result: Array = run(query, key, value, segments)
    return result

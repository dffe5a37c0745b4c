"""The mesh, and the one table that says how each logical axis is laid out on it.

Arrays are described by logical axes ("batch", "embed", "mlp", ...); only `RULES` names mesh axes. The mode is automatic
(GSPMD) throughout: every mesh axis is `AxisType.Auto`, arrays born by `jax.jit(..., out_shardings=...)`, activations
pinned by `constrain`. docs/architecture.md says why not explicit axes.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from base.errors import UserError
from pretrain.config import MeshConfig

MESH_AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")

# Logical axis -> the mesh axes it is split over, in order of preference.
RULES: dict[str, tuple[str, ...]] = {
    "member": ("member",),  # runs of a population trained together
    "device": ("member", *MESH_AXES),  # something that every device has one of
    "batch": BATCH_AXES,  # rows of a batch (and whatever is per row)
    "seq": (),  # positions in a row
    "act_embed": (),  # model width of an activation
    "act_heads": ("tensor",),  # heads of an activation
    "act_mlp": ("tensor",),  # feed-forward width of an activation
    "act_vocab": ("tensor",),  # vocabulary of logits
    "vocab": ("tensor",),  # vocabulary of a parameter
    "embed": ("fsdp",),  # model width of a parameter
    "heads": ("tensor",),  # heads x head width of a parameter
    "mlp": ("tensor",),  # feed-forward width of a parameter
    "positions": (),  # rows of a position table
    "layers": (),  # stacked layers
    "norm": (),  # scale and bias of a layer norm
}
STORED = {"embed"}
"""Logical axes of parameters that are whole again where they are used."""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lay `devices` (default: all) out as the mesh (replica, data, fsdp, tensor) that the config asks for.

    Raises:
      UserError: a size below 1, more than one -1, or a product that is not the number of devices; slices of a TPU
        that the replica axis does not go between.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = list(mesh_sizes(config, len(devices), slices if devices[0].platform == "tpu" else None).values())
    if sizes[0] > 1 and slices == sizes[0]:
        layout = mesh_utils.create_hybrid_device_mesh([1, *sizes[1:]], [sizes[0], 1, 1, 1], devices=devices)
    else:
        layout = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    return Mesh(layout, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(config: MeshConfig, devices: int, slices: int | None = None) -> dict[str, int]:
    """How many devices each axis of the mesh has, of so many in all; -1 is filled in.

    Args:
      config: the sizes that are asked for.
      devices: their number.
      slices: of a TPU, its slices, which the replica axis has to go between and nothing else; None asks nothing of it.

    Raises:
      UserError: as for `make_mesh`.
    """
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    _check_sizes(sizes, devices)
    if -1 in sizes:
        sizes[sizes.index(-1)] = devices // math.prod(size for size in sizes if size != -1)
    if slices is not None and slices > 1 and sizes[0] != slices:
        raise UserError(
            f"config.mesh.replica={sizes[0]} should be {slices}, the number of slices: of the mesh only that axis goes "
            "between slices"
        )
    return dict(zip(MESH_AXES, sizes))


def _check_sizes(sizes: Sequence[int], devices: int) -> None:
    """Refuse sizes of MESH_AXES, -1 for what is left, that cannot be laid out on so many devices."""
    named = {f"config.mesh.{axis}": size for axis, size in zip(MESH_AXES, sizes)}
    for name, size in named.items():
        if size < 1 and size != -1:
            raise UserError(f"{name}={size} should be 1 or more, or -1 to take the devices that are left")
    rest = [name for name, size in named.items() if size == -1]
    if len(rest) > 1:
        default = " (config.mesh.data is by default)" if "config.mesh.data" in rest else ""
        raise UserError(
            f"{' and '.join(f'{name}=-1' for name in rest)}: only one of them may be -1{default}; "
            f"set {' and '.join(f'{name}=1' for name in rest[:-1])}, say"
        )
    known = math.prod(size for size in sizes if size != -1)
    # Without a -1, data has been set: its default is one.
    given = " x ".join(f"{name}={size}" for name, size in named.items() if size > 1) or "config.mesh.data=1"
    if rest and devices % known:
        divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise UserError(
            f"{given} does not divide the number of devices, {devices}, of which {rest[0]}=-1 takes what is left; "
            f"make the product one of {divisors}"
        )
    if not rest and known != devices:
        raise UserError(
            f"{given} does not make the number of devices, {devices}; make the product {devices}, "
            "or set one axis of config.mesh to -1 to take what is left"
        )


def spec(
    mesh: Mesh | jax.sharding.AbstractMesh, axes: Sequence[str | None], shape: Sequence[int] | None = None
) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes; with `shape`, an axis that does not divide stays whole."""
    entries: list[Any] = []
    for index, name in enumerate(axes):
        mesh_axes = tuple(axis for axis in (RULES[name] if name else ()) if mesh.shape.get(axis, 1) > 1)
        if (
            shape is not None
            and mesh_axes
            and shape[index] % math.prod(mesh.shape[axis] for axis in mesh_axes)
        ):
            mesh_axes = ()
        entries.append(mesh_axes or None)
    used = [axis for entry in entries if entry for axis in entry]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {tuple(axes)} use a mesh axis twice: {PartitionSpec(*entries)}")
    return PartitionSpec(*entries)


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int] | None = None) -> NamedSharding:
    """The NamedSharding of an array with these logical axes (see `spec`)."""
    return NamedSharding(mesh, spec(mesh, axes, shape))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation's layout inside jit to its logical axes; without a mesh set (`jax.set_mesh`), does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(mesh, axes, x.shape))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A parameter as its layer takes it, whole along the axes that only storage is split over; its gradient is split.

    Left to itself, XLA's TPU compiler splits a product by the parts that its kernel is stored in, and sends these
    around while it computes with what has come: many small products, several times slower than one with all of it.
    """
    return constrain(x, *(None if name in STORED else name for name in axes))


def _gathered_forward(x: jax.Array, axes: tuple[str | None, ...]) -> tuple[jax.Array, None]:
    return gathered(x, axes), None


def _gathered_backward(axes: tuple[str | None, ...], _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # Whole first: asked for its parts at once, XLA splits the product that makes it in the same way.
    whole = constrain(gradient, *(None if name in STORED else name for name in axes))
    return (constrain(whole, *axes),)


gathered.defvjp(_gathered_forward, _gathered_backward)

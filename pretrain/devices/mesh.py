"""The mesh of devices, and the table that maps each logical axis of an array to mesh axes.

The code describes arrays by logical axes ("batch", "embed", "mlp", ...). Only `RULES` names mesh axes. The sharding
mode is automatic (GSPMD) everywhere: every mesh axis is `AxisType.Auto`, `jax.jit(..., out_shardings=...)` creates the
arrays, and `constrain` fixes the layout of activations. docs/architecture.md explains why the axes are not explicit.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from base.errors import UserError
from pretrain.config import MeshConfig

MESH_AXES = ("replica", "data", "zero1", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "zero1", "fsdp")

# Logical axis -> the mesh axes over which it is split, in order of preference.
RULES: dict[str, tuple[str, ...]] = {
    "member": ("member",),  # runs of a population trained together
    "device": ("member", *MESH_AXES),  # an array with one entry for each device
    "batch": BATCH_AXES,  # rows of a batch, and values for each row
    "seq": (),  # positions in a row
    "act_embed": (),  # model width of an activation
    "act_heads": ("tensor",),  # heads of an activation
    "act_mlp": ("tensor",),  # feed-forward width of an activation
    "act_vocab": ("tensor",),  # vocabulary of logits
    "vocab": ("tensor", "fsdp"),  # vocabulary of a parameter
    "moment_vocab": ("tensor", "fsdp", "zero1"),  # vocabulary of a parameter's moments
    "embed": ("fsdp",),  # model width of a parameter
    "moment_embed": ("fsdp", "zero1"),  # model width of a parameter's moments
    "heads": ("tensor",),  # heads x head width of a parameter
    "mlp": ("tensor",),  # feed-forward width of a parameter
    "positions": (),  # rows of a position table
    "layers": (),  # stacked layers
    "matrices": (),  # matrices that one parameter holds, such as query, key and value
    "norm": (),  # scale and bias of a layer norm
}
IN_USE = {"embed": None, "vocab": "act_vocab"}
"""Logical axes of parameters that are split further in storage than where they are used, and their layout in use."""
SPLIT_FURTHER = {"embed": "moment_embed", "vocab": "moment_vocab"}
"""Logical axes of parameters that are split further in the state of the optimiser."""
COLUMNS = {"embed", "moment_embed"}
"""Logical axes that give way to the vocabulary in an array that has both."""
PARTLY = {"vocab", *SPLIT_FURTHER.values()}
"""Logical axes that are split over some of their mesh axes where all of them do not divide."""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the mesh of the config, with the axes `MESH_AXES`, from the devices.

    Args:
      config: the size of each mesh axis.
      devices: the devices; all by default.

    Raises:
      UserError: a size is below 1, more than one size is -1, the product of the sizes is not the number of devices, or
        the replica axis is not the number of TPU slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = list(mesh_sizes(config, len(devices), slices if devices[0].platform == "tpu" else None).values())
    if sizes[0] > 1 and slices == sizes[0]:
        across_slices = [sizes[0], *[1] * len(sizes[1:])]
        layout = mesh_utils.create_hybrid_device_mesh([1, *sizes[1:]], across_slices, devices=devices)
    else:
        layout = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
    return Mesh(layout, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(config: MeshConfig, devices: int, slices: int | None = None) -> dict[str, int]:
    """The number of devices along each mesh axis. A size of -1 is replaced by the remaining number.

    Args:
      config: the size of each mesh axis.
      devices: number of devices.
      slices: number of TPU slices, which the replica axis must equal if it is above 1; None does not check it.

    Raises:
      UserError: as for `make_mesh`.
    """
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    _check_sizes(sizes, devices)
    if -1 in sizes:
        sizes[sizes.index(-1)] = devices // math.prod(size for size in sizes if size != -1)
    if slices is not None and slices > 1 and sizes[0] != slices:
        raise UserError(
            f"config.mesh.replica={sizes[0]} should be {slices}, the number of slices: only this axis of the mesh may "
            "cross slices"
        )
    return dict(zip(MESH_AXES, sizes))


def _check_sizes(sizes: Sequence[int], devices: int) -> None:
    """Refuse sizes of MESH_AXES that do not fit the number of devices. -1 means the remaining number."""
    named = {f"config.mesh.{axis}": size for axis, size in zip(MESH_AXES, sizes)}
    for name, size in named.items():
        if size < 1 and size != -1:
            raise UserError(f"{name}={size} should be 1 or more, or -1 to take the devices that are left")
    rest = [name for name, size in named.items() if size == -1]
    if len(rest) > 1:
        default = " (config.mesh.data is by default)" if "config.mesh.data" in rest else ""
        raise UserError(
            f"{' and '.join(f'{name}=-1' for name in rest)}: only one of them may be -1{default}; "
            f"set {' and '.join(f'{name}=1' for name in rest[:-1])}, for example"
        )
    known = math.prod(size for size in sizes if size != -1)
    # If no size is -1, the user has set data, because its default is -1.
    given = " x ".join(f"{name}={size}" for name, size in named.items() if size > 1) or "config.mesh.data=1"
    if rest and devices % known:
        divisors = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
        raise UserError(
            f"{given} does not divide the number of devices, {devices}, so that {rest[0]}=-1 cannot take the rest; "
            f"make the product one of {divisors}"
        )
    if not rest and known != devices:
        raise UserError(
            f"{given} does not make the number of devices, {devices}; make the product {devices}, "
            "or set one axis of config.mesh to -1 to take the rest"
        )


def spec(
    mesh: Mesh | jax.sharding.AbstractMesh, axes: Sequence[str | None], shape: Sequence[int] | None = None
) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes.

    Args:
      mesh: the mesh.
      axes: a logical axis, or None, for each axis of the array.
      shape: the array's shape. With it, an axis whose size the mesh does not divide stays whole; one in `PARTLY` is
        split over fewer axes of the mesh if they divide it.

    Raises:
      ValueError: two axes of the array use the same mesh axis.
    """
    entries = [split or None for _, split in _layout(mesh.shape, axes, shape)]
    used = [axis for entry in entries if entry for axis in entry]
    if len(used) != len(set(used)):
        raise ValueError(f"logical axes {tuple(axes)} use a mesh axis twice: {PartitionSpec(*entries)}")
    return PartitionSpec(*entries)


def _layout(
    sizes: Mapping[str, int], axes: Sequence[str | None], shape: Sequence[int] | None
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each axis of an array, the mesh axes that would split it, and those that do.

    Model width gives way to the vocabulary: a table is split by its rows, which tokens look up, and by its columns only
    over axes that do not divide the rows.
    """
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    taken: tuple[str, ...] = ()
    for index, name in enumerate(axes):
        mesh_axes = tuple(axis for axis in (RULES[name] if name else ()) if sizes.get(axis, 1) > 1)
        if name in COLUMNS:
            mesh_axes = tuple(axis for axis in mesh_axes if axis not in taken)
        split = mesh_axes if shape is None else _dividing(sizes, name, mesh_axes, shape[index])
        if name in ("vocab", "moment_vocab"):
            taken = split
        found.append((mesh_axes, split))
    return found


def _dividing(
    sizes: Mapping[str, int], name: str | None, mesh_axes: tuple[str, ...], length: int
) -> tuple[str, ...]:
    """Those of its mesh axes that a logical axis of this length is split over: all, some of `PARTLY`, or none."""
    if length % math.prod(sizes[axis] for axis in mesh_axes) == 0:
        return mesh_axes
    if name not in PARTLY:
        return ()
    fewer = [mesh_axes[:count] for count in range(len(mesh_axes) - 1, 0, -1)] + [mesh_axes[-1:]]
    return next((some for some in fewer if length % math.prod(sizes[axis] for axis in some) == 0), ())


class WholeAxis(NamedTuple):
    """An axis of an array that the mesh would split, or split further, if its devices divided it."""

    name: str
    """The logical axis."""
    length: int
    mesh_axes: tuple[str, ...]
    """The axes of the mesh, whose devices do not divide the length."""
    split: tuple[str, ...] = ()
    """Those of them that it is split over all the same."""


def whole_axes(sizes: Mapping[str, int], axes: Sequence[str | None], shape: Sequence[int]) -> list[WholeAxis]:
    """The axes of an array that `spec` leaves whole, or splits less far, because they do not divide.

    Rows of a table are not among them where its columns could be split instead.

    Args:
      sizes: devices along each axis of the mesh.
      axes: the array's logical axes.
      shape: its shape.
    """
    layout = _layout(sizes, axes, shape)
    columns = {axis for name, (wanted, _) in zip(axes, layout) if name in COLUMNS for axis in wanted}
    return [
        WholeAxis(name or "", length, mesh_axes, split)
        for name, length, (mesh_axes, split) in zip(axes, shape, layout, strict=True)
        if set(mesh_axes) - set(split) - (set() if name in COLUMNS else columns)
    ]


def sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int] | None = None) -> NamedSharding:
    """The NamedSharding of an array with these logical axes (see `spec`)."""
    return NamedSharding(mesh, spec(mesh, axes, shape))


def of_moments(axes: Sequence[str | None]) -> tuple[str | None, ...]:
    """The logical axes of a parameter's moments, and of the gradient that they are updated with."""
    return tuple(SPLIT_FURTHER.get(name, name) if name else None for name in axes)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Fix an activation's layout inside jit by its logical axes. Without a mesh (`jax.set_mesh`) it does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(mesh, axes, x.shape))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A parameter in the layout for its layer, see `IN_USE`. Its gradient is split as its moments.

    Without this, XLA's TPU compiler splits a matrix product by the stored parts of its kernel. It sends the parts
    between devices and multiplies each part when it arrives. These many small products are several times slower than
    one product with the whole kernel.
    """
    return constrain(x, *(IN_USE.get(name, name) if name else None for name in axes))


def _gathered_forward(x: jax.Array, axes: tuple[str | None, ...]) -> tuple[jax.Array, None]:
    return gathered(x, axes), None


def _gathered_backward(axes: tuple[str | None, ...], _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # First whole, then split. If only the split were requested, XLA would split the product for the gradient too.
    whole = constrain(gradient, *(IN_USE.get(name, name) if name else None for name in axes))
    return (constrain(whole, *of_moments(axes)),)


gathered.defvjp(_gathered_forward, _gathered_backward)

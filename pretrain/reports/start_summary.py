"""What a run is about to do, shown before its first step: parameters, memory, batches, devices."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jaxtyping import PyTree
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from base import formatting


@dataclass(frozen=True)
class ParameterRow:
    """One array of the params, as the table shows it."""

    name: str
    """Its path in the tree: layers.up.kernel."""
    shape: tuple[int, ...]
    count: int
    share: float
    """Of all parameters."""
    split: str
    """The mesh axes that each dimension is split over, '-' for none: -,fsdp,tensor; 'replicated' if none
    is."""


@dataclass(frozen=True)
class Plan:
    """What a run or a phase of it does; plain numbers."""

    steps: int
    """Steps of the run."""
    start_step: int
    """Steps that are done already."""
    global_batch: int
    """Rows B of a batch."""
    seq_len: int
    """Tokens S of a row."""
    predictions: int
    """Predicted positions K of a row, at most."""
    grad_accum: int
    """Micro-batches of a step."""
    dtype: str
    """Compute type."""
    step_flops: float
    """FLOPs of a step whose rows are full."""
    peak_flops: float | None
    """FLOP/s of all devices together; None where it is not known."""
    steps_per_epoch: int | None = None
    """Steps in a pass over the corpus, where it has been counted."""
    changing_predictions: tuple[int, int] | None = None
    """Predictions of a full row in the first and in the last step, where the mask rate changes over the steps."""
    tokens: int | None = None
    """Tokens of all rows of the run; None if its batches are all of one size."""
    learning_rate: str = ""
    """The peak learning rate, where the batch scales it."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    params: int
    optimizer: int
    temporary: int | None = None
    """Activations and scratch space of a compiled step; None where the compiler does not say."""
    limit: int | None = None
    """What the device has; None where it does not say."""


def parameter_rows(params: PyTree, sizes: PyTree[int] | None = None) -> list[ParameterRow]:
    """The rows of the parameter table.

    Args:
      params: a tree of arrays, or of `jax.ShapeDtypeStruct`s with shardings.
      sizes: the number of parameters in each of them, where it is not that of its elements (`Model.sizes`).
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    counts = [leaf.size for _, leaf in leaves] if sizes is None else jax.tree.leaves(sizes)
    total = sum(counts)
    return [
        ParameterRow(
            name=jax.tree_util.keystr(path, simple=True, separator="."),
            shape=tuple(leaf.shape),
            count=count,
            share=count / total,
            split=_split(leaf),
        )
        for (path, leaf), count in zip(leaves, counts, strict=True)
    ]


def bytes_per_device(tree: PyTree) -> int:
    """Bytes that a tree of arrays, or of `jax.ShapeDtypeStruct`s with shardings, takes on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def overview(
    params: PyTree,
    mesh: jax.sharding.Mesh,
    plan: Plan,
    memory: Memory,
    *,
    sizes: PyTree[int] | None = None,
    network: Mapping[str, str] | None = None,
    processes: int = 1,
    again: bool = False,
) -> RenderableType:
    """The overview, to be printed with rich; at most 80 columns wide.

    Args:
      params: the parameters' shapes and shardings.
      mesh: the devices.
      plan: what is to be done.
      memory: what it takes on a device.
      sizes: as of `parameter_rows`.
      network: what else is to be said of the network (`pretrain.reports.network_facts`).
      processes: of the run.
      again: leave out what all phases of a run share, since an earlier phase has shown it.
    """
    facts = _describe(mesh, plan, memory, processes) | dict(network or {})
    if again:
        return _facts({name: text for name, text in facts.items() if name not in ("devices", "mesh")})
    return Group(_parameter_table(parameter_rows(params, sizes)), "", _facts(facts))


def _parameter_table(rows: list[ParameterRow]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("parameter", overflow="fold")
    for name in ("shape", "count", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sharding", overflow="fold")
    for part, members in itertools.groupby(rows, key=lambda row: row.name.partition(".")[0]):
        inside = list(members)
        count, share = sum(row.count for row in inside), sum(row.share for row in inside)
        table.add_row(part, "", formatting.count(count), formatting.percent(share), style="bold")
        for row in inside:
            name, shape = row.name.removeprefix(f"{part}."), "x".join(map(str, row.shape))
            share_text = formatting.percent(row.share)
            table.add_row(f"  {name}", shape, formatting.count(row.count), share_text, row.split)
    total = sum(row.count for row in rows)
    table.add_row("total", f"{total:,}", formatting.count(total), formatting.percent(1), style="bold")
    return table


def _describe(mesh: jax.sharding.Mesh, plan: Plan, memory: Memory, processes: int) -> dict[str, str]:
    tokens = plan.global_batch * plan.seq_len
    kind = mesh.devices.flat[0].device_kind
    axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1) or "one device"
    facts = {
        "devices": f"{mesh.size} x {kind}, {processes} process{'es' * (processes > 1)}",
        "mesh": axes,
        "memory per device": memory_text(memory),
        "batch": f"{plan.global_batch} rows x {plan.seq_len} tokens = {tokens:,} tokens a step"
        + (f", in {plan.grad_accum} micro-batches" if plan.grad_accum > 1 else ""),
        "predictions": _predictions(plan),
        "steps": _steps(plan, tokens),
        "arithmetic": _arithmetic(plan),
    }
    return facts | ({"learning rate": plan.learning_rate} if plan.learning_rate else {})


def memory_text(memory: Memory) -> str:
    """The memory that a run takes of each device, in words."""
    parts = [f"params {formatting.size(memory.params)}", f"optimizer {formatting.size(memory.optimizer)}"]
    if memory.temporary is not None:
        parts.append(f"step {formatting.size(memory.temporary)}")
    known = memory.params + memory.optimizer + (memory.temporary or 0)
    limit = f" of {formatting.size(memory.limit)}" if memory.limit is not None else ""
    return f"{formatting.size(known)}{limit} ({', '.join(parts)})"


def _predictions(plan: Plan) -> str:
    if plan.changing_predictions is None:
        return f"up to {plan.predictions} a row"
    return "up to {} a row at first, up to {} at last".format(*plan.changing_predictions)


def _steps(plan: Plan, tokens: int) -> str:
    total = plan.steps * tokens if plan.tokens is None else plan.tokens
    text = f"{plan.steps:,} ({formatting.count(total)} tokens)"
    if plan.start_step:
        text += f", {plan.start_step:,} done"
    if plan.steps_per_epoch:
        text += f", {plan.steps_per_epoch:,} an epoch: {plan.steps / plan.steps_per_epoch:.1f} epochs"
    return text


def _arithmetic(plan: Plan) -> str:
    text = f"{plan.dtype}, {formatting.flops(plan.step_flops)} a step"
    if plan.peak_flops:
        seconds = plan.step_flops / plan.peak_flops
        text += f"; at peak ({formatting.flops(plan.peak_flops)}/s) {seconds:.3g} s"
    return text


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(Text(f" {name}"), Text(text))
    return table


def _split(leaf: jax.Array | jax.ShapeDtypeStruct) -> str:
    spec = getattr(leaf.sharding, "spec", None) or ()
    names = ["-" if not axes else "+".join([axes] if isinstance(axes, str) else axes) for axes in spec]
    if all(name == "-" for name in names):
        return "replicated"
    return ",".join(names + ["-"] * (len(leaf.shape) - len(names)))

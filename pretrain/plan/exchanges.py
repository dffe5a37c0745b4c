"""The data that devices exchange in a compiled program (collectives), and the least time that this takes."""

import math
import re
from dataclasses import dataclass

import numpy as np

from base.tpu_types import TpuSlice
from pretrain.plan.hlo import Instruction

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """Exchanges of one kind in a run of the program, as one device sees them."""

    kind: str
    between_slices: bool
    """Whether devices of different slices take part: over the data-centre network, not the slice's own links."""
    asynchronous: bool
    """Whether other instructions may run between its start and its end."""
    count: int
    bytes: float
    """Bytes of the whole arrays that are summed, gathered, scattered or passed on."""
    sent: float
    """Bytes that a device sends at the least: 2 (n-1)/n of a sum over n devices, (n-1)/n of a gather or scatter."""
    seconds: float | None
    """The least time: what leaves a chip, at the rate of all its links. None between slices, whose network has no rate
    here."""

    def __add__(self, other: "Collective") -> "Collective":
        return Collective(
            self.kind,
            self.between_slices,
            self.asynchronous,
            self.count + other.count,
            self.bytes + other.bytes,
            self.sent + other.sent,
            None if self.seconds is None or other.seconds is None else self.seconds + other.seconds,
        )


def exchanged(
    one: Instruction, times: int, chip: TpuSlice, slices: int, asynchronous: bool
) -> Collective | None:
    """What a collective exchanges; None where nothing is sent.

    Args:
      one: the instruction.
      times: how often it runs.
      chip: the slice on which it runs.
      slices: number of slices. Each slice has an equal block of consecutive devices of the mesh.
      asynchronous: whether it stands in an instruction that lets others run meanwhile.
    """
    groups = _groups(one.attributes)
    size: float = one.bytes
    members = groups.shape[1] if groups is not None else 2
    started = one.opcode.endswith("-start")
    if one.kind == "all-gather" and started:
        size *= members / (members + 1)  # operand and result
    elif one.kind == "collective-permute" and started:
        size /= 2  # the same
    elif one.kind == "reduce-scatter":
        size *= members  # the result is a part
    if members == 1 or size == 0:
        return None
    between = False
    if slices > 1 and groups is not None:
        slice_of = groups // max(1, groups.size // slices)
        between = bool((slice_of != slice_of[:, :1]).any())
    leaves = _leaving_chip(one.kind, size, members, chip.devices // chip.chips)
    return Collective(
        one.kind,
        between,
        asynchronous or started,
        times,
        times * size,
        times * size * _share(one.kind, members),
        None if between else times * leaves / chip.link_bytes,
    )


def _share(kind: str, members: int) -> float:
    """The share of the whole array that a device sends at the least."""
    share = (members - 1) / members
    return {"all-reduce": 2 * share, "collective-permute": float(members > 1)}.get(kind, share)


def _leaving_chip(kind: str, size: float, members: int, devices: int) -> float:
    """Bytes that leave a chip of some devices at the least: its devices may be of one group, and sum up before."""
    chips = max(members // devices, 1)
    return size * _share(kind, chips) * (devices if kind == "all-to-all" else 1)


def _groups(attributes: str) -> np.ndarray | None:
    """The devices that exchange with each other, [groups, members]; None where they are not said.

    They are written out, {{0,1},{2,3}}; or as an iota, [2,2]<=[2,2]T(1,0); or by axes of a mesh,
    mesh['a'=2,'b'=2] {'b'}; a permutation as pairs.
    """
    pairs = re.search(r"source_target_pairs=\{\{(.*?)\}\}", attributes)
    if pairs:
        return np.array([[int(device) for device in pair.split(",")] for pair in pairs[1].split("},{")])
    listed = re.search(r"replica_groups=\{\{(.*?)\}\}", attributes)
    if listed:
        return np.array([[int(device) for device in group.split(",")] for group in listed[1].split("},{")])
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, sides, order = ([int(n) for n in part.split(",")] if part else [] for part in iota.groups())
        devices = np.arange(math.prod(sides)).reshape(sides)
        return (devices.transpose(order) if order else devices).reshape(shape)
    by_axes = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", attributes)
    if by_axes:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", by_axes[1])}
        chosen = re.findall(r"'([^']+)'", by_axes[2])
        names = list(sizes)
        devices = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        order = [name for name in names if name not in chosen] + chosen
        moved = devices.transpose([names.index(name) for name in order])
        return moved.reshape(-1, math.prod(sizes[name] for name in chosen))
    return None

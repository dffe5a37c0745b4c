"""Facts of a program compiled for TPU: the compiler's estimate of its cycles, and the data that its devices exchange.

Read from the text of the scheduled program (HLO), in which the TPU compiler notes with most instructions the cycles
that it expects them to take ("estimated_cycles"): its model, not a measurement. Instructions without a note take time
all the same (collectives, random bits, sorts); they are listed, and no time is made up for them.
"""

import enum
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that take almost no time: they name, group or reinterpret values, or end a counted instruction.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
    "iota", "broadcast", "reshape", "opt-barrier", "add-dependency", "while", "conditional", "call",
}  # fmt: skip
FREE_CALLS = (
    "AllocateBuffer",
    "X64Combine",
    "AssumeGatherIndicesInBound",
    "GatherScatterIndicesBitpacked",
    "Sharding",
)
"""Targets of custom calls that also take almost no time."""
SLOW = ("scatter", "gather", "sort", "rng-bit-generator")
"""Opcodes that name a fusion without an estimate; the first one in the fusion counts."""
NOTABLE_BYTES = 2**20
"""Instructions without an estimate are listed where they make a value of this size or more."""

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
    "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """All exchanges of one kind in a run of the program, as one device sees them."""

    kind: str
    between_slices: bool
    """Whether devices of different slices take part: over the data-centre network, not the slice's own links."""
    count: int
    bytes: float
    """Bytes of the whole arrays that are summed, gathered, scattered or passed on."""
    sent: float
    """Bytes that a device sends at the least: 2 (n-1)/n of a sum over n devices, (n-1)/n of a gather or scatter."""


@dataclass(frozen=True)
class Unestimated:
    """Instructions of one kind that the compiler gives no cycles for."""

    count: int
    bytes: float
    """Bytes that they make."""


@dataclass(frozen=True)
class Program:
    """What a run of the program takes on one device."""

    cycles: float
    """The compiler's estimate, without what is in `collectives` and `unestimated`."""
    collectives: tuple[Collective, ...]
    unestimated: Mapping[str, Unestimated]
    open_loops: int
    """Loops whose number of rounds depends on the data; they are counted as one round."""


@dataclass(frozen=True)
class _Instruction:
    type: str
    opcode: str
    rest: str
    """Operands and attributes."""

    @property
    def kind(self) -> str:
        """The opcode, without the suffix of an asynchronous start."""
        return self.opcode.removesuffix("-start")

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match else None

    @property
    def bytes(self) -> int:
        """Bytes of what it makes."""
        return sum(
            BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side)
            for kind, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", self.type)
            if kind in BYTES
        )

    def attribute(self, name: str) -> str:
        """The computation that an attribute names; '' where there is none."""
        match = re.search(rf"\b{name}=(%[\w.\-]+)", self.rest)
        return match[1] if match else ""

    @property
    def called(self) -> str:
        """The computation that the instruction runs once, if it is neither a loop nor a conditional."""
        return self.attribute("to_apply" if self.opcode == "call" else "calls")


_Computations = Mapping[str, Sequence[_Instruction]]


def read_program(text: str, *, slices: int = 1) -> Program:
    """What the text of a compiled program (`jax.stages.Compiled.as_text`) says of a run of it on one device.

    Args:
      text: scheduled HLO of libtpu's compiler.
      slices: number of slices. Each slice has an equal block of consecutive devices of the mesh.
    """
    computations, entry = _parse(text)
    cycles, open_loops = 0.0, 0
    collectives: dict[tuple[str, bool], np.ndarray] = {}
    unestimated: dict[str, np.ndarray] = {}
    for one, times, place in _runs(computations, entry):
        if one.opcode == "while":
            open_loops += _rounds(one.attribute("condition"), computations) is None
        elif one.kind in COLLECTIVES:
            if found := _exchanged(one, slices):
                between, counts = found
                key = (one.kind, between)
                collectives[key] = collectives.get(key, np.zeros(3)) + times * counts
        elif place is not _Place.ESTIMATED:
            cycles += times * (one.cycles or 0)
            if place is _Place.PROGRAM and (name := _listed_as(one, computations)):
                unestimated[name] = unestimated.get(name, np.zeros(2)) + times * np.array([1, one.bytes])
    return Program(
        cycles=cycles,
        collectives=tuple(
            Collective(kind, between, int(count), float(size), float(sent))
            for (kind, between), (count, size, sent) in sorted(collectives.items())
        ),
        unestimated={
            name: Unestimated(int(count), float(size))
            for name, (count, size) in sorted(unestimated.items(), key=lambda item: -item[1][1])
        },
        open_loops=open_loops,
    )


class _Place(enum.IntEnum):
    """Where an instruction stands, which decides what of it counts."""

    PROGRAM = 0
    FUSION = 1
    """In a fusion without an estimate. The instruction's cycles count, but only the fusion is listed as unestimated."""
    ESTIMATED = 2
    """In an instruction whose estimate covers everything in it except collectives."""


def _runs(
    computations: _Computations, name: str, times: int = 1, place: _Place = _Place.PROGRAM
) -> Iterator[tuple[_Instruction, int, _Place]]:
    """Each instruction that a computation runs, how often, and where it stands; of a choice, the longest branch."""
    for one in computations.get(name, ()):
        if one.opcode.endswith(("-done", "-update")):
            continue  # counted where it started
        yield one, times, place
        if one.opcode == "while":
            rounds = _rounds(one.attribute("condition"), computations) or 1
            yield from _runs(computations, one.attribute("body"), times * rounds, place)
        elif one.opcode == "conditional":
            yield from _runs(computations, _longest_branch(one, computations), times, place)
        elif one.kind not in COLLECTIVES and one.called:
            inside = _Place.PROGRAM if one.opcode in ("call", "async-start") else _Place.FUSION
            inside = inside if one.cycles is None else _Place.ESTIMATED
            yield from _runs(computations, one.called, times, max(place, inside))


def _longest_branch(choice: _Instruction, computations: _Computations) -> str:
    """The computation with the most cycles of those that a conditional chooses from."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", choice.rest)
    branches = (
        listed[1].split(", ")
        if listed
        else [choice.attribute(f"{side}_computation") for side in ("true", "false")]
    )

    def cycles(branch: str) -> int:
        runs = _runs(computations, branch)
        return sum(times * (one.cycles or 0) for one, times, place in runs if place is not _Place.ESTIMATED)

    return max(branches, key=cycles)


def _parse(text: str) -> tuple[_Computations, str]:
    """The instructions of every computation, and the name of the one that the program starts with."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif re.match(
            r"\}(,|$)", line
        ):  # the attributes of a kernel take several lines, one of them "}}, metadata=..."
            current = None
        elif current is not None:
            instruction = re.match(r"\s+(?:ROOT )?%[\w.\-]+ = (.*)", line)
            if instruction:
                shape, rest = _split_type(instruction[1])
                opcode, _, rest = rest.partition("(")
                current.append(_Instruction(shape, opcode, rest))
    if not entry:
        raise ValueError("no ENTRY computation in the text of the program")
    return computations, entry


def _split_type(text: str) -> tuple[str, str]:
    """A value's type, which may be a tuple with brackets of its own, and what follows it."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: index + 1], text[index + 2 :]
    raise ValueError(f"a type without an end: {text[:80]}")


def _listed_as(one: _Instruction, computations: _Computations) -> str:
    """What an instruction without an estimate is listed as; '' where it has one, is small, or only moves values."""
    if one.cycles is not None or one.opcode in FREE or one.bytes < NOTABLE_BYTES:
        return ""
    inside = [each for each, _, _ in _runs(computations, one.called)]
    if any(each.kind in COLLECTIVES for each in inside):
        return ""
    if inside:
        return next((name for name in SLOW if any(each.opcode == name for each in inside)), one.opcode)
    target = re.search(r'custom_call_target="([^"]*)"', one.rest)
    name = target[1] if target else one.kind
    return "" if name in FREE_CALLS else name


def _rounds(condition: str, computations: _Computations) -> int | None:
    """Rounds of a loop that counts from 0 by 1, as those of `jax.lax.scan` do; None for any other.

    Its condition compares the counter with a constant, in itself or in a fusion.
    """
    inside = [one for one, _, _ in _runs(computations, condition)]
    constants = [
        int(match[1])
        for one in inside
        if one.opcode == "constant"
        and (match := re.match(r"(\d+)\)", one.rest))
        and one.type.startswith(("s32[]", "u32[]"))
    ]
    compares = [one for one in inside if one.opcode == "compare"]
    if len(constants) == 1 and len(compares) == 1 and "direction=LT" in compares[0].rest:
        return constants[0]
    return None


def _exchanged(one: _Instruction, slices: int) -> tuple[bool, np.ndarray] | None:
    """Whether a collective goes between slices, and its count, bytes and bytes sent; None where nothing is sent."""
    groups = _groups(one.rest)
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
    share = (members - 1) / members
    sent = size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(one.kind, share)
    between = False
    if slices > 1 and groups is not None:
        slice_of = groups // max(1, groups.size // slices)
        between = bool((slice_of != slice_of[:, :1]).any())
    return between, np.array([1, size, sent])


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

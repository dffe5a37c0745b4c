"""What a program compiled for TPU says of itself: the compiler's estimate of its cycles, and what its devices exchange.

Read from the text of the scheduled program (HLO), in which the TPU compiler notes with most instructions the cycles
that it expects them to take ("estimated_cycles"): its model, not a measurement. Instructions without a note take time
all the same (collectives, random bits, sorts); they are listed, and no time is made up for them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

K = TypeVar("K")

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Instructions that take no time worth a word: they name, group or reinterpret values, or end what has been counted.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
    "iota", "broadcast", "reshape", "opt-barrier", "add-dependency", "while", "conditional", "call",
}  # fmt: skip
SLOW = ("scatter", "gather", "sort", "rng-bit-generator")
"""What a fusion without an estimate is named after."""
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


@dataclass
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str
    """Operands and attributes."""

    @property
    def cycles(self) -> int | None:
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match else None

    def attribute(self, name: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf"\b{name}=(%[\w.\-]+)", self.rest)
        return match[1] if match else None


@dataclass
class _Total:
    """What some instructions come to, with loops multiplied out."""

    cycles: float = 0.0
    open_loops: int = 0
    collectives: dict[tuple[str, bool], np.ndarray] = field(default_factory=dict)
    """By kind and whether between slices: count, bytes, sent."""
    unestimated: dict[str, np.ndarray] = field(default_factory=dict)
    """By opcode: count, bytes."""

    def add(self, other: "_Total", times: int = 1) -> None:
        self.cycles += times * other.cycles
        self.open_loops += other.open_loops
        _add_counts(self.collectives, other.collectives, times)
        _add_counts(self.unestimated, other.unestimated, times)


def _add_counts(mine: dict[K, np.ndarray], theirs: Mapping[K, np.ndarray], times: int = 1) -> None:
    for key, counts in theirs.items():
        mine[key] = mine.get(key, np.zeros(len(counts))) + times * counts


def read_program(text: str, *, slices: int = 1) -> Program:
    """What the text of a compiled program (`jax.stages.Compiled.as_text`) says of a run of it on one device.

    Args:
      text: scheduled HLO of libtpu's compiler.
      slices: slices that its devices are spread over, equal blocks of the order of the mesh.
    """
    computations, entry = _parse(text)
    total = _Counter(computations, slices).total(entry)
    return Program(
        cycles=total.cycles,
        collectives=tuple(
            Collective(kind, between, int(count), float(size), float(sent))
            for (kind, between), (count, size, sent) in sorted(total.collectives.items())
        ),
        unestimated={
            opcode: Unestimated(int(count), float(size))
            for opcode, (count, size) in sorted(total.unestimated.items(), key=lambda item: -item[1][1])
        },
        open_loops=total.open_loops,
    )


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of every computation, and the name of the one that the program starts with."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            instruction = re.match(r"\s+(?:ROOT )?(%[\w.\-]+) = (.*)", line)
            if instruction:
                shape, rest = _split_type(instruction[2])
                opcode, _, rest = rest.partition("(")
                current.append(_Instruction(instruction[1], shape, opcode, rest))
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


class _Counter:
    """Adds up computations, each of them once."""

    def __init__(self, computations: Mapping[str, Sequence[_Instruction]], slices: int):
        self._computations = computations
        self._slices = slices
        self._totals: dict[str, _Total] = {}

    def total(self, name: str) -> _Total:
        """What a run of a computation comes to."""
        if name not in self._totals:
            total = self._totals[name] = _Total()
            for instruction in self._computations.get(name, ()):
                self._count(instruction, total)
        return self._totals[name]

    def _count(self, instruction: _Instruction, total: _Total) -> None:
        """Add an instruction, and what it runs, to `total`."""
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if opcode.endswith(("-done", "-update")):
            return  # counted where it started
        if opcode == "while":
            body, condition = instruction.attribute("body"), instruction.attribute("condition")
            rounds = _known_rounds(instruction) or _rounds(condition or "", self._computations)
            total.open_loops += rounds is None
            total.add(self.total(body or ""), rounds or 1)
        elif opcode == "conditional":
            branches = [self.total(name) for name in _branches(instruction)]
            total.add(max(branches, key=lambda branch: branch.cycles))
        elif kind in COLLECTIVES:
            _add_counts(total.collectives, _collective(kind, instruction, self._slices))
        else:
            self._count_computing(instruction, total)

    def _count_computing(self, instruction: _Instruction, total: _Total) -> None:
        opcode, cycles = instruction.opcode, instruction.cycles
        inner = instruction.attribute("to_apply" if opcode == "call" else "calls") or ""
        called = self.total(inner)
        # The estimate of a fusion stands for all of it, but for what it exchanges.
        if opcode in ("call", "async-start") and cycles is None:
            total.add(called)
        else:
            total.add(_Total(called.cycles if cycles is None else cycles, collectives=called.collectives))
        size = sum(_sizes(instruction.type))
        if cycles is None and opcode not in FREE and size >= NOTABLE_BYTES and not called.collectives:
            name = _name(instruction, self._computations.get(inner, ()))
            if name:
                _add_counts(total.unestimated, {name: np.array([1, size])})


def _branches(conditional: _Instruction) -> list[str]:
    """The computations that a conditional chooses from."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", conditional.rest)
    if listed:
        return listed[1].split(", ")
    return [conditional.attribute(f"{side}_computation") or "" for side in ("true", "false")]


def _name(instruction: _Instruction, inside: Sequence[_Instruction]) -> str:
    """What an instruction without an estimate is listed as; empty where it only reinterprets or allocates a value."""
    if inside:
        return next((name for name in SLOW if any(one.opcode == name for one in inside)), instruction.opcode)
    if instruction.opcode != "custom-call":
        return instruction.opcode.removesuffix("-start")
    match = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    target = match[1] if match else "custom-call"
    free = (
        "AllocateBuffer",
        "X64Combine",
        "AssumeGatherIndicesInBound",
        "GatherScatterIndicesBitpacked",
        "Sharding",
    )
    return "" if target in free else target


def _known_rounds(loop: _Instruction) -> int | None:
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    return int(match[1]) if match else None


def _rounds(condition: str, computations: Mapping[str, Sequence[_Instruction]]) -> int | None:
    """Rounds of a loop that counts from 0 by 1, as those of `jax.lax.scan` do; None for any other.

    Its condition compares the counter with a constant, in itself or in a fusion.
    """
    inside = list(_with_called(condition, computations))
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


def _with_called(name: str, computations: Mapping[str, Sequence[_Instruction]]) -> Iterator[_Instruction]:
    for instruction in computations.get(name, ()):
        yield instruction
        inner = instruction.attribute("calls")
        if inner:
            yield from _with_called(inner, computations)


def _collective(kind: str, instruction: _Instruction, slices: int) -> dict[tuple[str, bool], np.ndarray]:
    """A collective as it is added up: by kind and whether it goes between slices, count, bytes and bytes sent."""
    groups = _groups(instruction.rest)
    size: float = sum(_sizes(instruction.type))
    members = groups.shape[1] if groups is not None else 2
    started = instruction.opcode.endswith("-start")
    if kind == "all-gather" and started:
        size *= members / (members + 1)  # operand and result
    elif kind == "collective-permute" and started:
        size /= 2  # the same
    elif kind == "reduce-scatter":
        size *= members  # the result is a part
    if members == 1 or size == 0:
        return {}
    share = (members - 1) / members
    sent = size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    between = False
    if slices > 1 and groups is not None:
        slice_of = groups // max(1, groups.size // slices)
        between = bool((slice_of != slice_of[:, :1]).any())
    return {(kind, between): np.array([1, size, sent])}


def _sizes(shape: str) -> list[int]:
    """Bytes of each array in a type."""
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return [
        BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in arrays
        if kind in BYTES
    ]


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

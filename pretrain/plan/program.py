"""What a compiled training step takes on one device: the compiler's estimate of its cycles, by part of the network.

The estimate is the compiler's model, not a measurement. Some instructions have none (random bits, look-ups, kernels,
exchanges between devices). For these there is a lower bound: FLOPs at the peak rate, or bytes at the rate of HBM,
whichever takes longer; of an exchange, the bytes that leave a chip at the rate of all its links.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from base.tpu_types import TpuSlice
from pretrain.plan import instruction_work
from pretrain.plan.exchanges import COLLECTIVES, Collective, exchanged
from pretrain.plan.hlo import PALLAS, Computations, Instruction, Run, contents, estimate, parse, runs
from pretrain.plan.network_parts import Part, attribute

# Instructions that take almost no time: they name, group or reinterpret values.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
    "iota", "broadcast", "reshape", "opt-barrier", "add-dependency", "while", "conditional", "call",
}  # fmt: skip
FREE_CALLS = (
    "AllocateBuffer",
    "ConcatBitcast",
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


@dataclass
class Work:
    """The work of some instructions, in a run of the program on one device."""

    cycles: float = 0.0
    """The compiler's estimate."""
    least: float = 0.0
    """A lower bound of the cycles of those that have no estimate."""
    flops: float = 0.0
    """FLOPs of matrix products."""
    bytes: float = 0.0
    """Bytes to and from HBM."""

    def add(self, other: "Work") -> None:
        """Add the work of further instructions."""
        self.cycles += other.cycles
        self.least += other.least
        self.flops += other.flops
        self.bytes += other.bytes


@dataclass(frozen=True)
class Unestimated:
    """Instructions of one kind that the compiler gives no cycles for."""

    count: int
    flops: float
    """FLOPs, where a kernel says how many it computes."""
    bytes: float
    """Bytes that they read and write in HBM."""
    least: float
    """A lower bound of their cycles."""


@dataclass(frozen=True)
class Program:
    """What a run of the program takes on one device."""

    parts: Mapping[tuple[Part, bool], Work]
    """By part of the network, and whether it is of the backward pass: all but exchanges without an estimate."""
    collectives: tuple[Collective, ...]
    unestimated: Mapping[str, Unestimated] = field(default_factory=dict)
    """The large ones, by what they do."""
    open_loops: int = 0
    """Loops whose number of rounds depends on the data; they are counted as one round."""

    @property
    def cycles(self) -> float:
        """The compiler's estimate, of everything that has one."""
        return sum(work.cycles for work in self.parts.values())

    @property
    def least(self) -> float:
        """A lower bound of the cycles of what has no estimate, without exchanges."""
        return sum(work.least for work in self.parts.values())

    def exchange_seconds(self, *, asynchronous: bool) -> float:
        """The least time of the exchanges within a slice that are, or are not, asynchronous."""
        return sum(one.seconds or 0.0 for one in self.collectives if one.asynchronous == asynchronous)

    def whole_seconds(self, clock_hz: float) -> float:
        """The time of the whole step at the least: asynchronous exchanges may overlap with all the rest."""
        alone = (self.cycles + self.least) / clock_hz
        overlapped = self.exchange_seconds(asynchronous=True)
        return max(alone, overlapped) + self.exchange_seconds(asynchronous=False)


def read_program(text: str, chip: TpuSlice, slices: int = 1) -> Program:
    """What the text of a compiled program (`jax.stages.Compiled.as_text`) says of a run of it on one device.

    Args:
      text: scheduled HLO of libtpu's compiler.
      chip: the slice that it is compiled for.
      slices: number of slices. Each slice has an equal block of consecutive devices of the mesh.
    """
    computations, entry = parse(text)
    parts: dict[tuple[Part, bool], Work] = defaultdict(Work)
    collectives: dict[tuple[str, bool, bool], Collective] = {}
    listed: dict[str, list[Unestimated]] = defaultdict(list)
    open_loops = 0
    for run in runs(computations, entry):
        open_loops += run.open_loop
        for found in _exchanges(run, computations, chip, slices):
            key = (found.kind, found.between_slices, found.asynchronous)
            collectives[key] = collectives[key] + found if key in collectives else found
        if (work := _work(run, computations, chip)) is None:
            continue
        one, computation = run.instruction, computations[run.computation]
        parts[attribute(one, computation, computations)].add(work)
        is_left_out = estimate(one, computations) is None and not run.asynchronous
        if is_left_out and one.bytes >= NOTABLE_BYTES:
            part = Unestimated(run.times, work.flops, work.bytes, work.least)
            listed[_listed_as(one, computations)].append(part)
    unestimated = {name: _total(found) for name, found in listed.items()}
    return Program(
        parts=dict(parts),
        collectives=tuple(collectives[key] for key in sorted(collectives)),
        unestimated=dict(sorted(unestimated.items(), key=lambda item: -item[1].least)),
        open_loops=open_loops,
    )


def _exchanges(run: Run, computations: Computations, chip: TpuSlice, slices: int) -> Iterator[Collective]:
    """The collectives of an instruction. Those in a fusion that has an estimate overlap with its arithmetic."""
    overlapped = run.asynchronous or run.instruction.cycles is not None
    for one in (run.instruction, *(each for each, _ in contents(run.instruction, computations))):
        if one.kind in COLLECTIVES and (found := exchanged(one, run.times, chip, slices, overlapped)):
            yield found


def _work(run: Run, computations: Computations, chip: TpuSlice) -> Work | None:
    """The work of an instruction; None where it takes no time, or is an exchange alone."""
    one, computation = run.instruction, computations[run.computation]
    inside = [each for each, _ in contents(one, computations)]
    cycles = estimate(one, computations)
    if one.opcode in FREE or one.target in FREE_CALLS:
        return None
    if cycles is None and any(each.kind in COLLECTIVES for each in (one, *inside)):
        return None
    flops = instruction_work.flops(one, computation, computations)
    moved = instruction_work.hbm_bytes(one, computation, computations)
    least = 0.0
    if cycles is None and not run.asynchronous:
        least = chip.clock_hz * max(flops / chip.peak_bf16, moved / chip.hbm_bytes)
    times = run.times
    return Work(times * (cycles or 0), times * least, times * flops, times * moved)


def _listed_as(one: Instruction, computations: Computations) -> str:
    """What an instruction without an estimate is listed as."""
    if one.target == PALLAS:
        return one.name.lstrip("%").partition(".")[0]
    inside = {each.opcode for each, _ in contents(one, computations)}
    return one.target or next((name for name in SLOW if name in inside), one.kind)


def _total(found: list[Unestimated]) -> Unestimated:
    return Unestimated(
        sum(one.count for one in found),
        sum(one.flops for one in found),
        sum(one.bytes for one in found),
        sum(one.least for one in found),
    )

"""The text of a program compiled for TPU (scheduled HLO), as instructions that run so many times.

The compiler notes with most instructions the cycles that it expects them to take ("estimated_cycles").
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
    "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

PALLAS = "tpu_custom_call"
"""The target of all custom calls to kernels that are written in Pallas. Such an instruction has its kernel's name."""


@dataclass(frozen=True)
class Array:
    """The type of an array, which may be a part of a tuple."""

    kind: str
    """bf16, f32, s32, ..."""
    sides: tuple[int, ...]
    bytes: int
    in_hbm: bool
    """Whether it lies in the device's main memory. The layout of an array elsewhere names a memory space."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a computation."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    """Their names."""
    attributes: str
    """The text after the operands."""
    literal: str
    """The text in the place of operands: the value of a constant, or the number of a parameter."""
    is_root: bool = False
    """Whether it is the result of its computation."""

    @property
    def kind(self) -> str:
        """The opcode, without the suffix of an asynchronous start."""
        return self.opcode.removesuffix("-start")

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate; None where there is none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays that it makes."""
        found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?", self.type)
        return tuple(
            Array(kind, sides, BYTES[kind] * math.prod(sides), in_hbm=not re.search(r"S\(\d+\)", layout))
            for kind, sides, layout in (
                (kind, tuple(int(side) for side in text.split(",") if side), layout)
                for kind, text, layout in found
                if kind in BYTES
            )
        )

    @property
    def bytes(self) -> int:
        """Bytes of what it makes."""
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def op_name(self) -> str:
        """JAX's name of the operation that it comes from, a path of scopes; '' where there is none."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """The name of the kernel that a custom call runs; '' for other instructions."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def attribute(self, name: str) -> str:
        """The computation that an attribute names; '' where there is none."""
        match = re.search(rf"\b{name}=(%[\w.\-]+)", self.attributes)
        return match[1] if match else ""

    @property
    def called(self) -> str:
        """The computation that the instruction runs once, if it is neither a loop nor a conditional."""
        return self.attribute("to_apply" if self.opcode == "call" else "calls")


class Computation(dict[str, Instruction]):
    """Instructions by name, in the order in which they run."""

    @functools.cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """Of each value, the instructions that have it as an operand."""
        found: dict[str, list[Instruction]] = defaultdict(list)
        for one in self.values():
            for name in dict.fromkeys(one.operands):
                found[name].append(one)
        return found


Computations = Mapping[str, Computation]


def parse(text: str) -> tuple[Computations, str]:
    """The computations of a program (`jax.stages.Compiled.as_text`), and the name of the one that it starts with."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _whole_lines(text):
        if header := re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(header[2], Computation())
            entry = header[2] if header[1] else entry
        elif current is not None and (found := re.match(_INSTRUCTION, line)):
            one = _instruction(found[2], line[found.end() :], is_root=bool(found[1]))
            current[one.name] = one
    if not entry:
        raise ValueError("no ENTRY computation in the text of the program")
    return computations, entry


_INSTRUCTION = r"\s+(ROOT )?(%[\w.\-]+) = "


def _whole_lines(text: str) -> Iterator[str]:
    """The lines of a program. The attributes of a kernel may take several; these become one."""
    whole = ""
    for line in text.splitlines():
        if re.match(rf"{_INSTRUCTION}|(ENTRY )?%|\}}(,|$)|\s*$", line):
            yield whole
            whole = line
        else:
            whole += line
    yield whole


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    """An instruction, of the text after its name."""
    shape, rest = _split_type(text)
    opcode, _, rest = rest.partition("(")
    inside = _until_closed(rest)
    operands = tuple(re.findall(r"%[\w.\-]+", inside))
    attributes = rest[len(inside) + 1 :]
    return Instruction(name, shape, opcode, operands, attributes, "" if operands else inside, is_root)


def _split_type(text: str) -> tuple[str, str]:
    """A value's type, which may be a tuple with brackets of its own, and what follows it."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    end = len(_until_closed(text[1:])) + 2
    return text[:end], text[end + 1 :]


def _until_closed(text: str) -> str:
    """The text before the bracket that closes one which was opened before it."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return text[: found.start()]
    return text


@dataclass(frozen=True)
class Run:
    """An instruction that stands for itself: what it calls, other than a loop or a branch, belongs to it."""

    instruction: Instruction
    times: int
    """How often the program runs it."""
    computation: str
    """Where it stands."""
    asynchronous: bool = False
    """Whether other instructions may run between its start and its end."""
    open_loop: bool = False
    """Whether it is a loop whose number of rounds depends on the data. Its body counts as one round."""


def runs(
    computations: Computations, name: str, times: int = 1, *, asynchronous: bool = False
) -> Iterator[Run]:
    """All instructions that a computation runs; of a choice, those of the branch with the most estimated cycles."""
    for one in computations.get(name, {}).values():
        if one.opcode.endswith(("-done", "-update")):
            continue  # counted where it started
        if one.opcode == "while":
            rounds = _rounds(one.attribute("condition"), computations)
            yield Run(one, times, name, open_loop=rounds is None)
            yield from runs(computations, one.attribute("body"), times * (rounds or 1))
        elif one.opcode == "conditional":
            yield from runs(computations, _longest_branch(one, computations), times)
        elif one.opcode in ("call", "async-start") and one.called and one.cycles is None:
            started = asynchronous or one.opcode == "async-start"
            yield from runs(computations, one.called, times, asynchronous=started)
        else:
            yield Run(one, times, name, asynchronous or one.opcode.endswith("-start"))


def contents(one: Instruction, computations: Computations) -> Iterator[tuple[Instruction, Computation]]:
    """Every instruction inside of one, such as a fusion, with the computation where it stands."""
    computation = computations.get(one.called, Computation())
    for each in computation.values():
        yield each, computation
        yield from contents(each, computations)


def estimate(one: Instruction, computations: Computations) -> int | None:
    """The compiler's estimate of an instruction's cycles, or of those inside of it; None where there is none."""
    if one.cycles is not None:
        return one.cycles
    inside = [estimate(each, computations) for each in computations.get(one.called, {}).values()]
    known = [cycles for cycles in inside if cycles is not None]
    return sum(known) if known else None


def _longest_branch(choice: Instruction, computations: Computations) -> str:
    """The computation with the most cycles of those that a conditional chooses from."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", choice.attributes)
    branches = (
        listed[1].split(", ")
        if listed
        else [choice.attribute(f"{side}_computation") for side in ("true", "false")]
    )

    def cycles(branch: str) -> int:
        found = runs(computations, branch)
        return sum(run.times * (estimate(run.instruction, computations) or 0) for run in found)

    return max(branches, key=cycles)


def _rounds(condition: str, computations: Computations) -> int | None:
    """Rounds of a loop that counts from 0 by 1, as those of `jax.lax.scan` do; None for any other.

    Its condition compares the counter with a constant, in itself or in a fusion.
    """
    inside: list[Instruction] = []
    for one in computations.get(condition, {}).values():
        inside += [one, *(each for each, _ in contents(one, computations))]
    constants = [
        int(one.literal)
        for one in inside
        if one.opcode == "constant" and one.literal.isdecimal() and one.type.startswith(("s32[]", "u32[]"))
    ]
    compares = [one for one in inside if one.opcode == "compare"]
    if len(constants) == 1 and len(compares) == 1 and "direction=LT" in compares[0].attributes:
        return constants[0]
    return None

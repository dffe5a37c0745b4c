"""The work of an instruction of a compiled program: FLOPs of its matrix products, and bytes to and from HBM.

FLOPs are those of products (dot, convolution) and what a kernel states; element-wise arithmetic is not counted.
Bytes are those of operands and results that lie in HBM. What stays in the on-chip memory (VMEM) moves nothing.
"""

import functools
import math
import re
from collections.abc import Sequence

from pretrain.plan.hlo import Computation, Computations, Instruction, contents
from pretrain.plan.kernel_work import cost_estimate, kernel_flops

PRODUCTS = ("dot", "convolution")
READS_A_PART = ("dynamic-slice", "gather", "slice")
"""Opcodes that read no more of their first operand than they make."""
WRITES_A_PART = {"dynamic-update-slice": 1, "scatter": 2}
"""Opcodes that write into their first operand, in place, and which operand they write there."""


def flops(one: Instruction, computation: Computation, computations: Computations) -> float:
    """FLOPs of the matrix products of an instruction; a multiply and an add are two.

    Args:
      one: the instruction.
      computation: where it stands.
      computations: those of the program.
    """
    inside = [(one, computation), *contents(one, computations)]
    found = sum(product_flops(each, place) for each, place in inside if each.opcode in PRODUCTS)
    return found + kernel_flops(one, computation)


def product_flops(one: Instruction, computation: Computation) -> float:
    """FLOPs of a dot or a convolution."""
    left, right = (computation[name].arrays[0].sides for name in one.operands[:2])
    made = one.arrays[0].sides
    if one.opcode == "dot":
        summed = _numbers(one.attributes, r"lhs_contracting_dims=\{([\d,]*)\}", ",")
        return 2.0 * math.prod(made) * math.prod(left[axis] for axis in summed)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels, f"a convolution without dim_labels: {one.name}"
    sides = [dict(zip(names, shape)) for names, shape in zip(labels.groups(), (left, right, made))]
    data, kernel, result = sides
    places = [axis for axis in result if axis.isdecimal()]
    pairs = _window(one.attributes, len(places))
    groups = _numbers(one.attributes, r"batch_group_count=(\d+)", ",") or [1]
    taken = math.prod(_taken(data[axis], kernel[axis], result[axis], *pairs[int(axis)]) for axis in places)
    return 2.0 * data["b"] / groups[0] * kernel["i"] * kernel["o"] * taken


@functools.lru_cache(maxsize=4096)
def _taken(
    data: int, kernel: int, result: int, stride: int, low: int, data_step: int, kernel_step: int
) -> int:
    """Pairs of a place of the kernel and a place of the result that meet a value of the data, along one axis.

    The compiler writes batches of products as axes of a convolution that meet in a single place.
    """
    end = (data - 1) * data_step
    return sum(
        0 <= place <= end and place % data_step == 0
        for start in range(-low, -low + result * stride, stride)
        for place in range(start, start + kernel * kernel_step, kernel_step)
    )


def _window(attributes: str, axes: int) -> list[tuple[int, int, int, int]]:
    """Of each axis of a convolution: the stride, the padding before it, and the dilations of data and kernel."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def sides(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * axes

    return [
        (int(stride), int(pad.partition("_")[0]), int(data_step), int(kernel_step))
        for stride, pad, data_step, kernel_step in zip(
            sides("stride", "1"), sides("pad", "0_0"), sides("lhs_dilate", "1"), sides("rhs_dilate", "1")
        )
    ]


def hbm_bytes(one: Instruction, computation: Computation, computations: Computations) -> float:
    """Bytes that an instruction reads from HBM and writes there.

    Of a stack of arrays of which it reads or writes a part, the part counts.

    Args:
      one: the instruction.
      computation: where it stands.
      computations: those of the program.
    """
    if "bytes_accessed" in (known := cost_estimate(one)):
        return float(known["bytes_accessed"])
    if one.opcode.endswith(
        "-start"
    ):  # its type begins with operand and result; of a slice, the operand is larger
        ends = one.arrays[:2]
        return min(end.bytes for end in ends) * sum(end.in_hbm for end in ends)
    operands = [computation.get(name) for name in one.operands]
    shares = _shares_read(one, operands, 1.0, computations)
    read = sum(
        share * operand.bytes
        for share, operand in zip(shares, operands)
        if operand and all(array.in_hbm for array in operand.arrays)
    )
    written = _written(one, computation, computations)
    return read + sum(size for size, array in zip(written, one.arrays) if array.in_hbm)


def _shares_read(
    user: Instruction, operands: Sequence[Instruction | None], demand: float, computations: Computations
) -> list[float]:
    """The share of each operand that an instruction reads, where a share `demand` of its result is needed."""
    inside = computations.get(user.called)
    if inside:
        needed = _shares_needed(inside, demand, computations)
        by_index = {one.literal: needed[one.name] for one in inside.values() if one.opcode == "parameter"}
        return [by_index.get(str(index), 1.0) for index in range(len(operands))]
    shares = []
    for index, operand in enumerate(operands):
        if index == 0 and user.opcode in READS_A_PART and operand:
            share = user.bytes / operand.bytes if operand.bytes else 1.0  # none: empty, or not in BYTES
            shares.append(demand * min(1.0, share))
        elif index == 0 and user.opcode in WRITES_A_PART:
            shares.append(0.0)
        else:
            is_elementwise = operand is not None and _elements(operand) == _elements(user)
            shares.append(demand if is_elementwise else float(demand > 0))
    return shares


def _shares_needed(computation: Computation, demand: float, computations: Computations) -> dict[str, float]:
    """The share of each value of a fusion that is computed or read, where a share `demand` of its result is needed."""
    needed = {one.name: demand if one.is_root else 0.0 for one in computation.values()}
    for one in reversed(computation.values()):  # users before what they use
        operands = [computation.get(name) for name in one.operands]
        shares = _shares_read(one, operands, min(1.0, needed[one.name]), computations)
        for name, share in zip(one.operands, shares):
            if name in needed:
                needed[name] += share
    return {name: min(1.0, share) for name, share in needed.items()}


def _elements(one: Instruction) -> int:
    return sum(math.prod(array.sides) for array in one.arrays)


def _written(one: Instruction, computation: Computation, computations: Computations) -> list[int]:
    """Bytes that an instruction writes, of each array that it makes."""
    sizes = [array.bytes for array in one.arrays]
    if one.opcode in WRITES_A_PART:
        part = computation.get(one.operands[WRITES_A_PART[one.opcode]])
        return [part.bytes] if part and len(sizes) == 1 else sizes
    if one.opcode == "bitcast" and one.operands[0] in computation:
        return _written(computation[one.operands[0]], computation, computations)
    if one.opcode == "tuple" and all(name in computation for name in one.operands):
        return [
            size for name in one.operands for size in _written(computation[name], computation, computations)
        ]
    inside = computations.get(one.called, Computation())
    root = next((each for each in inside.values() if each.is_root), None)
    if one.opcode == "fusion" and root:
        found = _written(root, inside, computations)
        return found if len(found) == len(sizes) else sizes
    return sizes


def _numbers(text: str, pattern: str, separator: str) -> list[int]:
    """The numbers of a list in an attribute; [] where there is none."""
    match = re.search(pattern, text)
    return [int(number) for number in match[1].split(separator) if number] if match else []

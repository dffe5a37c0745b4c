"""The work of kernels written in Pallas, for which the compiler has no estimate: as they state it, or from shapes."""

import json
import math
import re

from pretrain.plan.hlo import Computation, Instruction

SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
"""Matrix products of the size of the scores, in each kernel of splash attention. Backward, scores are computed anew."""


def cost_estimate(one: Instruction) -> dict[str, float]:
    """The flops and bytes_accessed that a kernel states; {} where it states nothing."""
    match = re.search(r'"cost_estimate":\s*(\{[^}]*\})', one.attributes)
    if match is None:
        return {}
    return {name: float(value) for name, value in json.loads(match[1]).items()}


def kernel_flops(one: Instruction, computation: Computation) -> float:
    """FLOPs of a kernel; 0 where they are not known, and for other instructions."""
    return cost_estimate(one).get("flops") or _splash_flops(one, computation)


def _splash_flops(one: Instruction, computation: Computation) -> float:
    """FLOPs of a kernel of splash attention, from its shapes.

    Its operands begin with arrays of int8 for the blocks of the mask, [heads, blocks of queries, blocks of keys that
    are visited]. Query, key and value [rows, heads, tokens, width] follow. Blocks are taken to be square.
    """
    products = next((number for name, number in SPLASH_PRODUCTS.items() if name in one.name), 0)
    if not products:
        return 0.0
    shapes = [(array.kind, array.sides) for name in one.operands for array in computation[name].arrays]
    heads = [sides for kind, sides in shapes if kind in ("bf16", "f32") and len(sides) >= 3]
    if len(heads) < 2:
        return 0.0
    blocks = next((sides for kind, sides in shapes if kind == "s8" and len(sides) == 3), (1, 1, 1))
    visited = min(1.0, blocks[2] / blocks[1])
    return 2.0 * products * visited * math.prod(heads[0]) * heads[1][-2]

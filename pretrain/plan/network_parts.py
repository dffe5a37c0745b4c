"""The part of the training step that an instruction of its compiled program belongs to.

JAX names every operation by the path of scopes in which the code made it (`jax.named_scope`), and the compiler keeps
these names (`op_name`). An instruction that holds several operations belongs to the part of one of them: of the largest
product in it, else of its result.
"""

import enum
import re

from pretrain.plan.exchanges import COLLECTIVES
from pretrain.plan.hlo import PALLAS, Computation, Computations, Instruction, contents
from pretrain.plan.instruction_work import PRODUCTS, product_flops


class Part(enum.StrEnum):
    """A part of the step, in the order in which a table shows them."""

    QUERY_KEY_VALUE = "query, key, value"
    ATTENTION = "attention's products"
    SOFTMAX = "softmax and its dropout"
    OUTPUT = "attention's output"
    UP = "feed-forward up"
    ACTIVATION = "activation"
    DOWN = "feed-forward down"
    NORMS = "norms, residuals, biases"
    DROPOUT = "dropout masks"
    STACK = "stack of the layers"
    EMBEDDINGS = "embedding, look-ups"
    HEAD = "head"
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    EXCHANGES = "exchanges"
    REST = "the rest"


ANYWHERE = {
    "layer_stack": Part.STACK,
    "dropout_mask": Part.DROPOUT,
    "head": Part.HEAD,
    "loss": Part.LOSS,
    "optimizer": Part.OPTIMIZER,
    "masking": Part.EMBEDDINGS,
    "predicted_positions": Part.EMBEDDINGS,
    "embeddings": Part.EMBEDDINGS,
}
"""The part of each scope that decides wherever it stands in a path; the first in this order."""
PRODUCT = {
    "embed_to_heads": Part.QUERY_KEY_VALUE,
    "attention": Part.ATTENTION,
    "heads_to_embed": Part.OUTPUT,
    "embed_to_mlp": Part.UP,
    "mlp_to_embed": Part.DOWN,
}
"""The part of a matrix product by the innermost scope in a layer."""
ELEMENTWISE = {
    "attention": Part.SOFTMAX,
    "dropout": Part.DROPOUT,
    "activation": Part.ACTIVATION,
    "layer": Part.NORMS,
    "norm": Part.NORMS,
}
"""The part of everything else in a layer, by the outermost of these scopes but `layer`."""

STACK_OPERATIONS = ("/dynamic_slice", "/dynamic_update_slice")
"""Ends of names: a loop takes a layer from the arrays of all layers, or puts one there."""


def is_backward(op_name: str) -> bool:
    """Whether an operation is of the backward pass; what it computes again (remat) is part of it."""
    return "transpose(" in op_name or "rematted_computation" in op_name


def scopes(op_name: str) -> list[str]:
    """The names in a path, outermost first: `jit(f)/transpose(jvp(layer))/norm/mul` has f, layer, norm and mul."""
    return [name for part in op_name.split("/") for name in re.findall(r"[\w.\-]+(?=\)*$)", part)]


def part_of(op_name: str, *, is_product: bool) -> Part:
    """The part that an operation belongs to, by its name."""
    path = scopes(op_name)
    for name, part in ANYWHERE.items():
        if name in path:
            return part
    if is_product:
        return next((PRODUCT[name] for name in reversed(path) if name in PRODUCT), Part.REST)
    inner = [ELEMENTWISE[name] for name in path if name in ELEMENTWISE and name != "layer"]
    return next(iter(inner), Part.NORMS if "layer" in path else Part.REST)


def attribute(one: Instruction, computation: Computation, computations: Computations) -> tuple[Part, bool]:
    """The part that an instruction belongs to, and whether it is of the backward pass.

    Args:
      one: the instruction.
      computation: where it stands.
      computations: those of the program.
    """
    inside = [(one, computation), *contents(one, computations)]
    products = [(product_flops(each, place), each) for each, place in inside if each.opcode in PRODUCTS]
    if products:
        largest = max(products, key=lambda product: product[0])[1]
        name = largest.op_name or one.op_name
        return part_of(name, is_product=True), is_backward(name)
    if any(each.kind in COLLECTIVES for each, _ in inside):
        return Part.EXCHANGES, is_backward(one.op_name)
    root = next((each for each, _ in inside if each.is_root), one)
    name = one.op_name or root.op_name or _name_of_user(one, computation)
    if root.opcode == "dynamic-update-slice" or name.endswith(STACK_OPERATIONS):
        return Part.STACK, is_backward(name)
    return part_of(name, is_product=one.target == PALLAS), is_backward(name)


def _name_of_user(one: Instruction, computation: Computation) -> str:
    """The name of the operation that uses a value first, as the value has none: a copy to on-chip memory, say."""
    for user in computation.users.get(one.name, []):
        if user.opcode in ("copy-done", "slice-done", "bitcast", "custom-call") and not user.op_name:
            if name := _name_of_user(user, computation):
                return name
        elif user.op_name:
            return user.op_name
    return ""

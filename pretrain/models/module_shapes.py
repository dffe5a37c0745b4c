"""Properties of a module that need no computation: shapes, metadata, a pure dict of its arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]
"""A nested dict of arrays."""

LAYERS = "layers"
"""The part of params whose arrays are stacked, one layer after another on the leading axis."""


def abstract(makers: Mapping[str, Callable[[], nnx.Module]]) -> dict[str, nnx.Module]:
    """Modules with shapes for arrays, by part."""
    return {part: nnx.eval_shape(make) for part, make in makers.items()}


def pure(module: nnx.Module) -> Params:
    """The arrays of a module (or their shapes, where it is abstract) as a nested dict."""
    return nnx.to_pure_dict(nnx.state(module))


def metadata(module: nnx.Module, name: str) -> dict[str, Any]:
    """The metadata `name` of each parameter, in a tree like `pure(module)`."""

    def read(variable: nnx.Variable[Any]) -> Any:
        return variable.get_metadata(name)

    state = nnx.state(module)
    return nnx.to_pure_dict(jax.tree.map(read, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))


def logical_axes(parts: Mapping[str, nnx.Module]) -> dict[str, Any]:
    """The tree of params of these parts, with a tuple of logical axes at each leaf; those of layers are stacked."""
    axes = {part: metadata(module, "axes") for part, module in parts.items()}
    return {part: _stacked(tree) if part == LAYERS else tree for part, tree in axes.items()}


def decay_mask(parts: Mapping[str, nnx.Module]) -> dict[str, Any]:
    """The tree of params of these parts, with True where weight decay applies."""
    return {part: metadata(module, "decay") for part, module in parts.items()}


def _stacked(axes: dict[str, Any]) -> Any:
    return jax.tree.map(lambda names: (LAYERS, *names), axes, is_leaf=lambda x: isinstance(x, tuple))

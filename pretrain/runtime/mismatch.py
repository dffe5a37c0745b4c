"""A checkpoint of another network or optimiser than the config asks for: how it shows, and what is said of it."""

import re
from collections.abc import Mapping
from typing import Any

import jax

SIGN = re.compile(r"tree structures do not match|Requested shape: .* is not compatible with the stored shape")
"""How Orbax says that a checkpoint is whole, but of another state."""


def message(name: str, stored: Any, asked: Any, changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What differs, which fields have changed it, and what to do.

    Args:
      name: of the checkpoint.
      stored: its state, a tree of anything with a shape, with "params" and "opt_state" at its top.
      asked: the state that the config asks for.
      changed: fields of the config that differ from the checkpoint's, (old, new) by path.
    """
    theirs, ours = _shapes(stored), _shapes(asked)
    differ = {path[0] for path in {*theirs, *ours} if theirs.get(path) != ours.get(path)}
    is_of_optimizer = differ == {"opt_state"}
    what, group = ("the optimiser", "optimizer") if is_of_optimizer else ("the model", "model")
    groups = (group, "average") if is_of_optimizer else (group,)  # the average is in the optimiser's state
    fields = [
        f"config.{field} was {old!r}, is {new!r}"
        for field, (old, new) in changed.items()
        if field.partition(".")[0] in groups
    ]
    cause = f": {'; '.join(fields)}; put it back" if fields else f": put config.{group} back as it was"
    return f"{what} differs from that of {name}, and cannot change in a run{cause}, or start in another --workdir"


def _shapes(tree: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each array of a state, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = (str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
        found[tuple(names)] = tuple(leaf.shape)
    return found

"""Paths in nested dicts."""

from collections.abc import Mapping, Sequence
from typing import Any


def at_path(tree: Any, path: Sequence[str]) -> Any:
    """What is at a path of nested dicts; None where there is nothing."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def placed(value: Any, path: Sequence[str]) -> Any:
    """Nested dicts that hold `value` at a path, and nothing else."""
    for name in reversed(path):
        value = {name: value}
    return value

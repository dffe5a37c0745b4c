"""Values of JSON files that name a place on somebody's machine, which are not passed on."""

from collections.abc import Mapping
from typing import Any

NOTED = ("name_or_path", "_file", "cache_dir")
"""Ends of the names of fields in which libraries note where something was read from, a relative folder too."""
TEXTS = ("_token", "chat_template")
"""Ends of the names of fields that hold text, whatever it looks like."""


def is_place(value: str) -> bool:
    """Whether one of comma-separated values is an absolute path or an address."""
    return any(part.strip().startswith(("/", "~")) or "://" in part for part in value.split(","))


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object but for those that name places."""
    return {name: value for name, value in values.items() if not _names_a_place(name, value)}


def _names_a_place(name: str, value: Any) -> bool:
    if name.endswith(NOTED):
        return True
    return isinstance(value, str) and not name.endswith(TEXTS) and is_place(value)

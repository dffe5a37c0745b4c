"""Values in JSON files that name a path or an address on somebody's machine; they are not published."""

from collections.abc import Mapping
from typing import Any

NOTED = ("name_or_path", "_file", "cache_dir")
"""Endings of field names under which libraries note the origin of a file, even as a relative path."""
TEXTS = ("_token", "chat_template")
"""Endings of field names that hold text; such a text may look like a path."""


def is_place(value: str) -> bool:
    """Whether one of the comma-separated values is an absolute path or an address."""
    return any(part.strip().startswith(("/", "~")) or "://" in part for part in value.split(","))


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object, without the fields that name a path or an address."""
    return {name: value for name, value in values.items() if not _names_a_place(name, value)}


def _names_a_place(name: str, value: Any) -> bool:
    if name.endswith(NOTED):
        return True
    return isinstance(value, str) and not name.endswith(TEXTS) and is_place(value)

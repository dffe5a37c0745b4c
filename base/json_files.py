"""Reads JSON that may be damaged or hostile: every flaw of it is a ValueError that says what is wrong on one line."""

import functools
import json
import logging
from typing import Any

from etils import epath

logger = logging.getLogger(__name__)


@functools.lru_cache
def warn_once(message: str) -> None:
    """Log a warning about a damaged file; the same one only once, although the file may be read several times."""
    logger.warning("%s", message)


def parsed(content: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: it is not JSON, not UTF-8, or nested too deeply to be read.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_object(file: epath.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: it holds something else.
      OSError: it cannot be read.
    """
    value = parsed(file.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value

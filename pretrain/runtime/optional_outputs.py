"""Optional outputs: pictures, tables, cards and log lines. If one of them fails, a warning is logged."""

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


def attempt(what: str, action: Callable[..., Any], *arguments: Any, remedy: str = "") -> bool:
    """Call an action that a run can do without; return whether it succeeded.

    Args:
      what: its subject in the warning: "loss_curve.png".
      action: called with `arguments`.
      arguments: of the action.
      remedy: the end of the warning: how to have it after all.
    """
    try:
        action(*arguments)
    except Exception as error:  # whatever goes wrong with it
        said = " ".join(str(error).split()) or type(error).__name__
        logger.warning("%s could not be written: %s%s", what, said, remedy and f"; {remedy}")
        return False
    return True

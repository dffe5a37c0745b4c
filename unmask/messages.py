"""Log messages of runs in a program or a notebook: they are not shown before `show_messages` is called."""

import logging
import sys

from base import terminal
from pretrain.runtime.train_command import PACKAGES


class _Stderr(logging.StreamHandler):
    """Writes to whatever sys.stderr is when a message comes: a notebook exchanges it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(terminal.Formatter("%(message)s"))

    @property
    def stream(self) -> object:
        """The stream at hand."""
        return sys.stderr


def show_messages(level: int = logging.INFO) -> None:
    """Show the messages of runs on stderr, as the commands do. The loggers of other libraries do not change.

    Args:
      level: the least level that is shown.
    """
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
            logger.addHandler(_Stderr())
        logger.setLevel(level)
        logger.propagate = False

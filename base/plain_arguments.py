"""Command lines of flags and words alone, for commands without a config: one-line errors, and guesses for flags."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from base import suggestions
from base.errors import UserError


class Arguments(argparse.ArgumentParser):
    """argparse, whose mistakes are UserErrors."""

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """What a command line gives, program name first.

        Raises:
          UserError: an unknown flag, with the one that was probably meant, or a value that does not fit its flag.
        """
        found, left = self.parse_known_args(argv[1:])
        if left and left[0].startswith("-"):
            flags = [
                flag[2:] for action in self._actions for flag in action.option_strings if flag[:2] == "--"
            ]
            name = left[0].lstrip("-").partition("=")[0]
            raise UserError(suggestions.unknown_flag(name, suggestions.Names((), tuple(flags))))
        if left:
            raise UserError(f"unexpected argument {left[0]!r}")
        return found

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message}; --help lists the flags")

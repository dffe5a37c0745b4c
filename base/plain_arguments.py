"""Parser for commands without a config: flags and positional arguments, one-line errors, suggestions for flags."""

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import NoReturn

from base import suggestions
from base.errors import UserError

SWITCH = {"true": True, "1": True, "false": False, "0": False}
"""Values of a boolean flag, as in --overwrite=false; --overwrite alone means true."""


class Arguments(argparse.ArgumentParser):
    """An argparse parser that raises UserError for a mistake. Its help has the format of `base.command_line`."""

    def add_switch(self, flag: str, help: str) -> None:
        """Declare a flag that is on or off: --FLAG, --FLAG=true, --FLAG=false, --noFLAG."""
        name = flag.removeprefix("--")
        self.add_argument(flag, nargs="?", const=True, default=False, type=_switch, help=help)
        self.add_argument(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line, program name first.

        Raises:
          UserError: an unknown flag, with the one that was probably meant, or a value that does not fit its flag.
        """
        found, left = self.parse_known_args(argv[1:])
        if left and left[0].startswith("-"):
            flags = [
                flag.removeprefix("--")
                for action in self._actions
                for flag in action.option_strings
                if flag.startswith("--") and flag != "--help" and action.help is not argparse.SUPPRESS
            ]
            name = left[0].lstrip("-").partition("=")[0]
            raise UserError(suggestions.unknown_flag(name, suggestions.Names((), tuple(flags))))
        if left:
            raise UserError(f"unexpected argument {left[0]!r}")
        return found

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message}; --help lists the flags")

    def format_help(self) -> str:
        """What --help prints."""
        shown = [action for action in self._actions if action.help is not argparse.SUPPRESS]
        words = {str(action.dest).upper(): action.help or "" for action in shown if not action.option_strings}
        flags = [
            f"{', '.join(action.option_strings)}: {action.help}{_default(action)}"
            for action in shown
            if action.option_strings
        ]
        usage = self.usage or " ".join([f"{self.prog} [flags]", *(f"[{word} ...]" for word in words)])
        groups = {"words": [f"{word}: {text}" for word, text in words.items()], "flags": flags}
        return help_page(
            usage, {name: lines for name, lines in groups.items() if lines}, self.description or ""
        )


def help_page(usage: str, groups: Mapping[str, Sequence[str]], description: str = "") -> str:
    """What a command's --help prints, as wide as the terminal.

    Args:
      usage: how the command is called.
      groups: heading of each group (flags, fields, positional arguments) -> one line for each member of the group.
      description: the purpose of the command, in paragraphs.
    """
    width = shutil.get_terminal_size().columns
    parts = [textwrap.fill(f"usage: {usage}", width, subsequent_indent=" " * 6)]
    parts += [
        textwrap.fill(" ".join(part.split()), width) for part in description.split("\n\n") if part.strip()
    ]
    for name, lines in groups.items():
        filled = [textwrap.fill(f"  {line}", width, subsequent_indent=" " * 6) for line in lines]
        parts.append("\n".join([f"{name}:", *filled]))
    return "\n\n".join(parts) + "\n"


def _default(action: argparse.Action) -> str:
    """The default of a flag, where it has one."""
    return "" if action.default in (None, argparse.SUPPRESS) else f" (default {action.default!r})"


def _switch(text: str) -> bool:
    """A switch's value."""
    if text.lower() not in SWITCH:
        raise argparse.ArgumentTypeError(f"{text!r} should be true or false")
    return SWITCH[text.lower()]

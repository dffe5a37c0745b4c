"""The command line of a launcher: `python -m launch.X NAME --config=FILE.py [flags] -- COMMAND ...`.

The command after `--` runs on the machines exactly as written. A launcher reads only a few things from it: its module,
its config and its workdir.
"""

import itertools
import re
import sys
from collections.abc import Sequence

from base.errors import UserError

MARKER = "finished.json"
"""Name of the file that a finished run writes into its workdir."""
OLDER_MARKERS = {"pretrain": (), "finetune": ("results.json", "glue.json")}
"""Other files that mark a finished run, by module. Earlier versions of fine-tuning wrote no `MARKER`."""


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the launcher's own arguments and the command after `--`.

    Returns:
      The launcher's arguments, with the program name first, and the command; the command is [] without `--`.

    Raises:
      UserError: a command starts without `--` before it.
    """
    arguments = list(argv)
    if "--" not in arguments:
        for argument in arguments[1:]:
            if re.fullmatch(r"-m|(.*/)?python[\d.]*", argument):
                raise UserError(
                    f"{argument!r} is not an argument of the launcher; write -- before the command to run"
                )
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def take_words(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the positional arguments from the start of a launcher's command line.

    Args:
      arguments: the launcher's own arguments, program name first.
      names: names of the positional arguments (NAME), for the message.

    Returns:
      The positional arguments, and the launcher's arguments without them.

    Raises:
      UserError: a flag stands in the place of a positional argument.
    """
    program, *rest = arguments
    words = rest[: len(names)]
    for place, name in enumerate(names):
        if place >= len(words) or words[place].startswith("-"):
            instead = f", found {words[place]!r}" if place < len(words) else ""
            raise UserError(f"no {name} given{instead}; write {' '.join(names)} first, then the flags")
    return words, [program, *rest[len(names) :]]


def take_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Take the run's name, which is the first argument. --help needs no name.

    Returns:
      The name ("" with --help), and the arguments without it.

    Raises:
      UserError: there is no name.
    """
    if {"--help", "-h"} & set(arguments):
        return "", list(arguments)
    words, rest = take_words(arguments, ["NAME"])
    return words[0], rest


def flag_of(command: Sequence[str], flag: str) -> str | None:
    """The last value of a flag in a command, written `--flag=X` or `--flag X`; None without the flag."""
    value = None
    for place, argument in enumerate(command):
        name, equals, text = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = text if equals else next(iter(command[place + 1 :]), None)
    return value


def workdir_of(command: Sequence[str]) -> str | None:
    """The run's folder (--workdir) in a command; None if the command has none."""
    return flag_of(command, "workdir")


def module_of(command: Sequence[str]) -> str | None:
    """The module that a command runs (`python -m MODULE`); None if it runs no module."""
    return next((module for flag, module in itertools.pairwise(command) if flag == "-m"), None)


def markers(command: Sequence[str], workdir: str) -> list[str]:
    """The files that show that the run of a command has finished: a finished run has written one of them.

    Returns:
      Paths in the workdir; [] for a command that writes no such file.

    Raises:
      UserError: the command is a search, which writes no such file and keeps its trials in a local folder.
    """
    module = module_of(command)
    if module not in OLDER_MARKERS:
        return []
    if module == "finetune" and any(argument.startswith("--config.search.") for argument in command):
        raise UserError(
            "config.search is for one machine: run python -m finetune there, then launch the config that it finds"
        )
    names = (MARKER, *OLDER_MARKERS[module])
    return [f"{workdir.rstrip('/')}/{name}" for name in names]


def python_of(command: Sequence[str]) -> str:
    """The Python that a command starts, as the command writes it; `python` for other programs."""
    return command[0] if re.fullmatch(r"python[\d.]*", command[0].rsplit("/", 1)[-1]) else "python"


def with_own_python(command: Sequence[str]) -> list[str]:
    """The command with the launcher's own interpreter in place of `python`, so that no environment must be activated.

    A Python of another version stays as written. A Python with a folder in its name does too.
    """
    own = ("python", "python3", f"python3.{sys.version_info.minor}")
    return [sys.executable if command[0] in own and sys.executable else command[0], *command[1:]]


def with_workdir(command: Sequence[str], workdir: str, name: str) -> tuple[list[str], str]:
    """Add a workdir to a command that has none.

    Args:
      command: the command after `--`.
      workdir: config.workdir of the launch config, for a command without --workdir. {name} becomes the run's name.
      name: the run's name.

    Returns:
      The command with --workdir, and the workdir.

    Raises:
      UserError: there is no command, there is no workdir, or the workdir is not a path.
    """
    if not command:
        raise UserError(
            "no command given; write it after --, as in: -- python -m pretrain --config=... --workdir=..."
        )
    named = workdir_of(command)
    if not named and not workdir:
        raise UserError(
            "the command names no folder for the run; add --workdir=... to it, or set config.workdir"
        )
    folder = named or workdir.replace("{name}", name)
    if re.search(r"[\x00-\x1f\x7f]", folder):
        raise UserError(f"--workdir={folder!r} should be a path without control characters")
    return ([*command] if named else [*command, f"--workdir={folder}"]), folder

"""The command line of a launcher: `python -m launch.X NAME --config=FILE.py [flags] -- COMMAND ...`.

What stands after `--` runs on the machines as it is written; this module looks only at what a launcher must know of it.
"""

import itertools
import re
import sys
from collections.abc import Sequence

from base.errors import UserError

MARKER = "finished.json"
"""What a run writes into its workdir when nothing is left to do."""
OLDER_MARKERS = {"pretrain": (), "finetune": ("results.json", "glue.json")}
"""What else says so, by the module that runs: earlier versions of fine-tuning left no `MARKER`."""


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The launcher's own arguments, program name first, and the command that stands after `--`; [] without one."""
    arguments = list(argv)
    if "--" not in arguments:
        for word in arguments[1:]:
            if re.fullmatch(r"-m|(.*/)?python[\d.]*", word):
                raise UserError(
                    f"{word!r} is not for the launcher; write -- before the command that is to run"
                )
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def take_words(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that stand first on a launcher's command line, and its arguments without them.

    Args:
      arguments: the launcher's own arguments, program name first.
      names: what the words are (NAME), for the message.

    Raises:
      UserError: a flag stands where a word should.
    """
    program, *rest = arguments
    words = rest[: len(names)]
    for place, name in enumerate(names):
        if place >= len(words) or words[place].startswith("-"):
            found = f", found {words[place]!r}" if place < len(words) else ""
            raise UserError(f"no {name} given{found}; write {' '.join(names)} first, then the flags")
    return words, [program, *rest[len(names) :]]


def take_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """A run's name, which stands first, and the arguments without it; no name is needed to ask for --help.

    Raises:
      UserError: there is none.
    """
    if {"--help", "-h"} & set(arguments):
        return "", list(arguments)
    words, rest = take_words(arguments, ["NAME"])
    return words[0], rest


def flag_of(command: Sequence[str], flag: str) -> str | None:
    """The value that a command gives a flag, as `--flag=X` or `--flag X`; the last counts, None where there is none."""
    value = None
    for place, argument in enumerate(command):
        name, equals, text = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = text if equals else next(iter(command[place + 1 :]), None)
    return value


def workdir_of(command: Sequence[str]) -> str | None:
    """The run's folder that a command names; None where it names none."""
    return flag_of(command, "workdir")


def module_of(command: Sequence[str]) -> str | None:
    """The module that a command runs, as in `python -m MODULE`; None where it runs none."""
    return next((module for flag, module in itertools.pairwise(command) if flag == "-m"), None)


def markers(command: Sequence[str], workdir: str) -> list[str]:
    """The files of which one is there when the run of a command has finished; none where that cannot be told.

    Raises:
      UserError: a search, which leaves none and keeps its trials in a local folder.
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
    """The Python that a command starts, as it names it; `python` where it starts something else."""
    return command[0] if re.fullmatch(r"python[\d.]*", command[0].rsplit("/", 1)[-1]) else "python"


def with_own_python(command: Sequence[str]) -> list[str]:
    """The command for this machine, where `python` is the interpreter that runs the launcher, activated or not.

    A Python of another version, or one named with its folder, stays as it is written.
    """
    own = ("python", "python3", f"python3.{sys.version_info.minor}")
    return [sys.executable if command[0] in own and sys.executable else command[0], *command[1:]]


def with_workdir(command: Sequence[str], workdir: str, name: str) -> tuple[list[str], str]:
    """The command with a workdir, and that workdir.

    Args:
      command: what stands after `--`.
      workdir: config.workdir of the launch config, for a command that names none; {name} in it is the run's name.
      name: the run's name.

    Raises:
      UserError: there is no command, neither names a workdir, or it is no path.
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

"""Command lines: `--config=FILE.py[:ARG]` with `--config.a.b=value` overrides, typed flags, one-line errors.

The config file is ml_collections Python, and sets only the fields that differ from the defaults. The other fields are
filled in from the dataclass that declares them, before the overrides are applied. So every field can be overridden,
whether the file mentions it or not, and references between fields (`get_ref`) follow an override.
"""

import dataclasses
import os
import re
import select
import shutil
import signal
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from absl import flags
from ml_collections import config_dict, config_flags

from base import formatting, recipes, storage, suggestions, terminal
from base import schema as schema_module
from base.errors import UserError
from base.plain_arguments import help_page
from base.schema import Unused
from base.set_fields import Given, say_all, settled

PACKAGES = ("data", "tokenizer", "pretrain", "finetune", "launch")  # whose modules are commands
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended: 128 + SIGINT

T = TypeVar("T")

# What a value should be, by absl's name of a flag's type.
EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Run a command's main with sys.argv, and exit with its status.

    A UserError is printed as `error: MESSAGE`; the exit status is 2. A failure of a bucket or server is printed in the
    same form; the exit status is 1. Ctrl-C gives the exit status 130. If stdout is a closed pipe, the command ends
    without a message.
    """
    terminal.guard_logs()
    try:
        status = main(sys.argv) or 0
        sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        terminal.say(f"error: {formatting.one_line(str(error))}", error=True)
        sys.exit(2)
    except KeyboardInterrupt:
        terminal.say("interrupted", error=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        if not (failure := storage.outage(error)):
            raise
        terminal.say(f"error: {formatting.one_line(failure)}", error=True)
        sys.exit(1)


def _nobody_reads() -> bool:
    """Whether stdout is a closed pipe. If it is, redirect stdout to /dev/null, so that the final flush cannot fail."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)
    if closed := any(event & select.POLLERR for _, event in stdout.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def all_used(config: Any) -> Iterable[Unused]:
    """Every field of a config is read."""
    return ()


@dataclass(frozen=True)
class CommandLine(Generic[T]):
    """What a command was given."""

    config: T
    values: flags.FlagValues
    given: Given
    """The fields that were set, and where."""


def parse(
    schema: type[T],
    argv: Sequence[str],
    define: Callable[[flags.FlagValues], None],
    *,
    partial: bool = False,
    unused: Callable[[T], Iterable[Unused]] = all_used,
) -> tuple[T, flags.FlagValues]:
    """Read a command line (see `read`), print its notes, and return the config and the flags."""
    found = read(schema, argv, define, partial=partial, unused=unused)
    say_all(found.given)
    return found.config, found.values


def read(
    schema: type[T],
    argv: Sequence[str],
    define: Callable[[flags.FlagValues], None],
    *,
    partial: bool = False,
    unused: Callable[[T], Iterable[Unused]] = all_used,
    recipe: bool = True,
) -> CommandLine[T]:
    """Read a command line: the config, the flags, and the fields that are set.

    Args:
      schema: the dataclass type of the config.
      argv: the command line, program name first.
      define: adds the command's own flags to a FlagValues.
      partial: whether the command reads only some fields of a recipe. Fields that it does not read are not checked.
      unused: the fields of a config that would have no effect: see `base.set_fields.settled`.
      recipe: whether there must be a recipe. Without one, every field has its default.

    Raises:
      UserError: no config, a file that fails, an unknown field, an ill-typed or disallowed value, an unknown flag, a
        field that is set and has no effect.
    """
    path, rest = _take_config(argv)
    values = flags.FlagValues()
    define(values)
    if "--help" in argv or "-h" in argv:
        terminal.say(_help(argv[0], schema, values), end="")
        sys.exit(0)
    if path is None and recipe:
        raise UserError("no --config given; for example --config=configs/quickstart.py")
    config = config_dict.ConfigDict() if path is None else recipes.load(path)
    overrides = [arg.lstrip("-").split("=", 1)[0] for arg in rest if arg.lstrip("-").startswith("config.")]
    on_line = frozenset(override.removeprefix("config.") for override in overrides)
    given = Given(frozenset(schema_module.flatten(recipes.plain(config))), on_line)
    names = suggestions.Names.of(schema, values)
    recipes.check_names(config, schema, names, "config", partial)
    recipes.fill(config, schema, "config", overrides)
    bare = schema_module.may_be_bare(schema)
    rest = [f"{word}=true" if word.lstrip("-") in bare else word for word in rest]
    rest = _emptied(config, rest)
    for override in overrides:
        recipes.check_override(config, override, names)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
        left = values(rest)
    except flags.UnrecognizedFlagError as error:
        raise UserError(suggestions.unknown_flag(error.flagname, names)) from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_illegal_value(error, values)) from error
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        raise UserError(recipes.one_line(error)) from error
    if len(left) > 1:
        raise UserError(f"unexpected argument {left[1]!r}; overrides are written --config.field=value")
    if partial:
        for override in overrides:
            if override.split(".")[1].partition("[")[0] not in typing.get_type_hints(schema):
                raise UserError(
                    f"{override} has no effect: python -m {_module(argv[0])} does not read it; leave it out"
                )
    built = schema_module.build(schema, recipes.plain(config), partial=partial)
    recipes.check_passwords(built)
    notes: list[str] = []
    config_settled = settled(built, given, unused, notes.append)
    return CommandLine(config_settled, values, dataclasses.replace(given, notes=tuple(notes)))


def python() -> str:
    """The name or path by which the user's shell starts this Python interpreter, for commands printed to the user."""
    executable = Path(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).absolute() == executable:
            return name
    below = executable.is_relative_to(Path.cwd())
    return str(executable.relative_to(Path.cwd()) if below else executable)


def _take_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split `--config=PATH` (or `--config PATH`) from the other arguments."""
    path, rest, arguments = None, [], iter(argv)
    for argument in arguments:
        name = argument.removeprefix("--").removeprefix("-") if argument.startswith("-") else ""
        if name == "config":
            path = next(arguments, None)
        elif name.startswith("config="):
            path = name.removeprefix("config=")
        else:
            rest.append(argument)
    return path, rest


def _emptied(config: config_dict.ConfigDict, rest: Sequence[str]) -> list[str]:
    """Empty each list of groups that is set to (), as in --config.phases=(); returns the other arguments."""
    paths = {word: word.lstrip("-").removeprefix("config.").removesuffix("=()") for word in rest}
    emptied = [
        w
        for w, path in paths.items()
        if w.endswith("=()") and path in config and recipes.is_groups(config[path])
    ]
    config.update({paths[word]: [] for word in emptied})
    return [word for word in rest if word not in emptied]


def _help(program: str, schema: type, values: flags.FlagValues) -> str:
    lines = ["--config: a recipe, FILE.py or FILE.py:ARGUMENT"]
    lines += [f"--{name}: {values[name].help} (default {values[name].value!r})" for name in values]
    fields = [f"--{line}" for line in describe(schema)]
    usage = f"python -m {_module(program)} --config=FILE.py [--config.FIELD=VALUE ...] [flags]"
    return help_page(usage, {"flags": lines, "config fields, with their defaults": fields})


def _module(program: str) -> str:
    path = Path(program)
    folders = path.parent.parts if path.stem == "__main__" else (*path.parent.parts, path.stem)
    packages = [index for index, name in enumerate(folders) if name in PACKAGES]
    return ".".join(folders[packages[-1] if packages else -2 :])


def describe(schema: type, where: str = "config") -> list[str]:
    """A line for every field of a config: its name, default, allowed values and meaning."""
    lines: list[str] = []
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        path, doc = f"{where}.{field.name}", field.metadata.get("doc", "")
        if dataclasses.is_dataclass(hints[field.name]):
            lines += describe(typing.cast(type, hints[field.name]), path)
            continue
        choices = schema_module.choices_of(field)
        among = f" [{', '.join(map(str, choices))}]" if choices else ""
        lines.append(f"{path}={field.default!r}{among}: {doc}")
    return lines


def _illegal_value(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> str:
    """The message for a value that is not of its flag's type."""
    match = re.match(r"flag --(.+?)=(.*?): ", str(error), re.DOTALL)
    expected = EXPECTED.get(values[match[1]].flag_type()) if match and match[1] in values else None
    if match is None or expected is None:
        return recipes.one_line(error)
    name = match[1] if match[1].startswith("config.") else f"--{match[1]}"
    return f"{name}={match[2]!r} should be {expected}"

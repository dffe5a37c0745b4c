"""The fields that a command sets, in its recipe or command line; rules for unused fields and for resumed runs."""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from base import schema, terminal
from base.errors import UserError
from base.schema import Unused

T = TypeVar("T")

DEFAULT, RECIPE, LINE = range(3)
"""Levels at which a field can be set. A higher level overrides a lower one."""


@dataclass(frozen=True)
class Given:
    """The paths of the fields that a command sets, without `config.`."""

    recipe: frozenset[str] = frozenset()
    line: frozenset[str] = frozenset()
    """Those that the command line sets."""
    notes: tuple[str, ...] = ()
    """Notes for the user about fields of the recipe that have no effect."""

    def level(self, path: str) -> int:
        """The level at which a field is set: DEFAULT, RECIPE or LINE. For a group, the highest level of its fields."""

        def has(fields: frozenset[str]) -> bool:
            return schema.is_in(path, tuple(fields)) or any(schema.is_in(each, (path,)) for each in fields)

        return LINE if has(self.line) else RECIPE if has(self.recipe) else DEFAULT


def say(note: str) -> None:
    """Put a note on stderr."""
    terminal.say(f"note: {note}", error=True)


def say_all(given: Given) -> None:
    """Print the notes about fields of the recipe that have no effect."""
    for note in given.notes:
        say(note)


def settled(
    config: T,
    given: Given,
    unused: Callable[[T], Iterable[Unused]],
    note: Callable[[str], None] = say,
) -> T:
    """Reset the unused fields of a recipe to their defaults, and refuse other unused fields.

    A field of the recipe is reset if a setting on the command line makes it useless; a note says so. It is reset
    without a note if the command itself never reads it. A field is refused if it is set at the same level as the
    setting that makes it useless, or at a higher level.

    A recipe may list all fields. So a field of the recipe that has its default value counts as not set. A field on the
    command line counts as not set only if its value is the default and is empty: '', 0 or false.

    Args:
      config: a dataclass, as it was given.
      given: the fields that were set.
      unused: the fields of a config that nothing reads.
      note: function that gets each note about fields that are reset.

    Raises:
      UserError: a field that is set has no effect.
    """
    values, gives_way = schema.flatten(schema.as_dict(config)), set()
    for each in unused(config):
        idle = [path for path in values if each.covers(path) and _is_set(config, given, path, values[path])]
        decided = max(map(given.level, each.by), default=LINE)
        if each.unless_as_late:
            idle = [path for path in idle if given.level(path) < decided]
        for path in idle:
            if given.level(path) >= decided:
                raise UserError(f"config.{path}={values[path]!r} has no effect: {each.because}")
        if idle and each.by:
            named = ", ".join(f"config.{path}={values[path]!r}" for path in idle)
            note(f"without effect in the recipe: {named}; {each.because.partition(';')[0]}")
        gives_way |= {_whole(path, each.fields) for path in idle}
    if not gives_way:
        return config
    tree = schema.as_dict(config)
    for path in gives_way:
        if not schema.is_in(path, tuple(gives_way - {path})):
            _unset(tree, path)
    return schema.build(type(config), tree)


def as_begun(config: T, saved: Mapping[str, Any], given: Given) -> T:
    """The config of a resumed run. Fields that the user does not set get the values that reproduce the run.

    A field that declares `older=VALUE` gets that value in two cases: the run was saved before the field existed, or it
    was saved with that value. A field that is set, or whose value is not its default, does not change.

    Args:
      config: the config of the command line.
      saved: the config that the run was saved with, as nested dicts.
      given: the fields that were set.
    """
    tree = schema.as_dict(config)
    _keep_older(tree, schema.completed(saved, type(config)), type(config), given, "")
    return schema.build(type(config), tree)


def _keep_older(
    tree: dict[str, Any], saved: Mapping[str, Any], holder: Any, given: Given, where: str
) -> None:
    """Put the `older` values of `as_begun` into `tree`, a config of the type `holder` at the path `where`."""
    hints = typing.get_type_hints(holder)
    for field in dataclasses.fields(holder):
        path, now, was = f"{where}{field.name}", tree[field.name], saved[field.name]
        kind = schema.member(hints[field.name])
        if dataclasses.is_dataclass(kind):
            if isinstance(now, dict) and isinstance(was, Mapping):
                _keep_older(now, was, kind, given, f"{path}.")
            elif isinstance(now, list) and isinstance(was, list):
                for index, (mine, theirs) in enumerate(zip(now, was)):
                    _keep_older(mine, theirs, kind, given, f"{path}[{index}].")
        elif (
            "older" in field.metadata
            and given.level(path) == DEFAULT
            and now == default_of(holder, field.name)
        ):
            older = schema.older_value(field)
            tree[field.name] = older if was == older else now


def _whole(path: str, fields: Iterable[str]) -> str:
    """The list in `fields` that contains a field, or else the field itself.

    A list is reset as a whole: a list whose members are reset to their defaults would not be empty.
    """
    return next((field for field in fields if path.startswith(f"{field}[")), path)


def _is_set(config: Any, given: Given, path: str, value: Any) -> bool:
    level = given.level(path)
    return bool(level) and (value != default_of(type(config), path) or (level == LINE and bool(value)))


def default_of(holder: Any, path: str) -> Any:
    """The default of a field of a config type, by its path, as `schema.as_dict` has it."""
    value = None
    for name in path.split("."):
        if not dataclasses.is_dataclass(holder):
            return None
        field = next(field for field in dataclasses.fields(holder) if field.name == name.partition("[")[0])
        value = field.default if field.default is not dataclasses.MISSING else None
        holder = schema.member(typing.get_type_hints(holder)[field.name])
    return list(value) if isinstance(value, tuple) else value


def _unset(tree: dict[str, Any], path: str) -> None:
    """Take a field out of nested dicts and lists."""
    *names, last = re.findall(r"\w+", path)
    holder: Any = tree
    for name in names:
        holder = holder[int(name) if name.isdecimal() else name]
    del holder[last]

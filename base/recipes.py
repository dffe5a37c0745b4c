"""Recipes: configs as ml_collections has them, from a file or from Python, and what is set on top of them.

A recipe sets only the fields that differ from the defaults. The other fields are filled in from the dataclass that
declares them, before anything is set on top. So references between fields (`get_ref`) follow.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ml_collections import config_dict

from base import schema as schema_module
from base import suggestions
from base.errors import UserError
from base.passwords import check_no_password
from base.schema import Unused
from base.set_fields import Given, settled

T = TypeVar("T")


def settings(
    schema: type[T],
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any],
    unused: Callable[[T], Iterable[Unused]],
) -> tuple[T, Given]:
    """The config of a program: a recipe, and the fields that are set on top of it.

    Args:
      schema: the dataclass type of the config.
      source: a recipe's file, FILE.py or FILE.py:ARGUMENT, or its fields as nested dicts, whose keys may be paths.
      overrides: values by the paths of their fields: {"optimizer.learning_rate": 1e-4}.
      unused: the fields of a config that would have no effect: see `base.set_fields.settled`.

    Returns:
      The config, and the fields that were set, with notes about fields of the recipe that have no effect.

    Raises:
      UserError: a file that fails, an unknown field, an ill-typed or disallowed value, a field without effect.
    """
    if isinstance(source, Mapping):
        config = config_dict.ConfigDict(_nested(source, "config"), type_safe=False)
    else:
        config = load(os.fspath(source), "config")
    paths = {
        f"config.{name.removeprefix('config.')}": _nested(value, name) for name, value in overrides.items()
    }
    given = Given(
        frozenset(schema_module.flatten(plain(config))),
        frozenset(field.removeprefix("config.") for path in paths for field in _fields(path, paths[path])),
    )
    names = suggestions.Names.of(schema, ())
    check_names(config, schema, names, "config", False)
    fill(config, schema, "config", list(paths))
    for path, value in paths.items():
        check_override(config, path, names, lists=True)
        _set(config, path, value)
    built = schema_module.build(schema, plain(config))
    check_passwords(built)
    notes: list[str] = []
    return settled(built, given, unused, notes.append), dataclasses.replace(given, notes=tuple(notes))


def check_passwords(config: Any) -> None:
    """Refuse a config with an address that holds a password.

    Raises:
      UserError: a field has one.
    """
    for field, value in schema_module.flatten(schema_module.as_dict(config)).items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                check_no_password(text, f"config.{field}")


def _nested(value: Any, where: str) -> Any:
    """A value as configs have it: groups are nested dicts, also where a key is a path, and lists are tuples.

    Raises:
      UserError: a key is no text, or two keys set the same field.
    """
    if isinstance(value, list | tuple):
        return tuple(_nested(each, f"{where}[{index}]") for index, each in enumerate(value))
    if not isinstance(value, Mapping):
        return value
    tree: dict[str, Any] = {}
    for name, each in value.items():
        if not isinstance(name, str):
            raise UserError(f"{where} has the field {name!r}; the name of a field should be a text")
        *groups, last = name.removeprefix("config.").split(".")
        _merge(
            tree, functools.reduce(lambda inner, group: {group: inner}, reversed(groups), {last: each}), where
        )
    return {name: _nested(each, f"{where}.{name}") for name, each in tree.items()}


def _merge(tree: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    """Add fields to nested dicts.

    Raises:
      UserError: a field is there already.
    """
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(tree.setdefault(name, {}), dict):
            _merge(tree[name], value, f"{where}.{name}")
        elif name in tree:
            raise UserError(f"{where}.{name} is set twice; set it once")
        else:
            tree[name] = value


def _fields(path: str, value: Any) -> Iterable[str]:
    """The paths of the fields that a value sets: those in it where it is a group or a list of groups."""
    return schema_module.flatten({path: value}) or (path,)


def _set(config: config_dict.ConfigDict, path: str, value: Any) -> None:
    """Set a field; `base.schema.build` checks its type.

    Raises:
      UserError: it is a group, or a member of what is no list.
    """
    *groups, last = re.findall(r"\w+", path)[1:]
    holder: Any = config
    for name in groups:
        holder = holder[int(name) if name.isdecimal() else name]
    present = holder.get(last) if isinstance(holder, config_dict.ConfigDict) else None
    if isinstance(present, config_dict.ConfigDict):
        raise UserError(f"{path} is a group of fields; set each by its own path: '{last}.FIELD'")
    if isinstance(holder, config_dict.ConfigDict):
        with holder.ignore_type():
            holder[last] = value
    elif isinstance(holder, list | tuple):
        index = int(last)
        _set(config, path.rpartition("[")[0], (*holder[:index], value, *holder[index + 1 :]))
    else:
        raise UserError(f"{path}: {path.rpartition('[')[0]} is no list; set it as a whole")


def load(path: str, flag: str = "--config") -> config_dict.ConfigDict:
    """Execute a config file and return the ConfigDict that its get_config([ARG]) gives.

    Args:
      path: FILE.py, or FILE.py:ARG.
      flag: what names it, for messages.

    Raises:
      UserError: there is no such file, it fails, or it gives no ConfigDict.
    """
    name, _, argument = path.partition(":")
    file = Path(name).expanduser()
    if not file.exists():
        raise UserError(
            f"{flag}={path}: there is no file {name!r}; name a recipe, such as configs/quickstart.py"
        )
    module_spec = importlib.util.spec_from_file_location("config_file", file)
    if not file.is_file() or file.suffix != ".py" or module_spec is None or module_spec.loader is None:
        raise UserError(f"{flag}={path}: a config is a Python file (.py) with a function get_config()")
    module: ModuleType = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"{flag}={path} has no function get_config(); it should return the config")
        config = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{flag}={path} is not Python: {one_line(error)}") from error
    except Exception as error:
        line = next(
            (f.lineno for f in traceback.extract_tb(error.__traceback__)[::-1] if f.filename == str(file)), 0
        )
        at = f" in line {line}" if line else ""
        raise UserError(f"{flag}={path} failed{at}: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(config, config_dict.ConfigDict):
        raise UserError(
            f"{flag}={path}: get_config() returned {type(config).__name__}, not an ml_collections ConfigDict"
        )
    return config


def check_names(
    config: config_dict.ConfigDict, schema: type, names: suggestions.Names, where: str, partial: bool
) -> None:
    """Refuse a field of a recipe that does not exist, with the ones that were probably meant."""
    types = typing.get_type_hints(schema)
    for name, value in config.items():
        path = f"{where}.{name}"
        if name not in types:
            if partial:
                continue
            raise UserError(suggestions.unknown_field(path, list(types), names))
        inner = schema_module.member(types[name])
        if not dataclasses.is_dataclass(inner):
            continue
        members = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
        for index, member in members:
            if isinstance(member, Mapping | config_dict.ConfigDict):
                group = config_dict.ConfigDict(member) if isinstance(member, Mapping) else member
                place = path if index is None else f"{path}[{index}]"
                check_names(group, typing.cast(type, inner), names, place, False)


def fill(config: config_dict.ConfigDict, schema: type, where: str, overrides: Sequence[str]) -> None:
    """Add the schema's defaults for the fields that a file leaves out.

    An optional group stays None unless the file sets it or an override reaches into it.
    """
    types = typing.get_type_hints(schema)
    with config.unlocked():
        for field in dataclasses.fields(schema):
            hint, path = _inner(types[field.name]), f"{where}.{field.name}"
            present = config.get(field.name)
            required = hint is types[field.name] or any(name.startswith(f"{path}.") for name in overrides)
            if dataclasses.is_dataclass(hint) and (required or present is not None):
                if present is None:
                    config[field.name] = config_dict.ConfigDict()
                elif not isinstance(present, config_dict.ConfigDict):
                    raise UserError(f"{path}={present!r} should be a group of fields")
                fill(config[field.name], typing.cast(type, hint), path, overrides)
            elif field.name not in config or present is None:
                config[field.name] = _default(field, hint)
            elif isinstance(present, list | tuple) and dataclasses.is_dataclass(_member(hint)):
                members = [config_dict.ConfigDict(m) if isinstance(m, Mapping) else m for m in present]
                for index, member in enumerate(members):
                    if isinstance(member, config_dict.ConfigDict):
                        fill(member, _member(hint), f"{path}[{index}]", overrides)
                config[field.name] = members
            elif (named := schema_module.without_alias(field, present)) is not present:
                del config[field.name]  # ml_collections would refuse a value of another type
                config[field.name] = named
            elif isinstance(present, list) and typing.get_origin(hint) is tuple:
                del config[field.name]  # ml_collections overrides tuples, but not lists
                config[field.name] = tuple(present)


def is_groups(value: Any) -> bool:
    """Whether a value is a list of groups of fields."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], config_dict.ConfigDict)


def check_override(
    config: config_dict.ConfigDict, override: str, names: suggestions.Names, *, lists: bool = False
) -> None:
    """Refuse an override of a field that does not exist, naming those that were probably meant.

    Args:
      config: the recipe, with all fields.
      override: the path of the field, with `config.`.
      names: what the command knows.
      lists: whether lists of groups may be set as a whole.
    """
    holder: Any = config
    where = "config"
    for name in override.split(".")[1:]:
        bare, _, index = name.rstrip("]").partition("[")
        if not isinstance(holder, config_dict.ConfigDict):
            raise UserError(f"{override}: {where} has no fields of its own")
        if bare not in holder:
            asked = override if where == "config" else f"{where}.{bare}"
            raise UserError(suggestions.unknown_field(asked, list(holder), names))
        holder, where = holder.get(bare), f"{where}.{name}"
        if index and isinstance(holder, list | tuple):
            if not index.isdecimal() or int(index) >= len(holder):
                raise UserError(f"{override}: the list has {len(holder)} members, counted from [0]")
            holder = holder[int(index)]
            if isinstance(holder, Mapping):
                return  # this command does not know the fields of this group
    if is_groups(holder) and not lists:
        raise UserError(
            f"{override} is a list of groups; fields of its members can be set: --{override}[0].FIELD=VALUE"
            + (f"; all members can be left out: --{override}=()" if override.count(".") == 1 else "")
        )


def _member(hint: Any) -> Any:
    """The type T of a field `tuple[T, ...]`; None for other types."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def plain(value: Any) -> Any:
    """A ConfigDict as nested dicts, also where lists or tuples hold groups."""
    if isinstance(value, config_dict.ConfigDict):
        value = value.to_dict()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _inner(hint: Any) -> Any:
    """The type T of an optional field `T | None`; other types are themselves."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if type(None) in typing.get_args(hint) else hint


def _default(field: dataclasses.Field[Any], hint: Any) -> Any:
    if field.default is None:
        return config_dict.placeholder(config_dict.ConfigDict if dataclasses.is_dataclass(hint) else hint)
    return field.default


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())

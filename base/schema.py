"""Typed configuration: frozen dataclasses are the one place where a field is declared, checked and explained.

A field is declared with `field(default, "what it is")`, and with its allowed values if they are few. `build` makes such
a dataclass from a nested mapping. It refuses an unknown name, and the message suggests the most similar field. A field
may be newer than saved runs. It can then declare `older=VALUE`, the value that reproduces those runs: see `completed`
and `base.set_fields.as_begun`.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from base.errors import UserError

T = TypeVar("T")

AS_DEFAULT: Any = object()
"""Marks a field without an `older` value; runs saved before the field existed then take its default."""


@dataclasses.dataclass(frozen=True)
class Unused:
    """Fields of a config that nothing reads, because of what other fields say."""

    fields: tuple[str, ...]
    """Paths of the fields, without `config.`; the path of a group covers all fields in the group."""
    because: str
    """The reason; after a semicolon, the correction."""
    by: tuple[str, ...] = ()
    """Paths of the fields whose values cause this; () if the command never reads the unused fields."""
    unless_as_late: bool = False
    """Whether the fields keep their effect if they are set at the same level as `by` (recipe or command line).

    Only fields that are set at an earlier level than `by` are then unused.
    """

    def covers(self, path: str) -> bool:
        """Whether the field of this path is one of them."""
        return is_in(path, self.fields)


def field(
    default: Any,
    doc: str,
    choices: Sequence[Any] | Callable[[], Sequence[Any]] = (),
    *,
    older: Any = AS_DEFAULT,
    aliases: Mapping[str, str] | None = None,
) -> Any:
    """Declare a configuration field.

    Args:
      default: the value of a field that nothing sets; a callable, such as a dataclass type, makes the value.
      doc: one line of documentation.
      choices: the allowed values if they are few, or a function that gives them when they are needed.
      older: the value that reproduces runs that were saved before the field existed; without it they take the default.
      aliases: other names of some values, in lower case; "true" and "false" are also the booleans.
    """
    metadata = {
        "aliases": dict(aliases or {}),
        "doc": doc,
        "choices": choices if callable(choices) else tuple(choices),
        **({} if older is AS_DEFAULT else {"older": older}),
    }
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(schema: type[T], values: Mapping[str, Any], where: str = "config", *, partial: bool = False) -> T:
    """Make an instance of `schema` (a frozen dataclass type) from a nested mapping.

    Args:
      schema: the dataclass type; nested dataclass fields and `tuple[Dataclass, ...]` fields are built too.
      values: field names to values; missing fields take their defaults.
      where: the dotted path of `values`, for messages.
      partial: True ignores top-level names that the schema does not have (a command that uses part of a file).

    Raises:
      UserError: unknown name (with the nearest right one), wrong type, or a value outside the choices.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(schema)
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            if partial:
                continue
            from base.suggestions import unknown_field  # imported here: base.suggestions imports this module

            raise UserError(unknown_field(f"{where}.{name}", list(fields)))
        checked = _coerce(hints[name], without_alias(fields[name], value), f"{where}.{name}")
        choices = choices_of(fields[name])
        if choices and checked not in choices:
            raise UserError(f"{where}.{name}={checked!r} is not one of {', '.join(map(repr, choices))}")
        arguments[name] = checked
    return schema(**arguments)


def without_alias(declared: dataclasses.Field[Any], value: Any) -> Any:
    """The value of a field by the name that its declaration prefers."""
    aliases = declared.metadata.get("aliases", {})
    return aliases.get(str(value).lower(), value) if isinstance(value, bool | str) else value


def may_be_bare(schema: type, where: str = "config") -> set[str]:
    """The paths of the fields that a command line may name without a value: "true" is an alias of one of theirs."""
    found, types = set(), typing.get_type_hints(schema)
    for declared in dataclasses.fields(schema):
        hint, path = types[declared.name], f"{where}.{declared.name}"
        if dataclasses.is_dataclass(hint):
            found |= may_be_bare(typing.cast(type, hint), path)
        elif "true" in declared.metadata.get("aliases", {}):
            found.add(path)
    return found


def choices_of(declared: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """The allowed values of a field that was declared with `field`; () if every value of its type is allowed."""
    choices = declared.metadata.get("choices", ())
    return tuple(choices() if callable(choices) else choices)


def _coerce(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _coerce(options[0], value, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{path}={value!r} should be a group of fields")
        return build(typing.cast(type, hint), value, path)
    if origin is tuple:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise UserError(f"{path}={value!r} should be a list")
        item = typing.get_args(hint)[0]
        if item is str:  # the command line parser turns a name such as 2024 into a number
            value = [json.dumps(part) if isinstance(part, int | float) else part for part in value]
        return tuple(_coerce(item, part, f"{path}[{i}]") for i, part in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{path}={value!r} should be of type {hint.__name__}, not {type(value).__name__}")
    return value


def member(hint: Any) -> Any:
    """The type T of an optional field `T | None` or of a list `tuple[T, ...]`; any other type is returned unchanged."""
    options = [option for option in typing.get_args(hint) if option not in (type(None), Ellipsis)]
    return options[0] if options and typing.get_origin(hint) is not dict else hint


def as_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as nested JSON-able dicts and lists: the inverse of `build`."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def is_in(path: str, fields: Sequence[str]) -> bool:
    """Whether a field is one of `fields`, or lies in one that is a group or a list."""
    return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fields)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def completed(saved: Mapping[str, Any], schema: type[Any]) -> dict[str, Any]:
    """Add the fields that `schema` has gained since a config was saved (as nested dicts).

    An added field gets its `older` value, or else its default. The members of lists are completed too.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    known = {
        name: _completed_value(without_alias(fields[name], value), member(hints[name]))
        if name in fields
        else value
        for name, value in saved.items()
    }
    return {name: older_value(f) for name, f in fields.items() if name not in saved} | known


def _completed_value(value: Any, schema: Any) -> Any:
    if not dataclasses.is_dataclass(schema):
        return value
    if isinstance(value, Mapping):
        return completed(value, typing.cast(type, schema))
    if isinstance(value, list | tuple):
        return [_completed_value(each, schema) for each in value]
    return value


def older_value(declared: dataclasses.Field[Any]) -> Any:
    """The value of a field in runs that were saved before the field existed, in the form that `as_dict` gives."""
    if "older" in declared.metadata:
        return _plain(declared.metadata["older"])
    if declared.default_factory is not dataclasses.MISSING:
        made = declared.default_factory()
        return completed({}, type(made)) if dataclasses.is_dataclass(made) else _plain(made)
    return _plain(declared.default)


def restored(schema: type[T], saved: Mapping[str, Any]) -> T:
    """Make the config dataclass of a saved run. Fields that did not exist when it was saved are added."""
    return build(schema, completed(saved, schema))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to {'a.b': value}; lists are indexed as a[0].b."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{path}."))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for index, item in enumerate(value):
                flat.update(flatten(item, f"{path}[{index}]."))
        else:
            flat[path] = value
    return flat


def changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested dicts that differ from the defaults. Lists become tuples, as a config has them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        usual = defaults.get(name)
        if isinstance(value, Mapping):
            value = changed(value, usual or {})
            if value:
                found[name] = value
        elif value != usual:
            found[name] = tuple(value) if isinstance(value, list) else value
    return found


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that differ between two configs as nested dicts: {'a.b': (saved, current)}."""
    before, after = flatten(saved), flatten(current)
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }

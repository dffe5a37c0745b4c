"""Compile equal functions once in a process: a test spends most of its time on what another has compiled before.

JAX keeps what it traced and compiled of a function by the function's identity. A run makes its step anew, as a closure,
so a run that goes on, or another test's run, traces and compiles the same program again. `install` replaces `jax.jit`
and `jax.eval_shape`: of functions with the same code and equal contents they take the first one. They do so where this
project's modules call them, and not while a test replaces something that traced code may call. `nnx.eval_shape`, by
which a network knows its shapes, makes its modules of what it has found the first time.
"""

import dataclasses
import functools
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

CALLERS = ("pretrain", "finetune")
"""Packages whose functions are shared."""
TRACED = (
    *(f"pretrain.{name}" for name in ("models", "objective", "optim", "devices")),
    *(f"finetune.{name}" for name in ("classifier", "population")),
    *("jax", "optax", "flax"),
)
"""Packages that traced code calls: while a test replaces something in them, nothing is shared."""
UNTRACED = (
    *(f"pretrain.objective.{name}" for name in ("held_out_cache", "token_counts")),
    *("pretrain.devices.hardware", "pretrain.models.weight_files", "jax.profiler", "jax.devices"),
)
"""Of these packages, what no traced code calls."""
MOST = 200
"""Functions that are kept; each keeps its compiled programs in memory."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))

_first: dict[Any, Callable[..., Any]] = {}
_pauses: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""What has been replaced, or set, while nothing is shared."""
_modules: dict[Any, Any] = {}
"""Abstract modules, taken apart."""
_jit, _eval_shape, _nnx_eval_shape, _setattr, _undo = (
    jax.jit,
    jax.eval_shape,
    nnx.eval_shape,
    pytest.MonkeyPatch.setattr,
    pytest.MonkeyPatch.undo,
)


def install() -> None:
    """Share equal functions from now on."""
    jax.jit = jit
    jax.eval_shape = eval_shape
    nnx.eval_shape = nnx_eval_shape
    pytest.MonkeyPatch.setattr = setattr_  # type: ignore[method-assign]
    pytest.MonkeyPatch.undo = undo  # type: ignore[method-assign]


def jit(function: Any = None, /, **options: Any) -> Any:
    """`jax.jit` of the first function that equals this one."""
    if function is None:
        return _jit(**options)
    return _jit(first_of(function, caller()), **options)


def eval_shape(function: Any, *arguments: Any, **more: Any) -> Any:
    """`jax.eval_shape` of the first function that equals this one."""
    return _eval_shape(first_of(function, caller()), *arguments, **more)


def nnx_eval_shape(make: Any, *arguments: Any, **more: Any) -> Any:
    """`nnx.eval_shape`, of equal functions without arguments once; modules are made anew, since they may be changed."""
    if _pauses or caller() not in CALLERS or arguments or more:
        return _nnx_eval_shape(make, *arguments, **more)
    key = contents(make)
    parts = _modules.pop(key, None) or nnx.split(_nnx_eval_shape(make))
    _modules[key] = parts
    if len(_modules) > MOST:
        del _modules[next(iter(_modules))]
    return nnx.merge(*parts)


def caller() -> str:
    """The package of the function that called this one's caller."""
    name: str = sys._getframe(2).f_globals.get("__name__", "")
    return name.partition(".")[0]


def first_of(function: Callable[..., Any], package: str) -> Callable[..., Any]:
    """The first function with the same code and equal contents, where those of the package are shared."""
    if _pauses or package not in CALLERS:
        return function
    key = contents(function)
    found = _first.pop(key, function)
    _first[key] = found
    if len(_first) > MOST:
        del _first[next(iter(_first))]
    return found


def contents(value: Any, within: tuple[int, ...] = ()) -> Any:
    """What two values have in common exactly where they are interchangeable in a program; hashable.

    An object that is neither plain data nor comparable is equal to itself alone. `within` are the identities of the
    values around it, for functions that call themselves.
    """
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if id(value) in within:
        return "around", len(within) - within.index(id(value))
    inside = functools.partial(contents, within=(*within, id(value)))
    if isinstance(value, types.FunctionType):
        cells = [inside(cell) for cell in value.__closure__ or ()]
        own = (value.__defaults__, value.__kwdefaults__)
        return "function", id(value.__globals__), value.__code__, *map(inside, own), *cells
    if isinstance(value, types.CellType):
        return ("cell", inside(value.cell_contents)) if cell_is_full(value) else ("cell",)
    if isinstance(value, types.MethodType):
        return "method", inside(value.__func__), inside(value.__self__)
    if isinstance(value, functools.partial):
        return "partial", inside(value.func), inside(value.args), inside(value.keywords)
    if isinstance(value, tuple | list):
        return type(value), *map(inside, value)
    if isinstance(value, dict):
        return type(value), *((inside(name), inside(each)) for name, each in value.items())
    if isinstance(value, np.ndarray) or (
        isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    ):
        return array_contents(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value), *(inside(getattr(value, field.name)) for field in dataclasses.fields(value))
    return Same(value)


def cell_is_full(cell: types.CellType) -> bool:
    """Whether a variable of a closure has been set."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def array_contents(array: Any) -> Any:
    """The numbers of an array, its type and where it is; a key of a random generator is taken for its numbers."""
    where = array.sharding if isinstance(array, jax.Array) else None
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return str(array.dtype), where, np.asarray(jax.random.key_data(array)).tobytes()
    return type(array), str(array.dtype), array.shape, where, np.asarray(array).tobytes()


class Same:
    """Equal to what holds the same object; or an equal one of a type that says what is equal."""

    def __init__(self, value: Any):
        self.value = value
        self.comparable = type(value).__eq__ is not object.__eq__ and type(value).__hash__ is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return False
        return self.value is other.value or (
            self.comparable and type(self.value) is type(other.value) and bool(self.value == other.value)
        )

    def __hash__(self) -> int:
        return hash(self.value) if self.comparable else id(self.value)


class Pause:
    """While this is open nothing is shared: what JAX compiles depends on something that functions do not hold."""

    def __enter__(self) -> None:
        _pauses.add(self)

    def __exit__(self, *error: object) -> None:
        _pauses.discard(self)


class Apart:
    """While this is open, functions are shared among themselves alone: all call what a module of tests has replaced."""

    def __enter__(self) -> None:
        self._kept = [(shared, dict(shared)) for shared in (_first, _modules)]
        for shared, _ in self._kept:
            shared.clear()

    def __exit__(self, *error: object) -> None:
        for shared, kept in self._kept:
            shared.clear()
            shared.update(kept)


def setattr_(self: pytest.MonkeyPatch, target: Any, name: Any, *rest: Any, **options: Any) -> None:
    """Replace something as pytest does, and pause where traced code may call it."""
    _setattr(self, target, name, *rest, **options)
    if isinstance(target, str):
        place = target
    elif isinstance(target, types.ModuleType):
        place = f"{target.__name__}.{name}"
    else:
        place = (target if isinstance(target, type) else type(target)).__module__
    if within(place, TRACED) and not within(place, UNTRACED):
        _pauses.add(self)


def within(place: str, places: tuple[str, ...]) -> bool:
    """Whether a name with its module is one of these, or in one of them."""
    return any(place == each or place.startswith(f"{each}.") for each in places)


def undo(self: pytest.MonkeyPatch) -> None:
    """Put everything back as pytest does."""
    _undo(self)
    _pauses.discard(self)

"""Functions that tests compile once: which count as equal, and when none do."""

import dataclasses
import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pretrain.objective.train_step import make_train_step
from pretrain.optim import train_state
from tests import traced_once
from tests.traced_once import Apart, Pause, contents, first_of


def adder(value):
    """A closure, as a run makes its step."""

    def add(x):
        return x + value

    return add


def factorial(base):
    def times(x, n):
        return x if n <= base else n * times(x, n - 1)

    return times


@dataclasses.dataclass(frozen=True)
class Net:
    width: int

    def init(self, x):
        return x * self.width


EQUAL = {
    "a number": lambda: adder(2.5),
    "an array": lambda: adder(np.arange(3)),
    "an array on a device": lambda: adder(jnp.arange(3.0)),
    "a random key": lambda: adder(jax.random.key(3)),
    "nested": lambda: adder({"a": [1, (2, adder(3))]}),
    "a part of a function": lambda: functools.partial(adder, 3),
    "a method of an equal network": lambda: Net(4).init,
    "a function that calls itself": lambda: factorial(1),
    "an optimizer": lambda: optax.adamw(1e-3, b1=0.8).update,
    "a type": lambda: adder(jnp.float32),
    "a layout": lambda: adder(jax.sharding.SingleDeviceSharding(jax.devices()[1])),
}
OTHERS = {
    "a number": (adder(2), adder(3)),
    "of another type": (adder(1), adder(True)),
    "zero of another sign": (adder(0.0), adder(-0.0)),
    "an array": (adder(np.arange(3)), adder(np.arange(3) + 1)),
    "an array of another type": (adder(np.zeros(3, np.int32)), adder(np.zeros(3, np.float32))),
    "an array of another shape": (adder(np.zeros((2, 3))), adder(np.zeros((3, 2)))),
    "an array on another device": tuple(
        adder(jax.device_put(jnp.arange(3), device)) for device in jax.devices()[:2]
    ),
    "a random key": (adder(jax.random.key(3)), adder(jax.random.key(4))),
    "a function within": (adder(adder(1)), adder(adder(2))),
    "a method of another network": (Net(4).init, Net(5).init),
    "an object": (adder(object()), adder(object())),
    "an optimizer": (optax.adamw(1e-3, b1=0.8).update, optax.adamw(1e-3, b1=0.9).update),
    "a function with other code": (lambda x: x + 1, lambda x: x - 1),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_functions_made_alike_are_equal(kind):
    one, other = EQUAL[kind](), EQUAL[kind]()
    assert contents(one) == contents(other) and hash(contents(one)) == hash(contents(other))


@pytest.mark.parametrize("kind", OTHERS)
def test_functions_that_differ_in_anything_are_not(kind):
    one, other = OTHERS[kind]
    assert contents(one) != contents(other)


def test_the_first_of_equal_functions_is_taken_for_packages_of_the_project_only():
    one, other = adder("the first of all"), adder("the first of all")
    assert first_of(other, "tests") is other
    assert first_of(one, "pretrain") is one
    assert first_of(other, "pretrain") is first_of(other, "finetune") is one
    assert first_of(other, "optax") is other


def test_a_function_that_is_equal_is_traced_once():
    traced = []

    def noting(value, note=traced.append):
        def add(x):
            note(value)
            return x + value

        return add

    assert [float(traced_once._jit(first_of(noting(2.0), "pretrain"))(1.0)) for _ in range(2)] == [3.0, 3.0]
    assert float(traced_once._jit(first_of(noting(5.0), "pretrain"))(1.0)) == 6.0
    assert traced == [2.0, 5.0]


@pytest.mark.parametrize(
    ("target", "name", "shared"),
    [
        ("pretrain.optim.train_state.random_key", None, False),
        (train_state, "random_key", False),
        (train_state.TrainState, "__repr__", False),
        ("jax.nn.gelu", None, False),
        ("jax.profiler.start_trace", None, True),
        (jax, "devices", True),
        ("pretrain.job.make_mesh", None, True),
    ],
)
def test_nothing_is_shared_while_what_traced_code_calls_is_replaced(target, name, shared):
    one, other = adder(f"before {target} {name}"), adder(f"before {target} {name}")
    assert first_of(one, "pretrain") is one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*(target, make_train_step) if name is None else (target, name, make_train_step))
        assert (first_of(other, "pretrain") is one) == shared
    assert first_of(other, "pretrain") is one


def test_nothing_is_shared_in_a_pause():
    one, other = adder("paused"), adder("paused")
    assert first_of(one, "pretrain") is one
    with Pause():
        assert first_of(other, "pretrain") is other
    assert first_of(other, "pretrain") is one


def test_what_was_used_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(traced_once, "_first", {})
    monkeypatch.setattr(traced_once, "MOST", 2)
    kept, forgotten, new = (adder(("most", number)) for number in range(3))
    for each in (forgotten, kept, forgotten, kept, new):
        first_of(each, "pretrain")
    assert list(traced_once._first.values()) == [kept, new]


def test_the_project_compiles_by_it():
    assert jax.jit is traced_once.jit and jax.eval_shape is traced_once.eval_shape


def test_modules_of_a_function_that_is_equal_are_alike_and_of_their_own(monkeypatch):
    monkeypatch.setattr(traced_once, "caller", lambda: "pretrain")
    made: deque[int] = deque()  # equal to itself alone, whatever it holds

    def maker(width):
        def make():
            made.append(width)
            return nnx.Linear(width, 2, rngs=nnx.Rngs(0))

        return make

    first, second, other = (nnx.eval_shape(maker(width)) for width in (3, 3, 4))
    assert list(made) == [3, 4]
    assert first.kernel.shape == second.kernel.shape == (3, 2) and other.kernel.shape == (4, 2)
    second.kernel = None
    assert nnx.eval_shape(maker(3)).kernel.shape == first.kernel.shape == (3, 2)


def test_functions_apart_are_shared_among_themselves_alone():
    before, apart, same, after = (adder(7.25) for _ in range(4))
    assert first_of(before, "pretrain") is before
    with Apart():
        assert first_of(apart, "pretrain") is apart and first_of(same, "pretrain") is apart
    assert first_of(after, "pretrain") is before

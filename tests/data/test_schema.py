"""Typed configuration."""

from dataclasses import dataclass

import pytest

from base.errors import UserError
from base.schema import as_dict, build, completed, field, flatten, restored


@dataclass(frozen=True)
class Inner:
    size: int = field(3, "a size")
    kind: str = field("a", "a kind", ("a", "b"))


@dataclass(frozen=True)
class Outer:
    rate: float = field(0.5, "a rate")
    on: bool = field(False, "a switch")
    steps: int | None = field(None, "a number or nothing")
    inner: Inner = field(Inner, "a group")
    parts: tuple[Inner, ...] = field((), "several groups")
    words: tuple[str, ...] = field((), "several words")


def test_nested_values_become_dataclasses():
    built = build(
        Outer, {"rate": 1, "inner": {"size": 7}, "parts": [{"kind": "b"}], "words": ["x"], "steps": 4}
    )
    assert built == Outer(1.0, False, 4, Inner(7), (Inner(kind="b"),), ("x",))
    assert isinstance(built.rate, float)


def test_names_that_are_numbers_may_be_given_as_such():
    assert build(Outer, {"words": [1, -2.0, "003", True]}).words == ("1", "-2.0", "003", "true")


def test_what_was_saved_before_a_field_was_added_has_its_default():
    saved = {"rate": 2.0, "inner": {"size": 4}, "parts": [{"size": 1}], "gone": 1}
    assert completed(saved, Outer) == {
        **as_dict(Outer()),
        **{"rate": 2.0, "inner": {"size": 4, "kind": "a"}, "parts": [{"size": 1, "kind": "a"}], "gone": 1},
    }
    del saved["gone"]
    assert restored(Outer, saved) == Outer(2.0, inner=Inner(4), parts=(Inner(1),))


@dataclass(frozen=True)
class Member:
    multiple: int = field(128, "a new field", older=1)


@dataclass(frozen=True)
class Newer:
    rate: float | None = field(0.15, "a new field", older=None)
    lengths: tuple[int, ...] = field((), "a new list", older=(4, 8))
    group: Member = field(Member, "a group")
    maybe: Member | None = field(None, "a group or nothing")
    parts: tuple[Member, ...] = field((), "several groups")


def test_what_was_saved_before_a_field_was_added_has_the_value_that_reproduces_it():
    assert Newer() == build(Newer, {}) == Newer(0.15, (), Member(128))
    whole = {"rate": None, "lengths": [4, 8], "group": {"multiple": 1}, "maybe": None, "parts": []}
    assert completed({}, Newer) == whole
    assert completed({"group": {}}, Newer) == whole
    assert completed({"rate": 0.4, "maybe": {}, "parts": [{}, {"multiple": 7}]}, Newer) == {
        **whole,
        **{"rate": 0.4, "maybe": {"multiple": 1}, "parts": [{"multiple": 1}, {"multiple": 7}]},
    }


def test_as_dict_is_the_inverse_of_build():
    outer = Outer(steps=2, parts=(Inner(1), Inner(2)))
    assert build(Outer, as_dict(outer)) == outer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1.0}, "config.rat is not a field; did you mean 'rate'?"),
        ({"inner": {"sise": 1}}, "config.inner.sise is not a field; did you mean 'size'?"),
        ({"inner": {"kind": "c"}}, "config.inner.kind='c' is not one of 'a', 'b'"),
        ({"inner": {"size": 1.5}}, "config.inner.size=1.5 should be of type int, not float"),
        ({"inner": 3}, "config.inner=3 should be a group of fields"),
        ({"on": 1}, "config.on=1 should be of type bool, not int"),
        ({"inner": {"size": True}}, "config.inner.size=True should be of type int, not bool"),
        ({"steps": "x"}, "config.steps='x' should be of type int, not str"),
        ({"parts": {"size": 1}}, "config.parts={'size': 1} should be a list"),
        ({"parts": [{"size": "x"}]}, "config.parts[0].size='x' should be of type int, not str"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UserError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_a_partial_build_ignores_other_fields_at_the_top_only():
    assert build(Outer, {"other": 1, "rate": 0.25}, partial=True).rate == 0.25
    with pytest.raises(UserError):
        build(Outer, {"inner": {"other": 1}}, partial=True)


def test_flatten_names_lists_by_index():
    assert flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3]}) == {"a.b": 1, "c[0].d": 2, "e": [3]}

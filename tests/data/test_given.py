"""A field that is set acts, gives way to a later setting with a note, or is refused in one line."""

import dataclasses

import pytest

from base.errors import UserError
from base.schema import Unused, as_dict, field
from base.set_fields import DEFAULT, LINE, RECIPE, Given, as_begun, settled
from data.config import DataConfig, SourceConfig
from data.config import unused_fields as unused_of_data


@dataclasses.dataclass(frozen=True)
class Group:
    kind: str = field("a", "the kind")
    size: int = field(4, "of kind b")
    name: str = field("", "of kind b")


@dataclasses.dataclass(frozen=True)
class Config:
    group: Group = field(Group, "a group")
    steps: int = field(3, "steps")


def unused(config):
    because = "config.group.kind='a' does not read it; unset it"
    return (
        [Unused(("group.size", "group.name"), because, ("group.kind",))] if config.group.kind == "a" else []
    )


def given(recipe=(), line=()):
    return Given(frozenset(recipe), frozenset(line))


def test_where_a_field_is_set_is_known_of_groups_and_lists_too():
    where = given(["data.name", "phases[0].steps"], ["data.mix[1].path", "steps"])
    assert [where.level(path) for path in ("data.name", "phases", "seed")] == [RECIPE, RECIPE, DEFAULT]
    assert [where.level(path) for path in ("data", "data.mix[1].path", "steps")] == [LINE, LINE, LINE]


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (["group.size"], []),
        ([], ["group.size"]),
        (["group.kind"], ["group.size"]),
        (["group.kind", "group.size"], []),
        ([], ["group.kind", "group.size"]),
    ],
    ids=["a recipe's", "a line's", "after the reason", "both in the recipe", "both on the line"],
)
def test_a_field_without_effect_is_refused(recipe, line):
    with pytest.raises(UserError) as error:
        settled(Config(Group(size=9)), given(recipe, line), unused)
    assert str(error.value) == (
        "config.group.size=9 has no effect: config.group.kind='a' does not read it; unset it"
    )


def test_a_field_of_the_recipe_gives_way_to_what_the_command_line_sets():
    notes = []
    config = settled(
        Config(Group(size=9), 5), given(["group.size", "steps"], ["group.kind"]), unused, notes.append
    )
    assert config == Config(Group(), 5)
    assert notes == [
        "without effect in the recipe: config.group.size=9; config.group.kind='a' does not read it"
    ]


def test_a_field_that_acts_or_is_set_to_nothing_is_let_be():
    for config, line in (
        (Config(Group(kind="b", size=9)), ["group.size", "group.kind"]),
        (Config(Group(name="")), ["group.name"]),
        (Config(Group(size=9)), []),
    ):
        assert settled(config, given([], line), unused) == config


def test_what_a_command_does_not_read_is_refused_on_its_command_line_alone():
    def unread(config):
        return [Unused(("group",), "this command does not read it; leave it out")]

    assert settled(Config(Group(size=9)), given(["group.size"]), unread) == Config()
    with pytest.raises(
        UserError, match=r"config\.group\.size=9 has no effect: this command does not read it"
    ):
        settled(Config(Group(size=9)), given([], ["group.size"]), unread)


def unused_of_source(config):
    """The fields of `config.data` that nothing reads, for a config that is no more than it."""
    return [
        dataclasses.replace(
            each,
            fields=tuple(name.removeprefix("data.") for name in each.fields),
            by=tuple(name.removeprefix("data.") for name in each.by),
        )
        for each in unused_of_data(config)
    ]


def test_a_field_of_a_member_of_a_list_gives_way():
    mix = (SourceConfig(source="files", path="a", name="b"),)
    config = DataConfig(source="mix", mix=mix, text_field="body")
    where = given(["mix[0].name", "text_field", "mix[0].path"], ["mix[0].source", "source"])

    changed = settled(config, where, unused_of_source, lambda note: None)
    assert changed == DataConfig(source="mix", mix=(SourceConfig(source="files", path="a"),))


def test_a_list_gives_way_with_all_its_members():
    mix = (SourceConfig(source="files", path="a"), SourceConfig(source="hub", name="c"))
    config = DataConfig(source="files", path="a.csv", mix=mix)
    members = ["mix[0].source", "mix[0].path", "mix[1].source", "mix[1].name"]
    where = given(["source", *members], ["source", "path"])
    assert settled(config, where, unused_of_source, lambda note: None) == DataConfig("files", "a.csv")


def test_a_recipe_may_list_every_field_at_its_default_but_on_the_line_one_is_set():
    assert settled(Config(), given(["group", "group.size", "steps"]), unused) == Config()
    with pytest.raises(UserError, match=r"config\.group\.size=4 has no effect"):
        settled(Config(), given([], ["group.size"]), unused)


@dataclasses.dataclass(frozen=True)
class Stretch:
    steps: int = field(1, "steps")
    objective: str = field("new", "a newer field", older="old")


@dataclasses.dataclass(frozen=True)
class Newer:
    rate: float | None = field(0.15, "a newer field", older=None)
    steps: int = field(3, "steps")
    last: Stretch = field(Stretch, "a group")
    stretches: tuple[Stretch, ...] = field((), "several groups")


def older(config, *fields):
    """The config as a run saved it that did not have these fields."""
    tree = as_dict(config)
    for name in fields:
        tree.pop(name)
    return tree


def test_an_older_run_goes_on_as_it_was_where_a_newer_field_is_not_set():
    config = Newer(last=Stretch(2), stretches=(Stretch(4), Stretch(5)))
    saved = {"steps": 3, "last": {"steps": 2}, "stretches": [{"steps": 4}]}
    kept = Newer(None, 3, Stretch(2, "old"), (Stretch(4, "old"), Stretch(5)))
    assert as_begun(config, saved, given(["last.steps", "stretches[0].steps"])) == kept
    # When it is saved again it has the field, and goes on so.
    assert as_begun(config, as_dict(kept), given()) == kept


def test_a_newer_field_that_is_set_is_a_change_of_an_older_run_like_any_other():
    saved = older(Newer(), "rate")
    for config, set_in in (
        (Newer(0.15), given(["rate"])),
        (Newer(0.15), given(line=["rate"])),
        (Newer(0.4), given()),
    ):
        assert as_begun(config, saved, set_in) == config


def test_a_run_that_was_saved_with_another_value_takes_that_of_its_command():
    assert as_begun(Newer(), as_dict(Newer(0.4)), given()) == Newer()
    assert as_begun(Newer(), as_dict(Newer()), given()) == Newer()

"""Values that a program sets: configs passed back, keys that are paths, members of lists, groups as a whole."""

import re

import pytest

from base import schema
from base.errors import UserError
from base.recipes import settings
from pretrain.config import PretrainConfig
from pretrain.unused_fields import unused_fields

MIX = {"data": {"source": "mix", "mix": [{"source": "files", "path": "a.txt"}, {"source": "pydoc"}]}}
PHASES = {"phases": [{"steps": 5}, {"steps": 7, "seq_len": 64}]}


def made(source: dict, overrides: dict | None = None) -> PretrainConfig:
    return settings(PretrainConfig, source, overrides or {}, unused_fields)[0]


@pytest.mark.parametrize("source", [MIX, PHASES, MIX | PHASES])
def test_a_config_with_lists_of_groups_can_be_passed_back(source):
    config = made(source)
    assert config.phases or config.data.mix
    assert made(schema.changed(schema.as_dict(config), schema.as_dict(PretrainConfig()))) == config
    assert made(schema.as_dict(config)) == config
    assert (
        made({name: tuple(value) if name == "phases" else value for name, value in source.items()}) == config
    )


def test_keys_of_a_dict_may_be_paths():
    nested = made({"optimizer": {"learning_rate": 1e-4, "eps": 1e-6}, "data": {"filters": {"min_chars": 3}}})
    paths = {"optimizer.learning_rate": 1e-4, "optimizer": {"eps": 1e-6}, "config.data.filters.min_chars": 3}
    assert made(paths) == nested
    mix = made({"data.source": "mix", "data.mix": [{"source": "pydoc", "filters.min_chars": 3}]}).data.mix
    assert mix[0].filters.min_chars == 3


def test_a_member_of_a_list_can_be_set():
    trackers = {"log.trackers": ["wandb", "mlflow"]}
    assert made(trackers, {"log.trackers[0]": "trackio"}).log.trackers == ("trackio", "mlflow")
    assert [phase.steps for phase in made(PHASES, {"phases[0]": {"steps": 9}}).phases] == [9, 7]
    assert [phase.steps for phase in made(PHASES, {"phases[1].steps": 9}).phases] == [5, 9]


def test_a_group_that_is_set_as_a_whole_sets_only_its_own_fields():
    config = made({}, {"data.eval_source": {"source": "files", "path": "x.txt"}})
    assert config.data.eval_source is not None and config.data.eval_source.path == "x.txt"
    config = made({}, {"data.source": "mix", "data.mix": MIX["data"]["mix"]})
    assert [member.source for member in config.data.mix] == ["files", "pydoc"]
    with pytest.raises(UserError, match=r"config\.data\.eval_source\.revision='a' has no effect"):
        made({}, {"data.eval_source": {"source": "files", "path": "x.txt", "revision": "a"}})


@pytest.mark.parametrize(
    ("source", "overrides", "said"),
    [
        ({"steps": 3, "config.steps": 4}, {}, "config.steps is set twice; set it once"),
        ({"optimizer.eps": 1.0, "optimizer": 3}, {}, "config.optimizer is set twice; set it once"),
        ({3: 4}, {}, "config has the field 3; the name of a field should be a text"),
        ({}, {"init_from[0]": "a"}, "config.init_from[0]: config.init_from is no list; set it as a whole"),
        ({}, {"log.trackers[5]": "a"}, "config.log.trackers[5]: the list has 1 members, counted from [0]"),
    ],
)
def test_a_value_that_cannot_be_set_is_one_line(source, overrides, said):
    with pytest.raises(UserError, match=re.escape(said)):
        made(source, overrides)

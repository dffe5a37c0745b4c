"""What a run's folder remembers, and what may change on resume."""

import dataclasses
import json

import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict
from pretrain import resume
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.changes import check_unchanged
from tests.tiny import tiny_config


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path / "text.txt")


def test_the_config_is_kept_as_json(tmp_path, config):
    workdirs.write_config(epath.Path(tmp_path), config)
    assert workdirs.read_config(epath.Path(tmp_path)) == json.loads(json.dumps(as_dict(config)))


def test_safe_fields_may_change(config):
    changed = dataclasses.replace(
        config,
        log=dataclasses.replace(config.log, every=7),
        eval=dataclasses.replace(config.eval, steps=9),
        checkpoint=dataclasses.replace(config.checkpoint, keep=9),
        data=dataclasses.replace(config.data, prefetch=9),
        mesh=dataclasses.replace(config.mesh, data=1, fsdp=8),
    )
    assert check_unchanged(resume.RULES, as_dict(config), changed, accept=False) == {}


def test_other_changes_are_listed_and_refused_unless_accepted(config):
    changed = dataclasses.replace(config, steps=9, masking=dataclasses.replace(config.masking, rate=0.25))
    with pytest.raises(UserError) as caught:
        check_unchanged(resume.RULES, as_dict(config), changed, accept=False)
    for part in ("config.steps was 8, is 9", "config.masking.rate was 0.15, is 0.25", "--accept_changes"):
        assert part in str(caught.value)
    accepted = check_unchanged(resume.RULES, as_dict(config), changed, accept=True)
    assert accepted == {"steps": (8, 9), "masking.rate": (0.15, 0.25)}


def test_the_network_cannot_change_whatever_is_accepted(config):
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden_size=48))
    for accept in (False, True):
        with pytest.raises(UserError, match=r"cannot change: config\.model\.hidden_size was 32, is 48"):
            check_unchanged(resume.RULES, as_dict(config), changed, accept=accept)


def test_a_run_goes_on_where_its_recipes_tokenizer_gives_way_now_but_not_with_another(config):
    begun = dataclasses.replace(
        config, init_from="x", tokenizer=dataclasses.replace(config.tokenizer, path="theirs")
    )
    given_way = dataclasses.replace(config, init_from="x")
    assert check_unchanged(resume.RULES, as_dict(begun), given_way, accept=False) == {}
    with pytest.raises(UserError, match=r"cannot change: config\.tokenizer\.path was '', is 'theirs'"):
        check_unchanged(resume.RULES, as_dict(given_way), begun, accept=True)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json"):
        workdirs.read_config(epath.Path(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"is damaged .*: delete it, and run"):
        workdirs.read_config(epath.Path(tmp_path))


@pytest.mark.parametrize("name", ["run[1]", "what?/run", "a*b", "a\\b", "\\<mask>"])
def test_a_folder_that_checkpoints_could_not_be_read_from_is_refused_and_not_made(tmp_path, name):
    with pytest.raises(
        UserError, match=r"checkpoints could not be read again; name a folder without"
    ) as raised:
        workdirs.prepare(epath.Path(tmp_path / name))
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []

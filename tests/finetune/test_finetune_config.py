"""What a fine-tuning config may not say; model cards tell a hub id from a path."""

from dataclasses import replace

import pytest

from base import schema
from base.errors import UserError
from finetune.config import FinetuneConfig, check_values
from finetune.job import sources
from finetune.resume import changes
from pretrain import resume as of_pretraining
from pretrain.config import PretrainConfig
from pretrain.publish.public_names import shown_source
from pretrain.runtime.changes import changes as changes_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "config.seed=-1 should be 0 or more"),
        ({"seed": 2**31 - 2, "seeds": 3}, "with config.seeds=3 at most 2147483645"),
        ({"learning_rates": (1e-5, 3e-5, 1e-5)}, "has one of them twice"),
        ({"learning_rates": (1e-5, 1.0000001e-5)}, "has one of them twice"),
        (
            {"time_limit": -7.0},
            "config.time_limit=-7 should be a number of seconds, 0 (measured) or -1 (no limit)",
        ),
        ({"seeds": 2, "patience": 1}, "set config.eval.restore_best=True, or train one run"),
    ],
)
def test_values_out_of_range_are_one_line(changes, message):
    config = FinetuneConfig(task="rte", init_from="x")
    if "patience" in changes:
        config = replace(config, eval=replace(config.eval, patience=changes["patience"], restore_best=False))
        changes = {"seeds": changes["seeds"]}
    check_values(config)
    with pytest.raises(UserError) as error:
        check_values(replace(config, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (
            "runs/x/examples/{}-0123456789ab.parquet",
            "/home/me\\,you/x/examples/{}-0123456789ab.parquet",
            True,
        ),
        ("examples/{}-0123456789ab.parquet", "runs/x/examples/{}-0123456789ab.parquet", True),
        ("runs/x/examples/{}-0123456789ab.parquet", "runs/x/examples/{}-0123456789ac.parquet", False),
        (
            "runs/x/examples/{}-0123456789ab.parquet",
            "more.csv,runs/x/examples/{}-0123456789ab.parquet",
            False,
        ),
        ("runs/x/{}.parquet", "/runs/x/{}.parquet", False),
    ],
)
def test_examples_of_a_program_are_the_same_wherever_its_folder_is(old, new, same):
    def finetune(path: str) -> FinetuneConfig:
        files = {name: path.format(name) for name in ("train", "validation", "test")}
        return schema.build(FinetuneConfig, {"init_from": "x", "data": {"source": "files", **files}})

    def pretrain(path: str) -> PretrainConfig:
        return schema.build(PretrainConfig, {"data": {"source": "files", "path": path.format("train")}})

    assert (not changes(schema.as_dict(finetune(old)), finetune(new))) == same
    saved = schema.as_dict(pretrain(old))
    assert (not changes_of(of_pretraining.RULES, saved, pretrain(new))) == same


def test_a_path_shows_its_last_part_and_a_hub_id_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert shown_source("runs/mine") == "mine"
    assert shown_source("owner/name") == "owner/name"
    assert shown_source("gs://bucket/runs/mine/") == "mine"


@pytest.mark.parametrize("init_from", ["./none", "../none", "/none/x", "~/none", "a/b/none", "no folder"])
def test_a_mistyped_folder_is_one_line_without_a_question_to_the_hub(init_from, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    with pytest.raises(
        UserError, match=f"config.init_from='{init_from}': there is no such folder; set it to"
    ):
        sources(init_from)

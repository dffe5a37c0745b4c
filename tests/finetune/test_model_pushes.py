"""Models of a fine-tuning run that trains go to branches of a repository."""

import json
from types import SimpleNamespace

import pytest
from etils import epath

from base import schema
from base.errors import UserError
from finetune import __main__ as command
from finetune import step_pushes
from finetune.step_pushes import Models
from pretrain.step_pushes import UnfitError
from tests.finetune.tiny_task import tiny_finetune
from tests.pretrain.hub_branches import installed


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch):
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)


def test_a_run_pushes_the_best_model_at_its_checkpoints(tmp_path, monkeypatch):
    hub = installed(monkeypatch)
    config = tiny_finetune(
        tmp_path, epochs=3, steps=4, checkpoint={"every": 2, "keep": 3}, eval={"every": 2, "batch": 8}
    )
    (tmp_path / "config.py").write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads({json.dumps(schema.as_dict(config))!r}))\n"
    )
    line = ["finetune", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    flags = ["--push_to_hub=me/animals", "--push_every=2"]
    assert command.main([*line, *flags]) == 0
    assert hub.branches.keys() == {"main", "step-2", "step-4"}
    for step in ("2", "4"):
        held = hub.branches[f"step-{step}"]
        assert held["message"].decode() == f"Step {step}"
        assert 'model="me/animals"' in held["README.md"].decode()
    last, main = hub.branches["step-4"], hub.branches["main"]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert last[name] == main[name], "the run ends with another model"
    assert json.loads((tmp_path / "run" / "pushed.json").read_text()) == {
        "repository": "me/animals",
        "steps": [2, 4],
    }

    (tmp_path / "run" / "pushed.json").unlink()
    hub.branches.clear()
    hub.branches["main"] = {}
    assert command.main([*line, *flags]) == 0, "the complete run is not trained again"
    assert hub.branches["step-4"]["model.safetensors"] == last["model.safetensors"]


def test_a_checkpoint_before_the_first_evaluation_is_left_out(monkeypatch):
    run = {"tracking": {"history": [], "best": []}, "seconds": 1.0}
    monkeypatch.setattr(step_pushes, "restore_params", lambda *_: ({}, run))
    config = SimpleNamespace(eval=SimpleNamespace(restore_best=True))
    job = SimpleNamespace(config=config, data=SimpleNamespace(task=SimpleNamespace(own_metrics=None)))
    with pytest.raises(UnfitError, match=r"no evaluation before step 3; config\.eval\.every should be 3 or"):
        Models(lambda: job, epath.Path("run"))("3", epath.Path("out"), "me/model")


def test_epochs_are_no_steps(tmp_path):
    tiny_finetune(tmp_path)
    line = ["finetune", "--config=configs/classify.py", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(
        UserError, match=r"--push_every=2 counts steps, so config\.checkpoint\.every=0 should"
    ):
        command.main(
            [*line, f"--config.init_from={tmp_path / 'model'}", "--push_to_hub=me/a", "--push_every=2"]
        )

"""`python -m finetune` on several processes: what only the first needs is asked of the first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import UserError
from finetune import __main__ as command
from pretrain.runtime import processes

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from base.errors import UserError
from finetune import __main__ as command
from pretrain.runtime import processes
def train(config, workdir, **more):
    processes.gather(0)  # so that all have come so far
    raise UserError("training begins")
command.train, command.finished = train, lambda *given: None
if os.environ["JAX_PROCESS_ID"] != os.environ["WITH_TOKEN"]:
    del os.environ["HF_TOKEN"]
processes.run(command.main)
"""


@pytest.mark.parametrize(
    ("with_token", "message"),
    [("0", "training begins"), ("1", "--push_to_hub=me/model needs a token with write access")],
)
def test_only_the_first_process_needs_a_token_and_without_it_all_end_before_training(
    with_token, message, tmp_path
):
    environment = {
        **os.environ,
        "WITH_TOKEN": with_token,
        "HF_TOKEN": "hf_canaryOfTheTests",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "UNMASK_INITIALIZATION_SECONDS": "100",
    }
    own = [
        "--config=configs/glue.py",
        "--config.init_from=x",
        "--push_to_hub=me/model",
        f"--workdir={tmp_path}",
    ]
    launch = [sys.executable, "-m", "launch.local", "-n", "2", "--", sys.executable, "-c", PROGRAM, *own]
    done = subprocess.run(launch, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1 and f"error: {message}" in errors[0], done.stderr


RECIPE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({'init_from': 'x', 'task': 'rte', 'epochs': 9})
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_field_of_the_recipe_that_gives_way_is_said_once_by_the_first_of_the_processes_that_join(
    first, tmp_path, monkeypatch, capsys
):
    recipe, joined = tmp_path / "recipe.py", []
    recipe.write_text(RECIPE)

    def join():
        joined.append(capsys.readouterr().err)

    def stop(*given):
        raise UserError("far enough")

    monkeypatch.setattr(processes, "join", join)
    monkeypatch.setattr(processes, "is_first", lambda: first)
    monkeypatch.setattr(command.train_command, "log_to_stderr", lambda: None)
    monkeypatch.setattr(command, "finished", stop)
    fields = ["--config.steps=3", "--config.distributed=true", "--config.compilation_cache="]
    with pytest.raises(UserError, match="far enough"):
        command.main(["x", f"--config={recipe}", f"--workdir={tmp_path}", *fields])
    said = capsys.readouterr().err
    assert joined == [""]
    assert said.count("note: without effect in the recipe: config.epochs=9") == first

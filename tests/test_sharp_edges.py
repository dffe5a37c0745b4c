"""Each command of docs/sharp-edges.md fails with the message that the page shows."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from base import schema
from base.command_line import parse
from base.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.plan.__main__ import ENVIRONMENT
from pretrain.runtime.checkpointer import Checkpointer
from tests.finetune.tiny_task import write_examples, write_model

ROOT = Path(__file__).parents[1]
SHOWN = re.findall(
    r"^## (\d+)\. .*?\n    (python -m .*?)\n    error: (.*?)\n",
    (ROOT / "docs" / "sharp-edges.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
"""Number, command and message of each section."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page says lies beside its commands."""
    folder = tmp_path_factory.mktemp("sharp")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "corpus").mkdir()
    lines = [json.dumps({"content": f"Text number {index}."}) for index in range(40)]
    (folder / "corpus" / "a.jsonl").write_text("\n".join(lines) + "\n")
    write_examples(folder / "train.csv", 50)
    write_model(folder).rename(folder / "roberta")
    config, _ = parse(PretrainConfig, ["x", f"--config={ROOT}/configs/debug.py"], lambda values: None)
    checkpointer = Checkpointer(epath.Path(folder / "runs" / "mine"))
    checkpointer.save(1, {"step": np.zeros(1)}, {"config": schema.as_dict(config), "step": 1})
    checkpointer.close()
    return folder


def test_there_are_ten():
    assert [number for number, _, _ in SHOWN] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize(
    ("command", "message"), [shown[1:] for shown in SHOWN], ids=[shown[0] for shown in SHOWN]
)
def test_a_mistake_is_told_as_the_page_shows(
    folder: Path, command: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # to be put back: a plan sets them
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("pretrain.runtime.train_command.use_compilation_cache", lambda folder: None)
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)
    _, _, module, *arguments = shlex.split(command)
    found = importlib.import_module(
        module if (ROOT / f"{module.replace('.', '/')}.py").exists() else f"{module}.__main__"
    )
    with pytest.raises(UserError) as error:
        found.main([f"{module.replace('.', '/')}.py", *arguments])
    assert str(error.value).replace(str(folder), "/home/me") == message

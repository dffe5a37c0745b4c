"""The whole command line of both stages, in a folder and on texts whose names and words are orders to a terminal."""

import csv
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from base.command_line import run
from base.formatting import visible
from base.schema import as_dict
from finetune import __main__ as finetune_command
from finetune import evaluate, predict, submission
from launch import finished
from pretrain import __main__ as pretrain_command
from pretrain import checkpoint, export, fill_mask
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import WORDS, on_one_device, tiny_config
from tokenizer import __main__ as tokenizer_command

ROOT = Path(__file__).parents[2]
NAME = "r\x1b]0;title\x07\u202e :smile: {a} $x$ \x9b31m"
"""Of a folder, a file and a field."""
WORDS_OF_TEXT = ("\x1b[2J", "\x07", "[red]", "[/]", "\u202e", "\\<mask>", ":smile:", "\x9b31m", "\r")
CLASSES = ("[red]\x1b[2J", "\u202ewen\x07")


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command takes pytest's handlers away."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def command(capfd, monkeypatch) -> Callable[..., str]:
    """Runs a command to its end, checks that it has told the terminal nothing, and returns what it has printed."""

    def ran(main: Callable[[Sequence[str]], Any], *arguments: str, status: int = 0, or_else: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(SystemExit) as ended:
            run(main)
        told = capfd.readouterr()
        text = told.out + told.err
        assert ended.value.code in (status, or_else or status), text
        assert visible(text) == text and "Traceback" not in text
        return text

    return ran


def recipe(file: Path, config: Any) -> Path:
    values = {name: value for name, value in as_dict(config).items() if value is not None}
    file.write_text(
        f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({values!r})\n"
    )
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of that name, with a corpus and labelled examples."""
    folder = tmp_path_factory.mktemp("hostile") / NAME
    folder.mkdir()
    draw = random.Random(0)
    words = [*WORDS, *WORDS_OF_TEXT * 2]
    with (folder / f"{NAME}.jsonl").open("w") as file:
        for number in range(120):
            sentences = [" ".join(draw.choices(words, k=12)) for _ in range(draw.randint(1, 5))]
            file.write(json.dumps({NAME: ". ".join(sentences), "id": number}) + "\n")
    for name, count in (("train.csv", 24), (f"{NAME}.csv", 16)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([NAME, f"{NAME} label"])
            texts = [" ".join(draw.choices(words, k=9)).replace("\r", "") for _ in range(count)]
            writer.writerows([text, CLASSES[i % 2]] for i, text in enumerate(texts))
    return folder


def test_no_command_of_either_stage_gives_the_terminal_an_order(folder, command, tmp_path):
    pretraining = tiny_config(
        folder / f"{NAME}.jsonl",
        steps=4,
        tokenizer={"vocab_size": 400},
        data={"text_field": NAME},
        eval={"every": 2, "steps": 1},
        log={"every": 2},
    )
    workdir, out = folder / "run", folder / NAME
    lines = [f"--config={recipe(tmp_path / 'pretraining.py', pretraining)}", f"--workdir={workdir}"]
    command(tokenizer_command.main, lines[0], lines[1])
    command(pretrain_command.main, *lines)
    command(pretrain_command.main, *lines)
    command(pretrain_command.main, *lines, f"--config.data.text_field={NAME}x", status=2)
    shown = command(fill_mask.main, f"--workdir={workdir}", "[red]\x1b[2J \\<mask> cat")
    assert "[red]\\x1b[2J" in shown
    command(fill_mask.main, f"--workdir={workdir}", or_else=2)  # where no sentence can serve
    command(export.main, f"--workdir={workdir}", f"--out={out}")
    command(export.main, f"--workdir={workdir}", f"--out={out}", status=2)
    command(checkpoint.main, "verify", str(workdir))
    card = (out / "README.md").read_text()
    assert visible(card) == card

    task = tiny_finetune(
        folder / "task",
        init_from=str(out),
        epochs=1,
        data={
            "train": str(folder / "train.csv"),
            "validation": str(folder / f"{NAME}.csv"),
            "text": NAME,
            "label": f"{NAME} label",
        },
    )
    tuned = folder / "tuned"
    lines = [f"--config={recipe(tmp_path / 'tuning.py', task)}", f"--workdir={tuned}"]
    assert "results" in command(finetune_command.main, *lines)
    command(finetune_command.main, *lines)
    command(finetune_command.main, *lines, f"--config.data.label={NAME}x", status=2)
    command(evaluate.main, lines[0], f"--model={tuned}", "--config.data.train=")
    command(
        predict.main, f"--model={tuned}", f"--file={folder / 'nothing'}", "--compilation_cache=", status=2
    )
    for card in ((tuned / "model" / "README.md").read_text(),):
        assert visible(card) == card


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (pretrain_command.main, ["--config={}"]),
        (pretrain_command.main, ["--config=configs/quickstart.py", "--config.{}=1"]),
        (pretrain_command.main, ["--{}"]),
        (tokenizer_command.main, ["--config=configs/quickstart.py", "--config.tokenizer.path={}"]),
        (finetune_command.main, ["--config=configs/classify.py", "--config.init_from={}", "--workdir={}"]),
        (evaluate.main, ["--config=configs/classify.py", "--model={}"]),
        (predict.main, ["--model={}", "text"]),
        (fill_mask.main, ["--model={}", "<mask>"]),
        (fill_mask.main, ["--workdir={}"]),
        (export.main, ["--workdir={}", "--out={}"]),
        (export.main, ["--workdir=x", "--out=y", "--push_to_hub={}"]),
        (checkpoint.main, ["{}", "x"]),
        (checkpoint.main, ["list", "{}"]),
        (submission.main, ["{}"]),
        (finished.main, ["x", "--", "{}"]),
    ],
)
def test_a_mistake_of_such_a_name_is_one_line(main, arguments, command, tmp_path, monkeypatch):
    arguments = [each.replace("configs/", f"{ROOT}/configs/").format(NAME) for each in arguments]
    monkeypatch.chdir(tmp_path)
    lines = command(main, *arguments, status=2).splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]

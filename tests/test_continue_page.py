"""The commands of docs/continue.md, in their order, on models, recipes and texts that are small."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from etils import epath

from tests.finetune.reference_models import random_model
from tests.tiny import on_one_device, write_corpus
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.train import train_tokenizer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/continue.md").read_text()
SMALL = {
    **{"1000": 1, "2000": 1, "20000": 2, "32000": 290},
    **{"1000000": 6, "80000": 4, "100000": 5},
}
"""The numbers of steps and tokens of the page, and those of the test."""
RECIPE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(%s)
"""
TEXTS = {"text/law": 0, "text/no": 1}


def commands(section: str) -> list[list[str]]:
    """The commands of a section, each as its words, with small numbers."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^    (python -m .*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert shown, section
    small = [re.sub(r"(?<==)\d{4,}\b", lambda found: str(SMALL[found[0]]), line) for line in shown]
    return [shlex.split(line)[2:] for line in small]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted: models of the hub (as folders), recipes, texts."""
    folder = tmp_path_factory.mktemp("continue")
    values = {"global_batch": 8, "seq_len": 16, "compilation_cache": ""}
    values |= {"log": {"every": 1}, "eval": {"every": 0}, "schedule": {"warmup_steps": 1}}
    values |= {"tokenizer": {"min_frequency": 1, "vocab_size": 300}, "checkpoint": {"every": 2, "keep": 9}}
    values["data"] = {
        "source": "files",
        "path": "text/law/*.jsonl",
        "streams": 4,
        "window": 8,
        "eval_fraction": 0.1,
    }
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    large = {"family": "modernbert", "hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 80}
    (folder / "configs").mkdir()
    for name, more in (
        ("X", {"model": small}),
        ("modernbert_large", {"steps": 2, "model": {**large, "num_hidden_layers": 5}}),
    ):
        (folder / f"configs/{name}.py").write_text(RECIPE % {**values, **more})
    for place, seed in TEXTS.items():
        (folder / place).mkdir(parents=True)
        lines = write_corpus(folder / place / "text.txt", seed=seed).read_text().splitlines()
        (folder / place / "text.jsonl").write_text(
            "".join(json.dumps({"text": line}) + "\n" for line in lines)
        )
    made = TokenizerConfig(vocab_size=300, min_frequency=1)
    train_tokenizer(lines, made, epath.Path(folder) / "tokenizer", model_max_length=16, progress=False)
    for name, case in (("FacebookAI/roberta-base", "roberta"), ("answerdotai/ModernBERT-base", "modernbert")):
        random_model(case, folder / name, task="MaskedLM", vocab_size=304)
        load(str(folder / "tokenizer")).save(epath.Path(folder / name))
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Runs the commands of a section in the folder; returns what was logged."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)
    caplog.set_level("INFO", logger="pretrain")

    def run(section: str) -> str:
        for module, *arguments in commands(section):
            name = f"{module}.__main__" if module == "pretrain" else module
            with on_one_device():
                assert importlib.import_module(name).main([module, *arguments]) == 0
        return caplog.text

    return run


def network(folder: Path, run: str) -> dict:
    return json.loads((folder / "runs" / run / "model.json").read_text())


def losses(folder: Path, run: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_on_a_domain(folder, run):
    run("On a domain")
    for name, source in (("law", "answerdotai/ModernBERT-base"), ("law-roberta", "FacebookAI/roberta-base")):
        theirs = json.loads((folder / source / "config.json").read_text())
        ours = network(folder, name)
        assert ours["model_type"] == theirs["model_type"] and ours["vocab_size"] == 304
        assert sorted(losses(folder, name)) == [1, 2]


def test_in_another_language(folder, run):
    said = run("In another language")
    assert network(folder, "no")["vocab_size"] == 290
    (shown,) = re.findall(r"^    (\S+ of \S+ tokens are shared .*)$", PAGE, re.MULTILINE)
    form, line = (
        re.sub(r"\b\d[\d,]* ", "N ", re.sub(r"shared with \S+", "shared", text)) for text in (shown, said)
    )
    assert form in line


def test_a_larger_model(folder, run):
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs/base").symlink_to(folder / "answerdotai/ModernBERT-base")
    run("A larger model")
    large = network(folder, "large")
    assert (large["num_hidden_layers"], large["hidden_size"], large["vocab_size"]) == (5, 48, 304)


def test_from_a_point_before_the_decay(folder, run):
    run("From a point before the decay")
    stable, decayed = losses(folder, "stable"), losses(folder, "decayed")
    assert sorted(stable) == [1, 2, 3, 4, 5, 6] and max(decayed) == 5
    assert decayed[5] == stable[5]  # the rate has not begun to fall before this step's gradient

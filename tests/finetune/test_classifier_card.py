"""The card of a fine-tuned model reads back as its results, and its snippet runs."""

import ast
import html
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from etils import epath
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from base.formatting import one_line
from finetune.classifier.inference import Facts
from finetune.results.classifier_card import card, hyperparameters
from finetune.results.final_outputs import finish
from finetune.train import train
from tests.finetune.tiny_task import tiny_finetune, write_examples
from tests.hostile import NAMES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of one epoch in a folder that nobody should read of."""
    folder = tmp_path_factory.mktemp("acme-bank")
    config = tiny_finetune(folder, epochs=1, card={"language": "no", "license": "mit"})
    workdir = epath.Path(folder / "animals")
    return SimpleNamespace(folder=folder, workdir=workdir, found=finish(train(config, workdir), workdir))


def found_with(run: SimpleNamespace, **changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(run.found | changes))


def test_the_header_is_what_the_hub_reads(run: SimpleNamespace):
    text = (run.workdir / "model" / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
    assert (data.language, data.license, data.base_model, data.datasets) == (["no"], "mit", None, None)
    assert data.model_name == "animals" and "\n# animals\n" in text
    metrics = run.found["runs"][0]["metrics"]
    scored = {result.metric_type: result.metric_value for result in data.eval_results}
    assert scored == {
        "accuracy": round(metrics["accuracy"], 6),
        "f1": round(metrics["f1"], 6),
        "matthews_correlation": round(metrics["matthews"], 6),
    }
    assert {result.dataset_split for result in data.eval_results} == {"validation"}
    assert "| 0 | `animal` |\n| 1 | `none` |" in text
    assert "Fine-tuned from `model`, a roberta of " in text and "acme" not in text
    assert "- train: 50 examples, files train.csv" in text


def test_the_hyperparameters_are_those_that_counted():
    config = {
        "epochs": 3, "steps": 5, "global_batch": 8, "grad_accum": 2, "max_length": 16, "label_smoothing": 0.0,
        "dtype": "float32", "optimizer": {"name": "adamw", "learning_rate": 1.0}, "schedule": {"name": "linear"},
        "model": {"dropout": 0.2, "attention_dropout": None, "remat": False},
    }  # fmt: skip
    found = {"config": config, "best_run": 0, "runs": [{"seed": 1, "learning_rate": 2e-5}]}
    shown = hyperparameters(found)
    assert (shown["steps"], shown["grad_accum"]) == (5, 2) and "epochs" not in shown
    assert shown["model"] == {"dropout": 0.2, "attention_dropout": None}
    assert shown["optimizer"]["learning_rate"] == 2e-5
    shown = hyperparameters(found | {"config": {**config, "steps": 0}})
    assert shown["epochs"] == 3 and "steps" not in shown


def test_scores_of_a_test_set_are_shown(run: SimpleNamespace):
    sets = {"test": {"count": 30, "labelled": 28, "origin": "files test.csv"}}
    tests = {"test": {"accuracy": 0.8125, "loss": 0.5, "f1": float("nan")}}
    text = card(run.found | {"tests": tests, "test_examples": sets}, "animals")
    assert (
        "On test (28 examples); this set took no part in choosing the model:" in text
        and "| accuracy | 81.25 |" in text
    )
    assert "- test: 30 examples, 28 of them labelled, files test.csv" in text
    (on_test,) = [result for result in ModelCard(text).data.eval_results if result.dataset_split == "test"]
    assert (on_test.metric_type, on_test.metric_value) == ("accuracy", 0.8125)


def answers(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the snippet of a card gives."""
    monkeypatch.chdir(folder)
    *before, last = ast.parse(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]).body
    names: dict[str, Any] = {}
    exec(compile(ast.Module(before, []), "card", "exec"), names)
    return eval(compile(ast.Expression(last.value), "card", "eval"), names)


def test_the_snippet_runs(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    text = (run.workdir / "model" / "README.md").read_text()
    (answer,) = answers(text, run.folder, monkeypatch)
    assert answer["label"] in ("animal", "none")


def test_the_snippet_of_a_model_of_pairs_and_of_scores_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_finetune(tmp_path)
    data = {"text_pair": "other", "regression": True}
    for split in ("train", "validation"):
        data[split] = str(write_examples(tmp_path / f"{split}_pairs.csv", 24, kind="scores", pairs=True))
    workdir = epath.Path(tmp_path / "scorer")
    found = finish(train(tiny_finetune(tmp_path, epochs=1, data=data), workdir), workdir)
    text = (workdir / "model" / "README.md").read_text()
    answer = answers(text, tmp_path, monkeypatch)
    answer = answer[0] if isinstance(answer, list) else answer
    assert isinstance(answer["score"], float) and found["texts"] == 2
    assert "Pairs of texts are given a score." in text and "its label means nothing" in text
    assert {result.metric_type for result in ModelCard(text).data.eval_results} == {"pearsonr", "spearmanr"}


@pytest.mark.parametrize("name", NAMES)
def test_any_name_reads_back_as_it_is_written(run: SimpleNamespace, name: str):
    example = {"count": 3, "origin": f"files {name}", "official": False}
    found = found_with(
        run, classes=[name, "b"], title=name, examples={"train": example, "validation": example}
    )
    text = card(found, f"runs/{name}/model".replace("\n", " "))
    parsed = ModelCard(text).data
    assert {result.dataset_name for result in parsed.eval_results} == {name}
    page = MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)
    shown = html.unescape(re.sub(r"</?code>", "", page))
    assert f"<td>{one_line(name).strip()}</td>" in re.sub(r">\s+|\s+</td>", lambda m: m[0].strip(), shown)
    assert f"train: 3 examples, files {one_line(name)}".rstrip() in shown
    assert "<script>" not in page
    ast.parse(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])


def test_a_hub_model_is_the_base_model_and_a_folder_of_that_form_is_none(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    at_hub = found_with(
        run, init_from="owner/base", base_model="owner/base", task="mrpc", dataset="nyu-mll/glue"
    )
    data = ModelCard(card(at_hub, "x")).data
    assert (data.base_model, data.datasets) == ("owner/base", ["nyu-mll/glue"])
    at_hub["config"]["data"]["revision"] = "v2"
    at_hub["runs"][0]["metrics"]["utility"] = 1.5  # of the user's own
    results = ModelCard(card(at_hub, "x")).data.eval_results
    assert {each.dataset_revision for each in results} == {"v2"}
    assert [each.metric_value for each in results if each.metric_type == "utility"] == [1.5]
    folder = card(found_with(run, init_from="acme/base", base_model=""), "x")
    assert "acme" not in folder and ModelCard(folder).data.base_model is None
    older = found_with(run, init_from="acme/base")
    del older["base_model"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "base").mkdir(parents=True)
    assert "acme" not in card(older, "x")


def test_results_of_an_earlier_version_have_a_card(run: SimpleNamespace):
    older = found_with(run)
    for name in ("base_model", "dataset", "model", "classes", "texts"):
        del older[name]
    del older["config"]["card"]
    text = card(older, "x")
    assert ModelCard(text).data.model_name == "x" and "acme" not in text


def test_of_hundreds_of_classes_the_first_are_listed(run: SimpleNamespace):
    text = card(found_with(run, classes=[f"c{index}" for index in range(300)]), "x")
    assert "| 99 | `c99` |" in text and "c100" not in text and "All 300 classes are `id2label`" in text


def test_nothing_beside_the_model_names_a_folder_of_this_machine(run: SimpleNamespace, tmp_path: Path):
    """Libraries note in the files of a model where they have found it."""
    source = tmp_path / "acme-bank" / "model"
    shutil.copytree(run.folder / "model", source)
    for file in ("tokenizer_config.json", "config.json"):
        values = json.loads((source / file).read_text())
        values |= {"name_or_path": "acme-bank/x", "_name_or_path": "/home/acme-bank/x"}
        values |= {"special_tokens_map_file": "/root/.cache/acme-bank", "some_folder": "/home/acme-bank"}
        (source / file).write_text(json.dumps({**values, "name_or_path": "/home/acme-bank/x"}))
    config = tiny_finetune(run.folder, epochs=1, init_from=str(source), inference="onnx")
    workdir = epath.Path(tmp_path / "out")
    finish(train(config, workdir), workdir)
    names = {path.name for path in (workdir / "model").iterdir()}
    assert {"model.onnx", "tokenizer_config.json", "README.md", "config.json"} <= names
    for path in (workdir / "model").iterdir():
        for private in (b"acme", b"site-packages", b"/home", str(tmp_path).encode()):
            assert private not in path.read_bytes(), (path.name, private)
    assert Facts.read(workdir / "model").texts == 1

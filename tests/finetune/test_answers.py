"""The answers of a model to test sets: their files, their scores where labels are known, what GLUE would refuse."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from data.labelled.config import LabelledConfig
from data.labelled.examples import Examples
from data.labelled.open import open_labelled
from data.labelled.tasks import TASKS
from finetune.results.final_outputs import scores_of_tests
from finetune.results.predicted_labels import Asked, asked_of, write_answers


def test_of_a_test_file_that_is_labelled_in_part_that_part_is_scored():
    task = dataclasses.replace(TASKS["rte"], name="", title="own")
    examples = Examples(
        ["a", "b", "c"], None, np.array([1, -1, 0], np.int32), [0, 1, 2], "files x.csv", official=False
    )
    logits = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    hidden = dataclasses.replace(examples, labels=None)
    found = scores_of_tests([(Asked(task, "test", examples), logits), (Asked(task, "other", hidden), logits)])
    assert found["test_examples"] == {"test": {"count": 3, "labelled": 2, "origin": "files x.csv"}}
    assert list(found["tests"]) == ["test"] and found["tests"]["test"]["accuracy"] == 0.5


def test_a_model_that_has_diverged_answers_no_test_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task = dataclasses.replace(TASKS["rte"], name="", title="own")
    asked = Asked(task, "test", Examples(["a"], None, None, [0], "", official=False))
    assert write_answers(epath.Path(tmp_path), asked, np.array([[np.nan, 1.0]])) == ""
    assert caplog.messages == ["test is not answered: the model's logits are no numbers; it has diverged"]
    assert list(tmp_path.iterdir()) == []


def test_mnli_and_the_diagnostic_set_are_answered_in_glues_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "MNLI").mkdir()
    header, rows = "index\tsentence1\tsentence2", [f"{index}\ta dog\ta cat" for index in range(3)]
    for half in ("matched", "mismatched"):
        (tmp_path / "MNLI" / f"test_{half}.tsv").write_text("\n".join([header, *rows]) + "\n")
    source = LabelledConfig(source="folder", path=str(tmp_path))
    data = open_labelled(source, "mnli", parts=("tests",))
    job = SimpleNamespace(data=data, config=SimpleNamespace(data=source))
    assert [asked.split for asked in asked_of(job)] == ["test_matched", "test_mismatched"]
    assert caplog.messages[-1].startswith("ax is not predicted: config.data.path=")
    (tmp_path / "AX").mkdir()
    (tmp_path / "AX" / "diagnostic.tsv").write_text("\n".join([header, *rows[:2]]) + "\n")
    asked = asked_of(job)
    logits = np.eye(3, dtype=np.float32)
    names = [
        write_answers(epath.Path(tmp_path / "out"), each, logits[: len(each.examples)]) for each in asked
    ]
    assert names == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    assert (tmp_path / "out" / "MNLI-mm.tsv").read_text() == (
        "index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"
    )
    assert (tmp_path / "out" / "AX.tsv").read_text() == "index\tprediction\n0\tentailment\n1\tneutral\n"


def test_answers_that_glue_would_refuse_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    examples = Examples(["a", "b"], ["c", "d"], None, [0, 1], "", official=False)
    asked = Asked(TASKS["stsb"], "test", examples)
    assert write_answers(epath.Path(tmp_path), asked, np.array([[1.0], [np.nan]])) == ""
    assert caplog.messages == ["STS-B.tsv: a prediction is nan; the model has diverged"]
    assert list(tmp_path.iterdir()) == []

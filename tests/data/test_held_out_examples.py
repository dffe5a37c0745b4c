"""Without a validation file a share of each class of the training file is held out, the same whenever it is read."""

import logging
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled


def read(path: Path, rows: list[tuple[str, object]], **config) -> LabelledData:
    path.write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return open_labelled(LabelledConfig(source="files", train=str(path), **config), "", hold_out=True)


def test_a_share_of_each_class_is_held_out_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [(f"s{n}", "rare" if n % 10 == 0 else "often") for n in range(200)]
    data = read(tmp_path / "train.csv", rows)
    held = data.evaluations["validation"]
    assert np.bincount(held.labels).tolist() == [18, 2]
    assert np.bincount(data.train.labels).tolist() == [162, 18]
    assert sorted(data.train.first + held.first) == sorted(text for text, _ in rows)
    assert held.first != [f"s{n}" for n in range(20)], "it is drawn, not the first"
    assert held.origin == "files train.csv, 20 of 200 held out"
    assert data.train.origin == "files train.csv, less 20 held out"
    assert data.task.evaluations == ("validation",)
    assert caplog.messages == [
        "config.data.validation is empty: 20 of 200 training examples are held out to evaluate on, the same share of "
        "each class (config.data.validation_share=0.1)"
    ]
    again = read(tmp_path / "train.csv", rows, max_train_examples=50, max_eval_examples=5)
    assert again.evaluations["validation"].first == held.first[:5]
    assert again.train.first == data.train.first[:50]


def test_the_same_texts_stay_together(tmp_path):
    rows = [(f"s{n % 30}", n % 2) for n in range(120)]
    data = read(tmp_path / "train.csv", rows, validation_share=0.3)
    held = data.evaluations["validation"]
    assert not set(held.first) & set(data.train.first)
    assert np.bincount(held.labels).tolist() == [16, 16]


def test_small_classes_are_on_both_sides_where_they_can_be(tmp_path):
    rows = [*((f"a{n}", "a") for n in range(3)), ("b0", "b"), ("b1", "b"), ("c0", "c")]
    data = read(tmp_path / "train.csv", rows)
    assert np.bincount(data.evaluations["validation"].labels).tolist() == [1, 1]
    assert np.bincount(data.train.labels).tolist() == [2, 1, 1]


def test_scores_are_held_out_too(tmp_path):
    data = read(tmp_path / "train.csv", [(f"s{n}", n / 7) for n in range(50)], regression=True)
    assert (len(data.evaluations["validation"]), len(data.train)) == (5, 45)


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (9, {"validation_share": 0.0}, "config.data.validation is empty and config.data.validation_share=0, so there "
         "is nothing to evaluate on; set config.data.validation to files, or the share of the training file to hold "
         "out, such as 0.1"),
        (9, {"validation_share": 1.0}, "config.data.validation_share=1 should be 0 or more and below 1"),
        (9, {"validation_share": -0.1}, "config.data.validation_share=-0.1 should be 0 or more and below 1"),
        (2, {}, "config.data.validation is empty, and of 2 training examples none can be held out; set "
         "config.data.validation to files"),
    ],
)  # fmt: skip
def test_a_share_that_cannot_be_is_one_line(tmp_path, rows, config, message):
    with pytest.raises(UserError) as raised:
        read(tmp_path / "train.csv", [(f"s{n}", n % 2) for n in range(rows)], **config)
    assert str(raised.value) == message

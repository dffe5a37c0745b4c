"""The picture of predictions is drawn for any names and any number of classes."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from finetune.results import predictions_picture
from finetune.results.predictions_picture import picture
from tests.hostile import NAMES


def size(content: bytes) -> tuple[int, int]:
    return imread(io.BytesIO(content)).shape[:2]


def of_classes(names) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(4 * len(names)) % len(names)
    return np.roll(labels, 1), labels


@pytest.mark.parametrize(
    "names", [("$", "$$", "$$$"), NAMES[:15], NAMES, [f"class {index}" for index in range(300)]], ids=len
)
def test_a_confusion_matrix_of_any_names(names):
    predictions, labels = of_classes(names)
    height, width = size(picture(predictions, labels, list(names), f"{names[0]}$.csv: 10 examples"))
    assert height >= 600 and width >= 720


def test_of_very_many_classes_the_most_frequent_are_shown(monkeypatch: pytest.MonkeyPatch):
    drawn = {}
    monkeypatch.setattr(
        predictions_picture, "_confusion_matrix", lambda *arguments: drawn.update(zip("fapln", arguments))
    )
    monkeypatch.setattr(predictions_picture, "MOST_CLASSES", 2)
    picture(np.array([0, 3, 3, 1, 3]), np.array([0, 3, 3, 0, 1]), ["a", "b", "c", "d"], "title")
    assert drawn["n"] == ["a", "d"] and drawn["l"].tolist() == [0, 1, 1] and drawn["p"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("predictions", [[0.5, np.nan, 2.0], [np.nan, np.inf, np.nan]])
def test_scores_that_are_no_numbers_are_left_out(predictions):
    assert size(picture(np.array(predictions), np.array([1.0, 2.0, 3.0]), (), "scores")) == (600, 720)

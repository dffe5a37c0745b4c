"""Scores are those that GLUE's definitions give by hand, and undefined ones are 0 without a warning."""

import math

import numpy as np
import pytest

from data.labelled.tasks import TASKS
from finetune.population.early_stopping import Tracking
from finetune.population.evaluation import scores_of
from finetune.results.glue_metrics import COMBINED, METRICS, scores


def classes(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_every_metric_of_a_task_is_known():
    for task in TASKS.values():
        assert set(task.metrics) <= {*METRICS, *COMBINED}, task.name


def test_classes_of_two():
    # Of class 1: 3 hit, 1 missed, 2 wrongly named; of class 0: 2 hit.
    labels = classes(1, 1, 1, 1, 0, 0, 0, 0)
    predictions = classes(1, 1, 1, 0, 1, 1, 0, 0)
    found = scores(("accuracy", "f1", "accuracy_f1", "matthews", "f1_macro"), predictions, labels)
    assert list(found) == ["accuracy", "f1", "accuracy_f1", "matthews", "f1_macro"]
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2), abs=1e-12)
    assert found["accuracy_f1"] == pytest.approx((5 / 8 + 2 / 3) / 2, abs=1e-12)
    assert found["matthews"] == pytest.approx((3 * 2 - 2 * 1) / math.sqrt(5 * 4 * 4 * 3), abs=1e-12)
    assert found["f1_macro"] == pytest.approx((2 / 3 + 4 / 7) / 2, abs=1e-12)


def test_f1_is_of_class_one_only():
    assert scores(("f1",), classes(0, 0, 0, 1), classes(0, 0, 0, 0)) == {"f1": 0.0}
    assert scores(("f1",), classes(1, 1), classes(1, 1)) == {"f1": 1.0}


def test_classes_of_three():
    labels, predictions = classes(0, 0, 1, 1, 2, 2), classes(0, 1, 1, 1, 2, 0)
    found = scores(("f1_macro", "matthews"), predictions, labels)
    assert found["f1_macro"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3, abs=1e-12)
    # Covariances of the indicators: 4 * 6 - (2*2 + 3*2 + 1*2) over the roots for predictions and labels.
    assert found["matthews"] == pytest.approx((24 - 12) / math.sqrt((36 - 14) * (36 - 12)), abs=1e-12)


def test_correlations():
    labels, predictions = values(1, 2, 3, 4), values(1, 2, 3, 8)
    found = scores(("pearson", "spearman", "pearson_spearman"), predictions, labels)
    assert found["pearson"] == pytest.approx(11 / math.sqrt(5 * 29), abs=1e-6)
    assert found["spearman"] == pytest.approx(1.0, abs=1e-12)
    assert found["pearson_spearman"] == pytest.approx((found["pearson"] + 1) / 2, abs=1e-12)
    assert scores(("pearson",), values(4, 3, 2, 1), labels)["pearson"] == pytest.approx(-1.0, abs=1e-12)


def test_equal_predictions_share_their_rank():
    found = scores(("spearman",), values(1, 1, 2), values(1, 2, 3))
    assert found["spearman"] == pytest.approx(math.sqrt(3) / 2, abs=1e-12)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "labels"), [((1, 1, 1), (0, 1, 1)), ((0, 1, 1), (1, 1, 1)), ((1,), (1,))]
)
def test_what_is_not_defined_is_zero(name, predictions, labels):
    of = classes if name == "matthews" else values
    assert scores((name,), of(*predictions), of(*labels)) == {name: 0.0}


def test_f1_without_the_class_is_zero():
    assert scores(("f1", "accuracy_f1"), classes(0, 0), classes(0, 0)) == {"f1": 0.0, "accuracy_f1": 0.5}


def test_predictions_that_differ_in_their_last_digit_make_no_warning():
    found = scores(("pearson",), np.array([1, 1, 1 + 2**-52]), np.array([1.0, 2.0, 3.0]))
    assert abs(found["pearson"]) <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_diverged_has_no_score(bad):
    found = scores(("pearson", "pearson_spearman"), values(1, bad, 2), values(1, 2, 3))
    assert math.isnan(found["pearson"]) and math.isnan(found["pearson_spearman"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_classifier_that_diverged_has_no_score_and_is_no_better_than_any(bad):
    logits = np.array([[bad, 0.0], [1.0, 0.0]], np.float32)
    found = scores_of(TASKS["rte"], logits, classes(0, 0))
    assert list(found) == ["accuracy", "loss"] and all(map(math.isnan, found.values()))
    tracking = Tracking()
    tracking.add(1, 0.5, [found], "accuracy", 0)
    assert tracking.add(2, 1.0, [{"accuracy": 0.0, "loss": 9.0}], "accuracy", 0) == [True]


@pytest.mark.parametrize(("predictions", "labels"), [((), ()), ((1, 0), (1,))])
def test_what_cannot_be_compared_is_refused(predictions, labels):
    with pytest.raises(ValueError, match="predictions of"):
        scores(("accuracy",), classes(*predictions), classes(*labels))

"""Metrics of the user's own: which names and numbers are taken, and what a mistake says."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.tasks import find_task
from finetune.kinds import kind_of
from finetune.results.final_outputs import without_score
from finetune.results.own_metrics import with_own_metrics

MRPC = find_task("mrpc")
RIGHT = np.array([0, 1, 1])


def own(function):
    return with_own_metrics(MRPC, kind_of(MRPC), function, RIGHT, None).own_metrics


@pytest.mark.parametrize("name", [*MRPC.metrics, "loss", "threshold"])
def test_a_name_that_the_task_has_is_refused(name: str):
    with pytest.raises(UserError, match=rf"^compute_metrics gave .*'{name}'.* name") as error:
        own(lambda predictions, labels: {"mine": 1.0, name: 0.5})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf")])
def test_a_number_that_is_not_finite_on_right_answers_is_refused(value):
    with pytest.raises(
        UserError, match=rf"^compute_metrics gave mine={value:g} on right answers; it should give finite"
    ):
        own(lambda predictions, labels: {"mine": value})


def test_nan_of_an_evaluation_is_a_warning_and_no_divergence(caplog):
    metrics = own(lambda predictions, labels: {"mine": 1.0 if (predictions == labels).all() else np.nan})
    logits = np.zeros((3, 2), np.float32)
    with caplog.at_level(logging.WARNING):
        assert np.isnan(metrics(logits, RIGHT, None, None)["mine"])
    assert "compute_metrics gave mine=nan; a NaN counts as the worst score" in caplog.text
    assert without_score("mine", {"mine": np.nan, "loss": 0.7}).startswith("mine=nan in all evaluations")
    assert without_score("mine", {"a/mine": 1.0, "mine": 1.0, "loss": np.nan}) == ""
    assert without_score("mine", {"mine": np.nan, "loss": np.nan}).startswith("all have diverged")


def test_an_exception_names_the_line_of_the_users_file():
    def lookup(predictions):
        return {"early": 1}["late"]  # the innermost line of this file

    with pytest.raises(UserError, match="compute_metrics failed: KeyError: 'late'") as error:
        own(lambda predictions, labels: {"mine": lookup(predictions)})
    line = lookup.__code__.co_firstlineno + 1
    assert str(error.value).endswith(f"({__file__} line {line})")

    with pytest.raises(UserError, match=re.escape(f"({__file__} line ")):
        own(lambda predictions, labels: {"mine": np.stack([predictions, np.zeros(7)])})


def test_names_are_those_of_the_first_call():
    metrics = own(lambda predictions, labels: {"mine": np.mean(predictions == labels)})
    assert metrics.names == ("mine",)
    assert replace(MRPC, own_metrics=metrics).scores == (*MRPC.metrics, "mine")

"""Which of a model's classes is which of a task's."""

import pytest

from base.errors import UserError
from finetune import evaluate


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("CONTRADICTION", "Neutral", "entailment"), [2, 1, 0]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1, 2]),
        (("contradiction", "entailment ", "NEUTRAL"), [1, 2, 0]),
    ],
)
def test_classes_of_a_model_are_found_by_name(names: tuple[str, ...], order: list[int]):
    assert evaluate.class_order(names, ("entailment", "neutral", "contradiction"), "m") == order


def test_a_model_of_scores_is_not_asked_for_classes():
    assert evaluate.class_order((), (), "m") == [0]
    with pytest.raises(UserError, match="it answers a score, the task has no, yes"):
        evaluate.class_order((), ("no", "yes"), "m")

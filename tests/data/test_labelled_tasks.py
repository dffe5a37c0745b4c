"""The table of GLUE's tasks agrees with itself, and a wrong name is answered with the right one."""

import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import Examples
from data.labelled.glue_columns import split_of_columns
from data.labelled.open import open_labelled
from data.labelled.tasks import TASKS, find_task


def test_every_task_has_the_size_of_every_split_and_a_file_for_every_test():
    for task in TASKS.values():
        splits = {*([task.train] if task.train else []), *task.evaluations, *task.tests}
        assert set(task.rows) == splits, task.name
        assert set(task.submissions) == set(task.tests), task.name
        assert task.chooses in task.metrics, task.name


def test_classes_are_in_the_order_of_the_hub():
    assert TASKS["mnli"].labels == TASKS["ax"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")
    assert TASKS["wnli"].labels == ("not_entailment", "entailment")
    assert TASKS["stsb"].labels == ()


def test_mismatched_alone_trains_on_all_of_mnli():
    task = TASKS["mnli-mm"]
    assert (task.dataset, task.train, task.evaluations) == ("mnli", "train", ("validation_mismatched",))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sst-2", "config.task='sst-2' is not a GLUE task; did you mean 'sst2'?"),
        ("MNLI", "config.task='MNLI' is not a GLUE task; did you mean 'mnli'?"),
        ("squad", "config.task='squad' is not a GLUE task; choose one of cola, mnli, "),
        ("", "config.task is empty; set it to one of cola, mnli, "),
    ],
)
def test_an_unknown_task_is_answered_with_the_known_ones(name, message):
    with pytest.raises(UserError) as raised:
        find_task(name)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("config", "task", "message"),
    [
        (
            {"path": "glue"},
            "mrpc",
            "config.data.path='glue' has no effect: config.data.source='hub' does not read it; ",
        ),
        (
            {"train": "a.csv"},
            "",
            "config.data.train='a.csv' has no effect: config.data.source='hub' does not read it; ",
        ),
        ({"source": "folder", "label_names": ("a", "b")}, "mrpc", "config.data.label_names has no effect: "),
        ({"source": "files", "train": "a.csv"}, "mrpc", "config.task='mrpc' is a GLUE task, but "),
        (
            {"source": "files"},
            "",
            "config.data.train, validation and test are empty; set those that you need to csv, tsv,",
        ),
        (
            {"source": "folder"},
            "mrpc",
            "config.data.path is empty; set it to the folder that holds CoLA, MRPC, ",
        ),
        ({"max_train_examples": -1}, "mrpc", "config.data.max_train_examples=-1 should be 0 (all) or more"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(config, task, message):
    with pytest.raises(UserError) as raised:
        open_labelled(LabelledConfig(**config), task)
    assert str(raised.value).startswith(message)


def columns(split: str, labels: list, names: list[str] | None = None) -> Examples:
    texts = [[f"a{n}" for n in range(len(labels))], ["b"] * len(labels)]
    return split_of_columns(
        TASKS["rte"], split, texts, labels, names, range(len(labels)), origin="hub x", limit=None
    )


def test_classes_of_a_data_set_are_matched_by_name_in_any_case():
    turned = ["Not_Entailment", "ENTAILMENT"]
    assert columns("train", [0, 1, 1], turned).labels.tolist() == [1, 0, 0]
    assert columns("train", ["not_entailment", "entailment"]).labels.tolist() == [1, 0]
    with pytest.raises(
        UserError, match=r"hub x row 2: label 'maybe' is not one of the ids of the classes entailment"
    ):
        columns("train", ["entailment", "maybe"])


def test_labels_of_a_test_split_never_stop_a_run(caplog):
    assert columns("test", [-1, -1]).labels is None
    assert columns("test", [None, None]).labels is None
    assert columns("test", [0, 1], ["other", "same"]).labels is None
    assert caplog.messages == []
    assert columns("test", [1, -1, 7, None]).labels.tolist() == [1, -1, -1, -1]
    assert caplog.messages == ["hub x: 1 of 4 examples are not scored, because their labels are not known"]

"""Labels are one class by what they say, not by how they are spelled; what stands for no label is told apart."""

import pytest

from data.labelled.classes import Classes, class_names, groups, look, marks_among, matching, missing_among


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([f"{n}.0" for n in (10, 9, 2, 0)], ("0.0", "2.0", "9.0", "10.0")),
        (["2.0", "10", "2", "1e1", "+3", "-0", "0"], ("0", "2", "3", "10")),
        (["-1", "9", "10"], ("-1", "9", "10")),
        (["007", "010", "9"], ("007", "9", "010")),
        (["007", "7"], ("007", "7")),
        (["true", "True", "FALSE"], ("false", "true")),
        (["True", "False"], ("False", "True")),
        (["1.5", "1.50", "other"], ("1.5", "other")),
        (["12345678901234567890", "12345678901234567891"], ("12345678901234567890", "12345678901234567891")),
        (["b", "B", "a"], ("B", "a", "b")),
        (["1_0", "1,0", "1e5000", "0x1"], ("0x1", "1,0", "1_0", "1e5000")),
    ],
)
def test_equal_numbers_are_one_class_and_numbers_are_in_order(labels, names):
    assert class_names(labels) == names


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("0.0", "1.0", "10.0", "2.0"), "2", 3),
        (("0", "2"), "2.00", 1),
        (("0", "2"), "1", None),
        (("2e0", "3"), "2", 0),
        (("007", "8"), "7", None),
        (("1.1", "1.10"), "1.10", 1),
        (("1.1", "1.10"), "1.100", None),
        (("false", "true"), "True", 1),
        (("no", "yes"), "1", None),
    ],
)
def test_a_label_is_its_class_and_never_an_index(names, label, index):
    assert Classes(names).find(label) == index


def test_ids_are_taken_where_they_are_declared_and_no_class_is_a_number():
    assert [Classes(("no", "yes"), ids=True).find(label) for label in ("1", "0.0", "2", "01")] == [
        1,
        0,
        None,
        None,
    ]
    assert Classes(("0.0", "2.0"), ids=True).find("1") is None


@pytest.mark.parametrize(
    ("names", "label", "index"),
    [
        (("Neg", "Pos"), "pos", 1),
        (("Pos", "pOs"), "pos", None),
        (("caf\u00e9", "bar"), "cafe\u0301", 0),
        (("not entailment", "entailment"), "not\u00a0 entailment", 0),
        (("007", "8"), "7", 0),
        (("yes", "no"), "\ufeffyes", 0),
    ],
)
def test_a_label_that_looks_like_one_class_is_found_as_such(names, label, index):
    assert Classes(names).find(label) is None
    assert Classes(names).find_alike(label) == index


def test_classes_that_look_alike_are_grouped():
    names = ("Pos", "pos", "caf\u00e9", "cafe\u0301", "007", "7", "other")
    assert groups(names, look) == [["Pos", "pos"], ["cafe\u0301", "caf\u00e9"], ["007", "7"]]


def test_classes_are_matched_by_name_each_once():
    assert matching(
        ("CONTRADICTION", "Neutral", "entailment"), ("entailment", "neutral", "contradiction")
    ) == [2, 1, 0]
    assert matching(("2.0", "1.0"), ("1", "2")) == [1, 0]
    assert matching(("a", "b"), ("a", "c")) == [0, None]
    assert matching(("a", "b"), ("A", "a\u00a0")) == [0, None]
    assert matching(("same", "same"), ("same", "same")) == [0, 1]


@pytest.mark.parametrize(
    ("names", "marks"),
    [
        ("entailment neutral -", {"-"}),
        ("- +", set()),
        ("pos neg -1", {"-1"}),
        ("0 1 2 -1", {"-1"}),
        ("0.0 1.0 2.0 -1.0", {"-1.0"}),
        ("0 1 -1", set()),
        ("-2 -1 0 1 2", set()),
        ("-1 1", set()),
        ("-1 9 10", set()),
        ("- -1", {"-"}),
    ],
)
def test_marks_of_no_label_are_told_from_classes(names, marks):
    assert marks_among(names.split()) == marks


def test_nan_among_numbers_is_no_class_but_among_names_it_is():
    assert missing_among(("0", "1", "NaN")) == "NaN"
    assert missing_among(("1", "nan", "2", "NaN")) == "nan"
    assert missing_among(("nan", "yue", "cmn")) is None
    assert missing_among(("0", "1", "other")) is None

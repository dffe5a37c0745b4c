"""Files of one's own become a task: classes or scores, one text or two, in four formats."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled

CSV = 'sentence,label\n"Good, very ""good""",pos\n"two\nlines",neg\nFine,pos\n'


def read(root: Path, files: dict[str, str | bytes], **config) -> LabelledData:
    """Write files, name each by its stem as the split it is, and read them."""
    for name, content in files.items():
        path = root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        config.setdefault(name.split(".")[0], str(path))
    return open_labelled(LabelledConfig(source="files", **config), "")


def test_csv_has_quotes_and_classes_are_those_of_train_in_order(tmp_path):
    data = read(tmp_path, {"train.csv": CSV, "validation.csv": "label,sentence\nneg,Bad\n"})
    assert data.train.first == ['Good, very "good"', "two\nlines", "Fine"]
    assert data.train.labels.tolist() == [1, 0, 1] and data.train.labels.dtype == np.int32
    assert data.task.labels == ("neg", "pos")
    assert (data.task.name, data.task.title) == ("", "train.csv")
    assert data.task.metrics == ("matthews", "f1", "accuracy") and data.task.chooses == "accuracy"
    assert data.evaluations["validation"].labels.tolist() == [0]
    assert data.train.origin == "files train.csv" and not data.train.official
    assert data.tests == {}


def test_tsv_has_no_quotes(tmp_path):
    data = read(tmp_path, {"train.tsv": 'sentence\tlabel\n"odd\ta\nb"\tc\n'})
    assert data.train.first == ['"odd', 'b"']


def test_pairs_from_compressed_json_lines_with_nested_fields(tmp_path):
    rows = [{"q": {"text": f"q{n}"}, "a": f"a{n}", "class": n % 3} for n in range(6)]
    lines = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    data = read(tmp_path, {"train.jsonl.gz": lines}, text="q.text", text_pair="a", label="class")
    assert data.train.first == [f"q{n}" for n in range(6)]
    assert data.train.second == [f"a{n}" for n in range(6)]
    assert data.task.labels == ("0", "1", "2")
    assert data.task.metrics == ("matthews", "f1_macro", "accuracy")


def test_a_json_array_is_read_like_lines(tmp_path):
    rows = [{"sentence": "a", "label": True}, {"sentence": None, "label": False}]
    data = read(tmp_path, {"train.json": json.dumps(rows, indent=1)})
    assert data.train.first == ["a", ""]
    assert data.task.labels == ("false", "true") and data.train.labels.tolist() == [1, 0]


def test_whole_numbers_are_classes_in_order_of_their_value(tmp_path):
    data = read(tmp_path, {"train.csv": "sentence,label\na,10\nb,9\nc,-1\n"})
    assert data.task.labels == ("-1", "9", "10") and data.train.labels.tolist() == [2, 1, 0]


def test_named_classes_keep_their_order_and_may_be_given_as_ids(tmp_path):
    data = read(tmp_path, {"train.csv": "sentence,label\na,1\nb,pos\nc,0\n"}, label_names=("pos", "neg"))
    assert data.task.labels == ("pos", "neg") and data.train.labels.tolist() == [1, 0, 0]
    with pytest.raises(
        UserError, match=r"line 4: label '0' is not one of the classes '1', '2'; mend it, or set "
    ):
        read(tmp_path, {"train.csv": "sentence,label\na,1\nb,2\nc,0\n"}, label_names=("1", "2"))


def test_scores_are_float32_and_have_no_classes(tmp_path):
    data = read(tmp_path, {"train.csv": "sentence,label\na,-1\nb,2.5\nc,1e1\n"}, regression=True)
    assert data.train.labels.tolist() == [-1.0, 2.5, 10.0] and data.train.labels.dtype == np.float32
    assert data.task.labels == () and data.task.chooses == "pearson_spearman"


def test_several_files_are_one_set(tmp_path):
    files = {"train.csv": "sentence,label\na,x\n", "more.jsonl": '{"sentence": "b", "label": "y"}\n'}
    paths = f"{tmp_path}/train.csv, {tmp_path}/more.jsonl"
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    data = open_labelled(LabelledConfig(source="files", train=paths), "")
    assert sorted(data.train.first) == ["a", "b"] and data.train.ids == [0, 1]
    assert data.train.origin == "files train.csv, more.jsonl"


@pytest.mark.parametrize(
    ("test", "labels"),
    [
        ("sentence\na\n\nb\n", None),
        ("sentence,label\na,\n", None),
        ("sentence,label\na,-1\n", None),
        ("sentence,label\na,pos\n", [1]),
    ],
)
def test_labels_of_a_test_file_may_be_hidden(tmp_path, test, labels):
    data = read(tmp_path, {"train.csv": CSV, "test.csv": test})
    found = data.tests["test"].labels
    assert (None if found is None else found.tolist()) == labels
    if test.startswith("sentence\n"):
        assert data.tests["test"].first == ["a", "", "b"], "an empty line of one column is an empty text"


def test_limits_take_the_first_of_train_and_validation(tmp_path):
    many = "sentence,label\n" + "".join(f"s{n},{n % 2}\n" for n in range(9))
    files = {"train.csv": many, "validation.csv": many, "test.csv": many}
    data = read(tmp_path, files, max_train_examples=4, max_eval_examples=2)
    assert [len(data.train), len(data.evaluations["validation"]), len(data.tests["test"])] == [4, 2, 9]
    assert data.train.origin == "files train.csv, first 4"


def test_a_class_beyond_the_limit_is_known_to_the_other_files(tmp_path):
    files = {"train.csv": "sentence,label\na,x\nb,y\nc,z\n", "validation.csv": "sentence,label\nd,z\n"}
    data = read(tmp_path, files, max_train_examples=2)
    assert data.task.labels == ("x", "y", "z")
    assert data.train.first == ["a", "b"] and data.evaluations["validation"].labels.tolist() == [2]


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        ({"train.csv": "text,label\na,x\n"}, {},
         "train.csv line 1: no field 'sentence'; fields present: label, text; set config.data.text"),
        ({"train.csv": "sentence,gold\na,x\n"}, {},
         "train.csv line 1: no field 'label'; fields present: gold, sentence; set config.data.label"),
        ({"train.jsonl": '{"sentence": "a", "label": 0}\n{"label": 1}\n'}, {},
         "train.jsonl line 2: missing field (no field 'sentence'; fields present: label; set config.data.text)"),
        ({"train.csv": CSV, "validation.csv": "sentence,label\na,pos\nb,maybe\n"}, {},
         "validation.csv line 3: label 'maybe' is not one of the classes 'neg', 'pos'; mend it, or set "
         "config.data.label_names"),
        ({"train.csv": CSV}, {"regression": True},
         "train.csv line 2: label 'pos' should be a number, for a score; mend it, or set config.data.label, "
         "or config.data.regression=False for classes"),
        ({"train.csv": "sentence,label\na,0.5\nb,1.5\n"}, {},
         "the labels are numbers such as 0.5 and 1.5; set config.data.regression=True to learn scores"),
        ({"train.csv": "sentence,label\na,x\nb,x\n", "validation.csv": "sentence,label\na,y\n"}, {},
         "files train.csv: all 2 labels are 'x'; a classifier needs examples of two classes at least"),
        ({"train.csv": ""}, {}, "train.csv: the file is empty"),
        ({"train.jsonl": "\n"}, {}, "train.jsonl: the file is empty"),
        ({"train.json": "[]"}, {}, "train.json: there are no examples"),
        ({"train.csv": "sentence,label\n"}, {}, "train.csv: there are no examples, only a header"),
        ({"train.csv": "sentence,label\na,x\nb,x\n"}, {},
         "files train.csv: all 2 labels are 'x'; a classifier needs examples of two classes at least; check "
         "config.data.train and config.data.label"),
        ({"train.csv": "sentence,label\na,x\nb,y\n"}, {"max_train_examples": 1},
         "files train.csv, first 1: all 1 labels are 'x'; a classifier needs examples of two classes at least; check "
         "config.data.train and config.data.label; or raise config.data.max_train_examples"),
        ({"train.csv": "sentence,label\na,x\nb\n"}, {},
         "train.csv line 3: 1 fields where there should be 2 (sentence, label); mend the line"),
        ({"train.csv": "sentence,label\na,x\nb, \n"}, {},
         "train.csv line 3: label ' ' should be the name of a class; mend it, or set config.data.label"),
        ({"train.csv": 'sentence,label\na,x\n"b,y\n'}, {}, "train.csv line 3: unexpected end of data; a field with "),
        ({"train.csv": "sentence,label,label\na,x,y\n"}, {},
         "train.csv line 1: 2 columns are called 'label'; rename all but one"),
        ({"train.csv.gz": b"no archive"}, {}, "train.csv.gz: damaged file (Error -3 "),
        ({"train.csv.gz": gzip.compress(CSV.encode())[:-4]}, {}, "train.csv.gz: truncated file (the archive ends "),
        ({"train.jsonl": '{"sentence": "a", "label": 0}\n{"sentence": \n'}, {}, "train.jsonl line 2: broken JSON ("),
        ({"train.jsonl": '{"sentence": 5, "label": 0}\n'}, {},
         "train.jsonl line 1: not text (field 'sentence' holds int; set config.data.text to another)"),
        ({"train.json": '[{"sentence": "a", "label": 0}, 7]'}, {}, "train.json item 2: a int where there should be "),
        ({"train.json": '[{"sentence": "a"'}, {}, "train.json: broken JSON (Expecting ',' delimiter: line 1 column "),
        ({"train.txt": "a"}, {}, "train.txt' is none of .csv, .tsv, .json, .jsonl; each may also end in .gz or .zst"),
        ({}, {"train": "/nowhere/train.csv"}, "config.data.train: no such file or folder: '/nowhere/train.csv'"),
        ({"validation.csv": CSV}, {}, "config.data.train is empty, so the classes are not known; set it, or "),
        ({"train.csv": CSV}, {"label_names": ("pos",)}, "config.data.label_names=['pos'] should be two or more names"),
        ({"train.csv": CSV}, {"label_names": ("pos", "neg"), "regression": True}, "unset one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, files, config, message):
    with pytest.raises(UserError) as raised:
        read(tmp_path, files, **config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)

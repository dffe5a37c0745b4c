"""Files of one's own become a task: classes or scores, one text or two, in four formats."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
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
        UserError, match=r"line 4: label '0' is not one of the classes '1', '2'; correct it, or set "
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
        ("sentence,label\na,-\n", None),
        ("sentence,label\na,pos\n", [1]),
        ("sentence,label\na,-\nb,neg\nc,\nd,maybe\ne,-1\n", [-1, 0, -1, -1, -1]),
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
         "validation.csv line 3: label 'maybe' is not one of the classes 'neg', 'pos'; correct it, or set "
         "config.data.label_names"),
        ({"train.csv": CSV}, {"regression": True},
         "train.csv line 2: label 'pos' should be a number, for a score; correct it, or set config.data.label, "
         "or config.data.regression=False for classes"),
        ({"train.csv": "sentence,label\na,0.5\nb,1.5\n"}, {},
         "the labels are numbers such as 0.5 and 1.5; set config.data.regression=True to learn scores"),
        ({"train.csv": "sentence,label\na,x\nb,x\n", "validation.csv": "sentence,label\na,y\n"}, {},
         "files train.csv: all 2 labels are 'x'; a classifier needs examples of at least two classes"),
        ({"train.csv": ""}, {}, "train.csv: the file is empty"),
        ({"train.jsonl": "\n"}, {}, "train.jsonl: the file is empty"),
        ({"train.json": "[]"}, {}, "train.json: there are no examples"),
        ({"train.csv": "sentence,label\n"}, {}, "train.csv: there are no examples, only a header"),
        ({"train.csv": "sentence,label\na,x\nb,x\n"}, {},
         "files train.csv: all 2 labels are 'x'; a classifier needs examples of at least two classes; check "
         "config.data.train and config.data.label"),
        ({"train.jsonl": '{"sentence": "a", "label": []}\n' * 2}, {},
         "files train.jsonl: none of its 2 examples has a label; check config.data.train and config.data.label"),
        ({"train.jsonl": '{"sentence": "a", "label": ["x"]}\n{"sentence": "b", "label": []}\n'}, {},
         "files train.jsonl: 'x' is the only class of its 2 examples; a classifier needs two classes or more; check "
         "config.data.train and config.data.label"),
        ({"train.csv": "sentence,label\na,x\nb,y\n"}, {"max_train_examples": 1},
         "files train.csv, first 1: all 1 labels are 'x'; a classifier needs examples of at least two classes; check "
         "config.data.train and config.data.label; or raise config.data.max_train_examples"),
        ({"train.csv": "sentence,label\na,x\nb\n"}, {},
         "train.csv line 3: 1 fields where there should be 2 (sentence, label); correct the line"),
        ({"train.csv": "sentence,label\na,x\nb, \n"}, {},
         "train.csv line 3: label ' ' should be the name of a class; correct it, or set config.data.label"),
        ({"train.csv": 'sentence,label\na,x\n"b,y\n'}, {}, "train.csv line 3: unexpected end of data; put a field "),
        ({"train.csv": "sentence,label,label\na,x,y\n"}, {},
         "train.csv line 1: 2 columns are called 'label'; rename all but one"),
        ({"train.csv.gz": b"no archive"}, {}, "train.csv.gz: damaged file (Error -3 "),
        ({"train.csv.gz": gzip.compress(CSV.encode())[:-4]}, {}, "train.csv.gz: truncated file (the archive ends "),
        ({"train.jsonl": '{"sentence": "a", "label": 0}\n{"sentence": \n'}, {}, "train.jsonl line 2: broken JSON ("),
        ({"train.jsonl": '{"sentence": 5, "label": 0}\n'}, {},
         "train.jsonl line 1: not text (field 'sentence' holds int; set config.data.text to another field)"),
        ({"train.json": '[{"sentence": "a", "label": 0}, 7]'}, {}, "train.json item 2: a int where there should be "),
        ({"train.json": '[{"sentence": "a"'}, {}, "train.json: broken JSON (Expecting ',' delimiter: line 1 column "),
        ({"train.txt": "a"}, {}, "train.txt' is none of .csv, .tsv, .json, .jsonl, .parquet; all but .parquet"),
        ({}, {"train": "/nowhere/train.csv"}, "config.data.train: no such file or folder: '/nowhere/train.csv'"),
        ({"validation.csv": CSV}, {}, "config.data.train is empty, so the classes are not known; set it, or "),
        ({"train.jsonl": '{"sentence": "a", "label": "x"}\n{"sentence": "b", "label": NaN}\n'}, {},
         "train.jsonl line 2: label nan should be the name of a class"),
        ({"train.jsonl": '{"sentence": "a", "label": "x"}\n{"sentence": "b", "label": null}\n'}, {},
         "train.jsonl line 2: label None should be the name of a class"),
        ({"train.csv": "sentence,label\na,0\nb,1\nc,nan\n"}, {},
         "train.csv line 4: label 'nan' among numbers should be a number too; correct it, or name it in "
         "config.data.label_names"),
        ({"train.jsonl": '{"sentence": "a", "label": 1}\n{"sentence": "b", "label": NaN}\n'}, {"regression": True},
         "train.jsonl line 2: label nan should be a number, for a score"),
        ({"train.csv": "sentence,label\na,-\n", "validation.csv": CSV}, {"label_names": ("pos", "neg")},
         "train.csv: none of its 1 examples has a label"),
        ({"train.csv": CSV}, {"label_names": ("pos", " ")}, "config.data.label_names=['pos', ' '] should be two or "),
        ({"train.csv": CSV}, {"label_names": ("pos",)}, "config.data.label_names=['pos'] should be two or more names"),
        ({"train.csv": CSV}, {"label_names": ("pos", "neg"), "regression": True}, "unset one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, files, config, message):
    with pytest.raises(UserError) as raised:
        read(tmp_path, files, **config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_labels_that_are_equal_numbers_are_one_class_in_every_file(tmp_path):
    train = "sentence,label\n" + "".join(f"s{n},{n}.0\n" for n in range(11))
    dev = "\n".join(json.dumps({"sentence": "s", "label": label}) for label in (2, 10, 10.0, "1e0"))
    test = "sentence\tlabel\ns\t3\ns\t4.00\n"
    data = read(tmp_path, {"train.csv": train, "validation.jsonl": dev, "test.tsv": test})
    assert data.task.labels == tuple(f"{n}.0" for n in range(11))
    assert data.train.labels.tolist() == list(range(11))
    assert data.evaluations["validation"].labels.tolist() == [2, 10, 10, 1]
    assert data.tests["test"].labels.tolist() == [3, 4]


def test_members_of_a_glob_may_spell_numbers_and_booleans_differently(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "a.csv").write_text("sentence,label\na,1.0\nb,0.0\n")
    (tmp_path / "b.jsonl").write_text('{"sentence": "c", "label": 0}\n{"sentence": "d", "label": 1}\n')
    data = open_labelled(LabelledConfig(source="files", train=f"{tmp_path}/*.*"), "")
    assert data.task.labels == ("0", "1") and data.train.labels.tolist() == [1, 0, 0, 1]
    assert (
        "labels that are equal numbers or booleans are one class: '1' and '1.0'; '0' and '0.0'" in caplog.text
    )
    files = {"train.json": '[{"sentence": "a", "label": true}, {"sentence": "b", "label": false}]'}
    data = read(tmp_path, files | {"validation.csv": "sentence,label\na,True\nb,FALSE\n"})
    assert data.evaluations["validation"].labels.tolist() == [1, 0]


def test_a_label_of_another_file_is_never_an_index(tmp_path):
    with pytest.raises(
        UserError, match=r"line 2: label '1' is not one of the classes 'neg', 'pos'; correct it, or set "
    ):
        read(tmp_path, {"train.csv": CSV, "validation.csv": "sentence,label\na,1\n"})
    with pytest.raises(UserError, match=r"line 2: label '1' is not one of the classes '0.0', '2.0'"):
        read(
            tmp_path,
            {"train.csv": "sentence,label\na,0.0\nb,2.0\n", "validation.csv": "sentence,label\na,1\n"},
        )


def test_named_classes_may_be_numbers_spelled_otherwise_in_the_files(tmp_path):
    data = read(tmp_path, {"train.csv": "sentence,label\na,1.0\nb,-2\nc,1\n"}, label_names=("1", "-2.0"))
    assert data.task.labels == ("1", "-2.0") and data.train.labels.tolist() == [0, 1, 0]


def test_classes_that_look_alike_are_warned_of(tmp_path, caplog):
    read(tmp_path, {"train.csv": "sentence,label\na,Pos\nb,pos\nc,caf\u00e9\nd,cafe\u0301\n"})
    assert caplog.messages == [
        "files train.csv: classes that differ by case, Unicode form, white space or leading zeros only: "
        "'Pos' and 'pos'; 'cafe\\u0301' and 'caf\\xe9'"
    ]


def test_a_label_that_looks_like_a_class_is_taken_for_it_and_that_is_said_once(tmp_path, caplog):
    data = read(tmp_path, {"train.csv": CSV, "validation.csv": "sentence,label\na,Pos\nb,NEG\n"})
    assert data.evaluations["validation"].labels.tolist() == [1, 0]
    (message,) = caplog.messages
    assert "line 2: label 'Pos' is read as the class 'pos'; they differ by case" in message


@pytest.mark.parametrize(("mark", "classes"), [("-", "no yes"), (-1, [0, 1, 2]), ("-1.0", "no yes")])
def test_examples_that_are_marked_as_without_a_label_are_passed_over_and_counted(
    tmp_path, caplog, mark, classes
):
    names = classes.split() if isinstance(classes, str) else classes
    labels = [mark, *names, mark, *names]
    lines = "".join(
        json.dumps({"sentence": f"s{n}", "label": label}) + "\n" for n, label in enumerate(labels)
    )
    data = read(tmp_path, {"train.jsonl": lines, "validation.jsonl": lines}, max_eval_examples=1)
    assert data.task.labels == tuple(map(str, names))
    assert data.train.labels.tolist() == [*range(len(names))] * 2
    assert data.train.ids == [n for n, label in enumerate(labels) if label != mark]
    held = data.evaluations["validation"]
    assert (held.first, held.labels.tolist()) == (["s1"], [0])
    assert caplog.messages[0] == (
        f"files train.jsonl: skipped 2 of {len(labels)} examples: the label (-1 or '-') marks an example without a "
        "label; if that label is a class, name it in config.data.label_names"
    )


def test_a_mark_that_is_named_is_a_class(tmp_path):
    train = "sentence,label\na,-1\nb,0\nc,1\nd,2\n"
    assert read(tmp_path, {"train.csv": train}, label_names=("-1", "0", "1", "2")).train.labels.tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert read(tmp_path, {"train.csv": train}, label_names=("0", "1", "2")).train.labels.tolist() == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("others", [(0, 1), (1, 2, 3, 4, 5), (-2, 0)])
def test_minus_one_beside_other_numbers_is_a_class_with_a_warning(tmp_path, caplog, others):
    names = sorted({-1, *others})
    data = read(tmp_path, {"train.csv": "sentence,label\n" + "".join(f"a,{name}\n" for name in names)})
    assert data.task.labels == tuple(map(str, names))
    warning = (
        "files train.csv: -1 is a class; if it marks examples without a label, set config.data.label_names to the "
        "others"
    )
    assert caplog.messages == ([warning] if -2 not in names else [])


def test_labels_of_a_test_file_that_are_not_known_do_not_matter(tmp_path, caplog):
    lines = ['{"sentence": "a", "label": NaN}', '{"sentence": "b"}', '{"sentence": "c", "label": ["x"]}',
             '{"sentence": "d", "label": "neg"}']  # fmt: skip
    data = read(tmp_path, {"train.csv": CSV, "test.jsonl": "\n".join(lines)})
    assert data.tests["test"].labels.tolist() == [-1, -1, -1, 0]
    assert data.tests["test"].labelled.tolist() == [False, False, False, True]
    (message,) = caplog.messages
    assert message.startswith(
        "config.data.test: 2 of 4 examples are not scored, because their labels are not known; the first: "
    )
    assert "test.jsonl line 1: label nan should be the name of a class" in message
    scores = "sentence,label\na,1.5\nb,inf\nc,\n"
    found = read(tmp_path, {"train.csv": "sentence,label\na,1\nb,2\n", "test.csv": scores}, regression=True)
    assert found.tests["test"].labelled.tolist() == [True, False, False]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_end_as_lines_of_any_text_file_do(tmp_path, end, suffix):
    texts = ["Fine", "one\rtwo\nthree\r\nfour", "", "last"]
    tables = {
        "train.csv": ["sentence,label", *(f'"{text}",{n % 2}' for n, text in enumerate(texts))],
        "validation.tsv": ["sentence\tlabel", "a\t1", "b\t0"],
        "test.jsonl": ['{"sentence": "c\\rd", "label": 0}', "", '{"sentence": "e", "label": 1}'],
    }
    files = {name: end.join([*rows, ""]).encode() for name, rows in tables.items()}
    if suffix:
        files = {f"{name}{suffix}": gzip.compress(content) for name, content in files.items()}
    data = read(tmp_path, files)
    assert data.train.first == texts, "line ends within quotes are a text's own"
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.evaluations["validation"].first == ["a", "b"]
    assert data.tests["test"].first == ["c\rd", "e"]


def test_a_json_array_may_have_carriage_returns_between_its_lines(tmp_path):
    rows = [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 1}]
    data = read(tmp_path, {"train.json": json.dumps(rows, indent=1).replace("\n", "\r")})
    assert data.train.first == ["a", "b"]


def test_a_bad_row_is_named_by_its_line_whatever_ends_lines(tmp_path):
    with pytest.raises(UserError, match=r"train\.csv line 3: 1 fields where there should be 2"):
        read(tmp_path, {"train.csv": "sentence,label\ra,x\rb\r"})


def test_a_glob_of_tables_passes_over_names_that_begin_with_a_dot(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("train.csv", ".train-backup.csv", "._train.csv", ".ipynb_checkpoints/train.csv"):
        (tmp_path / name).write_text(CSV)
    for glob in ("*.csv", "**/*.csv"):
        data = open_labelled(LabelledConfig(source="files", train=str(tmp_path / glob)), "")
        assert len(data.train) == 3


def test_a_comma_in_the_name_of_a_table_is_its_own_or_escaped(tmp_path):
    for name in ("a, b.csv", "c.csv"):
        (tmp_path / name).write_text(CSV)
    data = open_labelled(LabelledConfig(source="files", train=str(tmp_path / "a, b.csv")), "")
    assert (data.task.title, data.train.origin, len(data.train)) == ("a, b.csv", "files a, b.csv", 3)
    both = rf"{tmp_path}/a\, b.csv,{tmp_path}/c.csv"
    data = open_labelled(LabelledConfig(source="files", train=both), "")
    assert (data.task.title, data.train.origin, len(data.train)) == ("a, b.csv", "files a, b.csv, c.csv", 6)


def test_lists_of_labels_may_be_nested(tmp_path):
    rows = [{"sentence": "a", "m": {"l": ["x", "y"]}}, {"sentence": "b", "m": {"l": []}}]
    data = read(tmp_path, {"train.jsonl": "\n".join(map(json.dumps, rows))}, label="m.l")
    assert data.task.labels == ("x", "y") and data.train.labels.tolist() == [[1, 1], [0, 0]]

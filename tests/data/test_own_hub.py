"""Any data set of the hub, and Parquet files: a folder in the hub's layout goes through the same code as the hub."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.open import open_labelled
from data.labelled.tasks import CLASSES, MULTI_LABEL, SCORES, TOKENS

TEXTS = ["a", "b", "c", "d", "e", "f"]
TAGS = ["O", "B-PER", "I-PER"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def card(features: str, splits: tuple[str, ...], subset: str = "default") -> str:
    files = "\n".join(f"  - split: {split}\n    path: {subset}/{split}-*" for split in splits)
    return (
        f"---\ndataset_info:\n- config_name: {subset}\n  features:\n{features}\nconfigs:\n- config_name: {subset}\n"
        f"  data_files:\n{files}\n---\n"
    )


NAMES = """  - name: text
    dtype: string
  - name: topic
    dtype:
      class_label:
        names:
          '0': sport
          '1': arts"""
MANY = """  - name: text
    dtype: string
  - name: topics
    sequence:
      class_label:
        names:
          '0': sport
          '1': arts
          '2': news"""
WORDS = """  - name: tokens
    sequence: string
  - name: ner_tags
    sequence:
      class_label:
        names:
          '0': O
          '1': B-PER
          '2': I-PER"""


def data_set(folder: Path, features: str, subset: str = "default", **splits: dict[str, list]) -> str:
    (folder / subset).mkdir(parents=True)
    (folder / "README.md").write_text(card(features, tuple(splits), subset))
    for split, columns in splits.items():
        pq.write_table(pa.table(columns), folder / subset / f"{split}-00000-of-00001.parquet")
    (folder / "evil.py").write_text("raise SystemExit('a script of a data set was run')")
    return str(folder)


def read(name: str, per_word: bool = False, **fields: object):
    config = LabelledConfig(source="hub", name=name, **fields)  # type: ignore[arg-type]
    return open_labelled(config, "", hold_out=True, per_word=per_word)


def test_classes_have_the_data_sets_names_and_a_share_is_held_out_where_there_is_no_second_split(
    tmp_path: Path,
):
    name = data_set(tmp_path / "set", NAMES, train={"text": TEXTS * 4, "topic": [0, 1] * 12})
    data = read(name, text="text", label="topic", validation_share=0.25)
    assert (data.task.kind, data.task.labels, data.task.title) == (CLASSES, ("sport", "arts"), "set")
    held = data.evaluations["validation"]
    assert (len(data.train), len(held)) == (18, 6) or len(data.train) + len(held) == 24
    assert not set(data.train.first) & set(held.first)
    again = read(name, text="text", label="topic", validation_share=0.25)
    assert again.evaluations["validation"].first == held.first


def test_splits_are_named_and_a_test_split_with_hidden_labels_is_read(tmp_path: Path):
    columns = {"text": TEXTS, "topic": [0, 1, 0, 1, 0, 1]}
    name = data_set(
        tmp_path / "set",
        NAMES,
        "small",
        fit=columns,
        dev={"text": ["x"], "topic": [1]},
        test={"text": ["y", "z"], "topic": [-1, -1]},
    )
    data = read(name, subset="small", train="fit", validation="dev", text="text", label="topic")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.evaluations["validation"].labels.tolist() == [1]
    assert data.tests["test"].labels is None and data.tests["test"].first == ["y", "z"]
    assert data.train.origin == "folder set small fit"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["x", "y"] * 3, ("x", "y")),
        ([3, 7] * 3, ("3", "7")),
        ([True, False] * 3, ("false", "true")),
        ([1.0, 2.0] * 3, ("1.0", "2.0")),
    ],
)
def test_strings_numbers_booleans_and_whole_floats_are_classes(tmp_path: Path, labels: list, names: tuple):
    pq.write_table(pa.table({"sentence": TEXTS, "label": labels}), tmp_path / "train.parquet")
    data = open_labelled(
        LabelledConfig(source="files", train=str(tmp_path / "train.parquet")), "", hold_out=True
    )
    assert data.task.labels == names


def test_scores_of_a_data_set(tmp_path: Path):
    features = "  - name: sentence\n    dtype: string\n  - name: label\n    dtype: float64"
    name = data_set(tmp_path / "set", features, train={"sentence": TEXTS, "label": [0.5, 1, 2, 3, 4, 5.0]})
    assert read(name, regression=True).task.kind == SCORES


def test_a_list_of_labels_is_multi_label(tmp_path: Path):
    name = data_set(
        tmp_path / "set",
        MANY,
        train={"text": TEXTS, "topics": [[0], [1, 2], [], [2], [0, 1], [0, 2]]},
        validation={"text": ["x"], "topics": [[1]]},
        test={"text": ["y"], "topics": [None]},
    )
    data = read(name, text="text", label="topics")
    assert (data.task.kind, data.task.labels) == (MULTI_LABEL, ("sport", "arts", "news"))
    assert data.train.labels.tolist()[:3] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert data.train.labels.dtype == np.float32
    assert data.tests["test"].labels is None


def test_words_and_their_tags(tmp_path: Path):
    columns = {"tokens": [["Ola", "Nordmann", "ser"], ["ja"]], "ner_tags": [[1, 2, 0], [0]]}
    data = read(data_set(tmp_path / "set", WORDS, train=columns, validation=columns), per_word=True)
    assert (data.task.kind, list(data.task.labels), data.task.chooses) == (TOKENS, TAGS, "f1")
    assert data.train.words == columns["tokens"] and data.train.labels.tolist() == [1, 2, 0, 0]


def test_parquet_files_of_datasets_keep_the_names_of_their_classes(tmp_path: Path):
    columns = {"tokens": [["Ola", "ser"], ["ja"]], "ner_tags": [[1, 0], [0]]}
    kinds = {
        "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "ner_tags": {"feature": {"names": TAGS, "_type": "ClassLabel"}, "_type": "List"},
    }
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": kinds}})}
    )
    file = tmp_path / "train.parquet"
    pq.write_table(table, file)
    data = open_labelled(
        LabelledConfig(source="files", train=str(file), validation=str(file)), "", per_word=True
    )
    assert list(data.task.labels) == TAGS and data.train.labels.tolist() == [1, 0, 0]


BAD = [
    (
        {"text": "body", "label": "topic"},
        "no field 'body'; fields present: text, topic; set config.data.text",
    ),
    (
        {"text": "text", "label": "gold"},
        "no field 'gold'; fields present: text, topic; set config.data.label",
    ),
    (
        {"text": "text", "label": "topic", "validation": "dev"},
        "config.data.validation='dev' is not a split of",
    ),
    (
        {"text": "text", "label": "topic", "revision": "v2"},
        "config.data.revision='v2' is of a data set on the hub",
    ),
    ({"subset": "large"}, "config.data.subset='large' is not a configuration of"),
    ({"text": "text", "label": "topic", "regression": True}, "label 'sport' should be a number, for a score"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_what_is_wrong_is_one_line(tmp_path: Path, fields: dict, message: str):
    name = data_set(tmp_path / "set", NAMES, train={"text": TEXTS, "topic": [0, 1, 0, 1, 0, 1]})
    with pytest.raises(UserError) as raised:
        read(name, **fields)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_folder_and_an_empty_split_are_one_line(tmp_path: Path):
    with pytest.raises(UserError) as raised:
        read(str(tmp_path / "none"))
    assert "none" in str(raised.value) and "\n" not in str(raised.value)
    columns = {"text": pa.array([], pa.string()), "topic": pa.array([], pa.int64())}
    name = data_set(tmp_path / "set", NAMES, train=columns)
    with pytest.raises(UserError, match="a data file is empty or cannot be read"):
        read(name, text="text", label="topic")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (['"a"', '["b"]'], r"label \['b'\] is a list where one label is due"),
        (['["a"]', '"b"'], "label 'b' should be a list of labels, like that of the first example"),
    ],
)
def test_a_list_where_one_label_is_due_and_the_reverse(tmp_path: Path, labels: list[str], message: str):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f'{{"sentence": "x", "label": {label}}}\n' for label in labels))
    with pytest.raises(UserError, match=message):
        open_labelled(LabelledConfig(source="files", train=str(file)), "", hold_out=True)


def lists(folder: Path, name: str, *labels: str) -> str:
    """Write examples with these lists of labels, in JSON, to a file; returns its path."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(f'{{"sentence": "x{n}", "label": {each}}}\n' for n, each in enumerate(labels)))
    return str(file)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            ("[0, 1]", "[0, 1, 0, 0]"),
            (),
            "line 2: label [0, 1, 0, 0] has 0 twice; a list should name the classes of",
        ),
        (("[0, 1]", "[0, 1, 0, 0]"), ("a", "b"), "line 2: label [0, 1, 0, 0] has 0 twice"),
        (('["a"]', '["b", "c", "b "]'), (), "line 2: label ['b', 'c', 'b '] has 'b' twice"),
        (("[false, true, false]",), (), "line 1: label [False, True, False] has False twice"),
        (("[1, -1]", "[-1, 1, -1]"), (), "train.jsonl: label ['-1', '1', '-1'] has '-1' twice"),
    ],
)
def test_a_label_that_is_twice_in_a_list_is_refused(
    tmp_path: Path, labels: tuple, names: tuple, message: str
):
    train = lists(tmp_path, "train", *labels)
    with pytest.raises(UserError) as raised:
        open_labelled(LabelledConfig(source="files", train=train, validation=train, label_names=names), "")
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "names", "sets"),
    [
        (('["a"]', '["b"]', '["-"]', "[]", '["b", "-"]'), (), [[1, 0], [0, 1], [0, 0], [0, 1]]),
        (('["a"]', '["b"]', '["-"]', "[]", '["b", "-"]'), ("a", "b"), [[1, 0], [0, 1], [0, 0], [0, 1]]),
        (("[0]", "[1, 2]", "[-1]", "[2, -1, -1]"), (), [[1, 0, 0], [0, 1, 1], [0, 0, 1]]),
        (("[0]", "[1, 2]", "[-1, -1]", "[2, -1]"), ("0", "1", "2"), [[1, 0, 0], [0, 1, 1], [0, 0, 1]]),
    ],
)
def test_lists_of_marks_are_passed_over_and_marks_beside_labels_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: tuple, names: tuple, sets: list
):
    train = lists(tmp_path, "train", *labels)
    data = open_labelled(
        LabelledConfig(source="files", train=train, validation=train, test=train, label_names=names), ""
    )
    assert data.train.labels.tolist() == data.evaluations["validation"].labels.tolist() == sets
    skipped = f"skipped 1 of {len(labels)} examples: the label (-1 or '-') marks an example without a label"
    assert sum(skipped in message for message in caplog.messages) == 2
    assert data.tests["test"].labelled.tolist() == [n != 2 for n in range(len(labels))]


def test_a_parquet_file_with_a_damaged_page_is_one_line(tmp_path: Path):
    file = tmp_path / "train.parquet"
    texts = [f"text {n} {n * n}" for n in range(2000)]
    pq.write_table(pa.table({"sentence": texts, "label": [n % 2 for n in range(2000)]}), file)
    content = bytearray(file.read_bytes())
    content[200:1200] = b"\xff" * 1000
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.parquet is damaged, or no Parquet file: ") as raised:
        open_labelled(LabelledConfig(source="files", train=str(file), validation=str(file)), "")
    assert "\n" not in str(raised.value)

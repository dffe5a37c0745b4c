"""Sentences whose words have labels: files in columns, JSON lines, and what is wrong with them."""

import gzip
from pathlib import Path

import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.open import open_labelled

COLUMNS = "Ola\tsubst\tB-PER\nser\tverb\tO\n\nParis\tsubst\tB-LOC\n"


def read(folder: Path, name: str, content: str, **fields: object):
    file = folder / name
    file.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    config = LabelledConfig(source="files", **{"train": str(file), "validation": str(file), **fields})  # type: ignore[arg-type]
    return open_labelled(config, "", per_word=True, hold_out=True)


@pytest.mark.parametrize("name", ["train.tsv", "train.conll.gz", "train.txt"])
@pytest.mark.parametrize(
    "content",
    [
        COLUMNS,
        COLUMNS.replace("\t", "  "),
        "\ufeff# a comment\n" + COLUMNS.replace("\n", "\r\n"),
        "-DOCSTART- -X- O\n\n\n" + COLUMNS + "\n\n\n",
    ],
    ids=["tabs", "blanks", "comment", "documents"],
)
def test_columns_are_named_by_number(tmp_path: Path, name: str, content: str):
    data = read(tmp_path, name, content, text="0", label="2")
    assert data.train.words == [["Ola", "ser"], ["Paris"]]
    assert data.task.labels == ("B-LOC", "B-PER", "O") and data.train.labels.tolist() == [1, 2, 0]
    assert data.task.metrics == ("accuracy", "precision", "recall", "f1")
    by_default = read(tmp_path, name, content)
    assert by_default.train.labels.tolist() == [1, 2, 0]
    parts = read(tmp_path, name, content, label="-2")
    assert parts.task.labels == ("subst", "verb") and parts.task.chooses == "accuracy"


def test_a_word_may_be_a_number_sign_and_a_treebank_has_ranges_and_empty_nodes(tmp_path: Path):
    assert read(tmp_path, "a.tsv", "#\tO\nx\tB-A\n").train.words == [["#", "x"]]
    rows = ["# sent_id = 1", "1-2\tdel\t_", "1\tde\tADP", "2\tel\tDET", "2.1\tx\tVERB", "", "1\tja\tADP"]
    data = read(tmp_path, "a.conllu", "\n".join(rows), text="1", label="2")
    assert data.train.words == [["de", "el"], ["ja"]] and data.task.labels == ("ADP", "DET")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.conll", "# id X\tdomain=en\na O\nb B-A\n", [["a", "b"]]),
        ("a.conll", "# id\tX\n#\tO\nb\tB-A\n", [["#", "b"]]),
        ("a.conll", "-DOCSTART- O\n\n#\tO\n\nb\tB-A\n# newdoc\nc\tO\n", [["#"], ["b", "c"]]),
        ("a.conll", "b\tB-A\n# newdoc\nc\tO\n", [["b", "c"]]),
        ("a.conll", "b B-A\n# newdoc\nc O\n", [["b", "c"]]),
        ("a.conll", "# newpar\nb B-A\nc O\n", [["b", "c"]]),
        ("a.conll", "b x y B-A\n# sent_id = 1\n# x y O\n", [["b", "#"]]),
        ("a.conll", "# O\nb B-A\n# O\n", [["#", "b", "#"]]),
        ("a.conllu", "# id X\tdomain=en\n1\ta\tO\n# a\tb\tc\n2\tb\tX\n", [["1", "2"]]),
    ],
)
def test_a_comment_is_a_line_that_has_not_the_columns_of_the_words(
    tmp_path: Path, name: str, content: str, words: list[list[str]]
):
    data = read(tmp_path, name, content)
    assert data.train.words == words and not {"newdoc", "domain=en"} & set(data.task.labels)


def test_lists_of_words_and_tags(tmp_path: Path):
    lines = '{"tokens": ["Ola", "ser"], "tags": ["B-PER", "O"]}\n{"tokens": [], "tags": []}\n'
    data = read(tmp_path, "train.jsonl", lines)
    assert data.train.words == [["Ola", "ser"]] and data.train.labels.tolist() == [0, 1]


def test_a_share_is_held_out_and_a_test_file_may_lack_tags(tmp_path: Path):
    (tmp_path / "test.conll").write_text("ja\n\nnei\ntakk\n")
    content = "".join(f"w{i}\tO\nx\tB-A\n\n" for i in range(20))
    data = read(tmp_path, "train.tsv", content, validation="", test=str(tmp_path / "test.conll"))
    assert (len(data.train), len(data.evaluations["validation"])) == (18, 2)
    assert data.tests["test"].labels is None and data.tests["test"].words == [["ja"], ["nei", "takk"]]


def test_unknown_tags_of_a_test_file_leave_their_sentences_unscored(tmp_path: Path):
    (tmp_path / "test.tsv").write_text("a\tO\n\nb\tB-NEW\nc\tO\n")
    data = read(tmp_path, "train.tsv", "a\tO\nb\tB-A\n", test=str(tmp_path / "test.tsv"))
    test = data.tests["test"]
    assert test.labelled.tolist() == [True, False, False] and test.labelled_count == 1


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.tsv", "x\tO\ny\n", {}, "a.tsv line 2: 1 columns where the lines before have 2; correct the line"),
        (
            "a.tsv",
            "x\tO\ny\tB\n",
            {"label": "5"},
            "no field '5'; fields present: 0, 1; set config.data.label",
        ),
        ("a.tsv", "x\tO\ny\tB\n", {"text": "5"}, "no field '5'; fields present: 0, 1; set config.data.text"),
        ("a.tsv", "\n\n", {}, "a.tsv: there are no sentences"),
        (
            "a.jsonl",
            '{"tokens": ["a", "b"], "tags": ["O"]}',
            {},
            "line 1: 2 words have 1 tags; each word needs one",
        ),
        (
            "a.jsonl",
            '{"tokens": "a b", "tags": ["O"]}',
            {},
            "field 'tokens' should hold a list of words, not str",
        ),
        ("a.jsonl", '{"tokens": ["a"], "tags": "O"}', {}, "field 'tags' should hold a list of tags"),
        (
            "a.jsonl",
            '{"tokens": ["a"]}',
            {},
            "no field 'label'; fields present: tokens; set config.data.label",
        ),
        ("a.jsonl", '{"tokens": [], "tags": []}', {}, "train has no sentence with a word (1 rows)"),
        ("a.tsv", "x\tO\ny\tO\n", {}, "all tags are 'O'; a classifier needs words of two classes or more"),
        (
            "a.tsv",
            "x\tO\ny\tB-A\n",
            {"label_names": ("O", "B-B")},
            "a.tsv line 1: tag 'B-A' is not one of the classes 'O', 'B-B'; correct it, or set config.data.label_names",
        ),
        (
            "a.jsonl",
            '{"tokens": ["a", "b"], "tags": ["O", null]}',
            {},
            "a.jsonl line 1: tag None of word 2 should be the name of a class; correct it, or set config.data.label",
        ),
        ("a.jsonl", '{"tokens": ["a"], "tags": [" "]}', {}, "line 1: tag ' ' of word 1 should be the name"),
        (
            "a.jsonl",
            '{"tokens": ["a"], "tags": [["O"]]}',
            {},
            "line 1: tag ['O'] of word 1 should be the name",
        ),
        ("a.csv", "x,O\n", {}, "a.csv' is none of .conll, .conllu, "),
        (
            "a.txt",
            "x\ny\n",
            {},
            "line 1: field '0' holds the words, and no other their tags; fields present: 0; set config.data.label",
        ),
        ("a.tsv", "x\tO\ny\tB\n", {"text": "1"}, "field '1' holds the words, and no other their tags"),
        (
            "a.tsv",
            "x\tO\ny\tB\n",
            {"label_names": ("O", "B", "O")},
            "config.data.label_names=['O', 'B', 'O'] should be two or more names, each once",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str, content: str, fields: dict, message: str):
    with pytest.raises(UserError) as raised:
        read(tmp_path, name, content, **fields)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_tags_have_no_blanks_around_them_and_may_be_numbers_or_booleans(tmp_path: Path):
    lines = '{"tokens": ["a", "b", "c"], "tags": ["B-PER ", "O", " O"]}\n'
    for names in ((), ("B-PER ", "O")):
        data = read(tmp_path, "a.jsonl", lines, label_names=names)
        assert data.train.labels.tolist() == [0, 1, 1] and data.task.chooses == "f1"
    assert read(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "tags": [1, 0]}').task.labels == ("0", "1")
    booleans = read(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "tags": [true, false]}')
    assert booleans.task.labels == ("false", "true")


def test_a_test_set_may_lack_some_tags(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "test.jsonl").write_text(
        '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O", null]}'
    )
    data = read(tmp_path, "train.tsv", "a\tO\nb\tnull\n", test=str(tmp_path / "test.jsonl"))
    assert data.tests["test"].labelled.tolist() == [True, False, False]
    assert caplog.messages == ["files test.jsonl: 1 of 3 tags are no classes; their sentences are not scored"]


TYPO = COLUMNS + "\nKari\tsubst\tBPER\n"


@pytest.mark.parametrize(
    ("content", "fields", "said"),
    [
        (TYPO, {}, ["line 6: tags that are neither O nor a part of an entity such as 'B-LOC': 'BPER'; so"]),
        (
            "token\tpos\tlabel\n" + COLUMNS,
            {},
            [
                "line 1: tags that are neither O nor a part of an entity such as 'B-LOC': 'label'; so scores are by"
            ],
        ),
        (
            TYPO + "x\ty\tB\nx\ty\tC\nx\ty\tD\n",
            {},
            ["'B', 'BPER', 'C', ... (4 of them); so scores are by token"],
        ),
        (TYPO, {"label_names": ("O", "B-PER", "BPER", "B-LOC")}, []),
        (COLUMNS, {}, []),
        (COLUMNS, {"label": "1"}, []),
        ("a\tO\nb\tX\n", {}, []),
        ("a\tS-X\nb\tB\n", {}, []),
    ],
)
def test_a_tag_that_keeps_entities_from_being_scored_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, fields: dict, said: list[str]
):
    data = read(tmp_path, "a.tsv", content, **fields)
    assert len(caplog.messages) == len(said)
    for part, message in zip(said, caplog.messages, strict=True):
        assert part in message and message.endswith(
            "Correct them, or set config.data.label_names to all classes"
        )
        assert data.task.chooses == "accuracy"


def test_words_come_from_files_or_the_hub_and_no_glue_task():
    with pytest.raises(UserError, match=r"words and their labels from config\.data\.source=files or hub"):
        open_labelled(LabelledConfig(source="tfds"), "", per_word=True)
    with pytest.raises(UserError, match=r"set config\.data\.source, and config\.task=''"):
        open_labelled(LabelledConfig(), "cola", per_word=True)

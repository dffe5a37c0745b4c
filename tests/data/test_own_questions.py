"""Questions from SQuAD's layouts, and every mistake in them as one line."""

import gzip
import json
from pathlib import Path

import datasets
import pytest

from base.errors import UserError
from base.schema import build
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled

CONTEXT = "A poet wrote it in 1920."
FLAT = {
    "id": "a",
    "question": "Who?",
    "context": CONTEXT,
    "answers": {"text": ["A poet"], "answer_start": [0]},
}
NESTED = {"id": "a", "question": "Who?", "answers": [{"text": "A poet", "answer_start": 0}]}


def opened(**fields) -> LabelledData:
    config = build(LabelledConfig, {"source": "files", **fields})
    return open_labelled(config, "", hold_out=True, questions=True)


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def squad(path: Path, *qas: dict, indent: int | None = None, **fields) -> str:
    paragraphs = [{"context": CONTEXT, "qas": list(qas), **fields}]
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}, indent=indent))
    return str(path)


def test_all_layouts_have_the_same_questions(tmp_path: Path):
    second = {**FLAT, "id": "b", "question": "Why?", "answers": {"text": [], "answer_start": []}}
    lacking = {"id": "b", "question": "Why?", "answers": [], "is_impossible": True}
    flat = write(tmp_path / "flat.jsonl", FLAT, second)
    files = [
        flat,
        squad(tmp_path / "nested.json", NESTED, lacking),
        squad(tmp_path / "pretty.json", NESTED, lacking, indent=2),
    ]
    (tmp_path / "array.json").write_text(json.dumps([FLAT, second], indent=1))
    datasets.Dataset.from_list([FLAT, second]).to_parquet(tmp_path / "table.parquet")
    with gzip.open(tmp_path / "packed.json.gz", "wt") as file:
        file.write(Path(files[1]).read_text())
    files += [str(tmp_path / name) for name in ("array.json", "table.parquet", "packed.json.gz")]
    for file in files:
        data = opened(train=file, validation=flat)
        train = data.train
        assert train.questions == ["Who?", "Why?"] and train.ids == ["a", "b"] and train.lack_answers
        assert [each.context for each in train.references] == [CONTEXT] * 2
        assert [each.answers for each in train.references] == [((0, "A poet"),), ()]
        assert data.task.metrics == ("exact_match", "f1_has_answer", "f1_no_answer", "f1")
        assert data.task.chooses == "f1" and data.task.kind == "questions" and len(train) == 2


def test_a_data_set_of_the_hub_and_columns_by_name(tmp_path: Path):
    rows = [{"q": "Who?", "c": CONTEXT, "a": FLAT["answers"]}] * 3
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "train.parquet")
    names = {"text": "q", "text_pair": "c", "label": "a"}
    config = build(
        LabelledConfig, {"source": "hub", "name": str(tmp_path / "data"), "validation": "train", **names}
    )
    data = open_labelled(config, "", questions=True)
    assert data.train.ids == [0, 1, 2] and data.train.references[0].texts == ("A poet",)
    assert data.task.metrics == ("exact_match", "f1") and data.task.texts == ("q", "c")


def test_a_share_of_the_contexts_is_held_out_and_a_test_set_may_lack_answers(tmp_path: Path):
    rows = [{**FLAT, "id": f"{c}-{q}", "context": f"{CONTEXT} {c}"} for c in range(20) for q in range(3)]
    hidden = write(
        tmp_path / "test.jsonl",
        {"question": "Who?", "context": "x"},
        {**FLAT, "id": "b", "answers": None},
        FLAT,
    )
    data = opened(train=write(tmp_path / "train.jsonl", *rows), test=hidden)
    inside, outside = (
        {each.context for each in part.references} for part in (data.train, data.evaluations["validation"])
    )
    assert not inside & outside and len(data.train) + len(data.evaluations["validation"]) == 60
    assert len(outside) == 2
    test = data.tests["test"]
    assert test.labelled.tolist() == [False, False, True] and test.labelled_count == 1
    limited = opened(
        train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "train.jsonl"), max_train_examples=5
    )
    assert len(limited.train) == 5 and limited.train.origin.endswith("first 5")


WRONG = {
    "no question": ({"question": None}, r"line 1: field 'question' should be a question, not NoneType"),
    "no context": ({"context": "  "}, r"line 1: the context is empty; field 'context' should be the text"),
    "moved": (
        {"answers": {"text": ["A poet"], "answer_start": [2]}},
        r"line 1: the answer 'A poet' is not at answer_start=2 of the context, where 'poet w' is; correct it",
    ),
    "negative": ({"answers": {"text": ["poet"], "answer_start": [-5]}}, r"not at answer_start=-5"),
    "blank": ({"answers": {"text": [" "], "answer_start": [1]}}, r"line 1: an answer is empty"),
    "ragged": ({"answers": {"text": ["A poet"], "answer_start": []}}, r"two lists of the same length$"),
    "text": ({"answers": "A poet"}, r"field 'answers' should hold the texts of answers .*, not str"),
    "numbers": ({"answers": {"text": [1920], "answer_start": [19]}}, r"not text=1920 and answer_start=19"),
    "hidden": ({"answers": None}, r"field 'answers' should hold .*, not NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_in_a_question_is_one_line(case: str, tmp_path: Path):
    fields, message = WRONG[case]
    file = write(tmp_path / "train.jsonl", {**FLAT, **fields})
    with pytest.raises(UserError, match=message) as error:
        opened(train=file, validation=file)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_a_mistake_in_a_file_is_one_line(tmp_path: Path):
    no_answers = {name: value for name, value in FLAT.items() if name != "answers"}
    (tmp_path / "a.csv").write_text("question,context\n")
    (tmp_path / "broken.json").write_text('{"data": [')
    for file, message in (
        (write(tmp_path / "b.jsonl", no_answers), r"b\.jsonl line 1: .*'answers'.*config\.data\.label"),
        (write(tmp_path / "c.jsonl", {"question": "Who?"}), r"line 1: .*'context'.*config\.data\.text_pair"),
        (
            write(tmp_path / "d.jsonl", FLAT, FLAT),
            r"d\.jsonl line 2: id 'a' is there twice, first at .* line 1",
        ),
        (
            write(tmp_path / "text.jsonl", {**FLAT, "id": "1"}, {**FLAT, "id": 1}),
            r"text\.jsonl line 2: id 1 is there twice, first at .* line 1",
        ),
        (
            write(tmp_path / "none.jsonl", {**FLAT, "id": "1"}, {**FLAT, "id": None}),
            r"none\.jsonl line 2: the number 1, which counts as its id, is there twice",
        ),
        (write(tmp_path / "e.jsonl"), r"e\.jsonl: the file is empty"),
        (
            squad(tmp_path / "f.json"),
            r"^config\.data\.train='.*f\.json': train has no question; name another",
        ),
        (
            squad(tmp_path / "g.json", NESTED, qas=None),
            r"g\.json data\[0\]\.paragraphs\[0\] has no list 'qas'",
        ),
        (str(tmp_path / "a.csv"), r"^config\.data\.train: '.*a\.csv' is none of \.json, \.jsonl, \.parquet"),
        (
            write(tmp_path / "h.json", {"version": "v2.0", "articles": []}),
            r"h\.json: its object has no list 'data', which SQuAD's file has, but version, articles; put",
        ),
        (write(tmp_path / "i.json", {"rows": []}), r"i\.json: its object has no list 'data'"),
        (
            squad(tmp_path / "j.json", NESTED, context=None),
            r"j\.json data\[0\]\.paragraphs\[0\]\.qas\[0\]: the context is missing; field 'context'",
        ),
        (str(tmp_path / "broken.json"), r"broken\.json line 1: broken JSON"),
    ):
        with pytest.raises(UserError, match=message) as error:
            opened(train=file, validation=file)
        assert "\n" not in str(error.value)
    moved = {**NESTED, "answers": [{"text": "poem", "answer_start": 2}]}
    with pytest.raises(
        UserError, match=r"moved\.json data\[0\]\.paragraphs\[0\]\.qas\[0\]: the answer 'poem' is not"
    ):
        opened(train=squad(tmp_path / "moved.json", moved))
    with pytest.raises(
        UserError,
        match=r"^config\.data\.train, validation and test are empty; set .* to json, jsonl or parquet files$",
    ):
        opened()
    with pytest.raises(UserError, match=r"^config\.kind='questions' reads questions and their contexts from"):
        open_labelled(build(LabelledConfig, {"source": "hub"}), "mrpc", questions=True)

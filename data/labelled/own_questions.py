"""Questions with contexts and answers, from files in SQuAD's layout or from any data set of the hub.

The layouts are SQuAD's own file (json: `data`, `paragraphs`, `qas`), of version 1.1 or 2.0, and rows with the fields
question, context, answers (texts and first characters) and possibly id, as jsonl, parquet or a data set of the hub.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from base.errors import UserError
from base.json_files import parsed
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData, Limits
from data.labelled.held_out_examples import check_share, held_out
from data.labelled.own_sources import SPLITS, Files, OwnSource, own_source, rows_of_file
from data.labelled.questions import Questions, Reference
from data.labelled.tables import Row
from data.labelled.tasks import QUESTIONS, Task
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, decode, value_of
from data.sources.paths import suffixes

Ids = dict[str, tuple[int | str, str]]
"""Ids of questions with the places of their rows, by their text: SQuAD's form of predictions has no other."""

QUESTION, CONTEXT, ANSWERS, ID = "question", "context", "answers", "id"
"""Fields that are taken where the config has its defaults."""
IMPOSSIBLE = "is_impossible"
"""The field of SQuAD 2.0's file that says that a context does not answer the question."""
SETTINGS = ("config.data.text", "config.data.text_pair", "config.data.label")
DATA, VERSION = "data", "version"
"""Fields of SQuAD's file."""
METRICS, METRICS_OF_BOTH = ("exact_match", "f1"), ("exact_match", "f1_has_answer", "f1_no_answer", "f1")
"""Metrics where every question has an answer, and where some have none."""
FORMATS = (".json", ".jsonl", ".parquet")
SHOWN = 40


def read_questions(
    config: LabelledConfig, parts: Collection[str], limits: Limits, *, hold_out: bool = False
) -> LabelledData:
    """Read questions: the task that they define, and its examples.

    Args:
      config: the run's config.data.
      parts: the parts to return, among train, evaluations and tests.
      limits: largest number of questions in each set.
      hold_out: whether to hold out a share of the training questions if there are none to evaluate on; questions of the
        same context stay together.

    Raises:
      UserError: a mistake in the config or in the data; the message names the line.
    """
    check_share(config)
    source = own_source(config, formats=FORMATS)
    wanted = {"train": "train", "validation": "evaluations", "test": "tests"}
    holds_out = hold_out and not source.has("validation")
    read = {
        split: _read(config, source, split)
        for split in SPLITS
        if source.has(split) and (wanted[split] in parts or (split == "train" and holds_out))
    }
    if "train" in read and holds_out:
        read |= _held_out(config, read["train"])
    most = {"train": limits.train, "validation": limits.evaluation, "test": None}
    sets = {split: each.first(most[split]) for split, each in read.items()}
    evaluations = {name: sets[name] for name in ("validation",) if name in sets and "evaluations" in parts}
    tests = {name: sets[name] for name in ("test",) if name in sets and "tests" in parts}
    metrics = METRICS_OF_BOTH if any(each.lack_answers for each in sets.values()) else METRICS
    task = Task(
        name="",
        title=source.title,
        texts=columns_of(config)[:2],
        labels=(),
        metrics=metrics,
        chooses=metrics[-1],
        evaluations=tuple(evaluations),
        tests=tuple(tests),
        kind=QUESTIONS,
    )
    return LabelledData(task, sets.get("train") if "train" in parts else None, evaluations, tests)


def columns_of(config: LabelledConfig) -> tuple[str, str, str]:
    """The fields of the question, the context and the answers."""
    default = LabelledConfig()
    return (
        QUESTION if config.text in ("", default.text) else config.text,
        config.text_pair or CONTEXT,
        ANSWERS if config.label in ("", default.label) else config.label,
    )


def _read(config: LabelledConfig, source: OwnSource, split: str) -> Questions:
    """All questions of a split.

    Raises:
      UserError: a field is missing or has another form, an answer is not where it should be, an id is there twice, or
        there is no question.
    """
    columns, questions, references = columns_of(config), list[str](), list[Reference]()
    ids: Ids = {}
    for row in _rows(source, split):
        try:
            question, reference = question_of(row, columns, may_lack=split == "test")
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None
        questions.append(question)
        references.append(reference)
        add_id(ids, row)
    if not questions:
        raise UserError(f"{source.setting(split)}: {split} has no question; name another")
    return Questions(questions, references, [given for given, _ in ids.values()], source.origin(split))


def add_id(ids: Ids, row: Row) -> int | str:
    """Add the id of a row, or its number, to the ids; returns it.

    Args:
      ids: those of the rows before it.
      row: the row.

    Raises:
      UserError: it is there already.
    """
    found = row.fields.get(ID)
    name: int | str = len(ids)
    whose = f"the number {name}, which counts as its id,"
    if isinstance(found, int | str) and not isinstance(found, bool):
        name, whose = found, f"id {found!r}"
    if str(name) in ids:
        first = ids[str(name)][1]
        raise UserError(f"{row.place}: {whose} is there twice, first at {first}; give it another id")
    ids[str(name)] = name, row.place
    return name


def _rows(source: OwnSource, split: str) -> Iterator[Row]:
    if not isinstance(source, Files):
        yield from source.rows(split, {})
        return
    for file in source.files(split):
        yield from rows_of_questions(file.path, f"config.data.{split}")


def rows_of_questions(path: str, setting: str) -> Iterator[Row]:
    """The rows of a file: SQuAD's own layout, or a row for each question.

    Args:
      path: the file.
      setting: what names it, for messages.

    Raises:
      UserError: another format, broken JSON, or a part of SQuAD's layout that is missing.
    """
    kind = suffixes(path)[0]
    if kind not in FORMATS:
        raise UserError(
            f"{setting}: {path!r} is none of {', '.join(FORMATS)}, which hold questions and answers; all but .parquet "
            "may also end in .gz or .zst"
        )
    nested = _nested(path) if kind == ".json" else None
    yield from rows_of_file(path, {}) if nested is None else _flattened(path, nested)


def _nested(path: str) -> list[Any] | None:
    """The articles of a file in SQuAD's own layout; None if it has another.

    Raises:
      UserError: broken UTF-8, or one object that is neither SQuAD's nor a row.
    """
    try:
        content = decode(b"".join(read_lines(path)))
    except FlawError as flaw:
        raise UserError(f"{path}: {flaw}") from None
    if not content.lstrip().startswith("{"):
        return None
    try:
        found = parsed(content)
    except ValueError:
        return None  # an object a line, or broken: reading its lines says where
    if not isinstance(found, Mapping):
        return None
    articles: Any = found.get(DATA)
    if isinstance(articles, list):
        return articles
    if {DATA, VERSION} & set(found) or not any(isinstance(each, str | Mapping) for each in found.values()):
        raise UserError(
            f"{path}: its object has no list {DATA!r}, which SQuAD's file has, but {', '.join(found) or 'no fields'}; "
            "put the articles there, or write an array of rows with question, context and answers"
        )
    return None  # one row


def _flattened(path: str, articles: list[Any]) -> Iterator[Row]:
    for number, article in enumerate(articles):
        place = f"{path} data[{number}]"
        for index, paragraph in enumerate(_list(article, "paragraphs", place)):
            inside = f"{place}.paragraphs[{index}]"
            for last, asked in enumerate(_list(paragraph, "qas", inside)):
                if not isinstance(asked, Mapping):
                    raise UserError(f"{inside}.qas[{last}] should be an object with a question")
                yield Row(f"{inside}.qas[{last}]", {**asked, CONTEXT: paragraph.get(CONTEXT)})


def _list(value: Any, name: str, place: str) -> list[Any]:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise UserError(f"{place} has no list {name!r}; SQuAD's file has data, paragraphs and qas")
    return found


def question_of(row: Row, columns: tuple[str, str, str], *, may_lack: bool) -> tuple[str, Reference]:
    """The question of a row, its context and its answers.

    Args:
      row: the row.
      columns: the fields of the question, the context and the answers.
      may_lack: whether answers may be missing, or may not be in the context: they are of a test set.

    Raises:
      FlawError: a field is missing or has another form, or an answer is not at its place.
    """
    question, context = (
        value_of(row.fields, name, setting) for name, setting in zip(columns[:2], SETTINGS[:2])
    )
    if not isinstance(question, str):
        raise FlawError(f"field {columns[0]!r} should be a question, not {type(question).__name__}")
    if not isinstance(context, str) or not context.strip():
        what = "is empty" if isinstance(context, str) else f"is {type(context).__name__}"
        what = "is missing" if context is None else what
        raise FlawError(
            f"the context {what}; field {columns[1]!r} should be the text that answers the question"
        )
    if may_lack and row.fields.get(columns[2]) is None:
        return question, Reference(context, () if row.fields.get(IMPOSSIBLE) is True else None)
    if row.fields.get(IMPOSSIBLE) is True:
        return question, Reference(context, ())
    found = _answers(value_of(row.fields, columns[2], SETTINGS[2]), columns[2])
    for start, text in () if may_lack else found:
        if not text.strip():
            raise FlawError("an answer is empty; correct it, or leave it out")
        if start < 0 or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            raise FlawError(
                f"the answer {text[:SHOWN]!r} is not at answer_start={start} of the context, where {there[:SHOWN]!r} "
                "is; correct it (the first character is 0)"
            )
    return question, Reference(context, found)


def _answers(value: Any, name: str) -> tuple[tuple[int, str], ...]:
    """Answers of either form: a list of objects with text and answer_start, or an object with a list of each."""
    due = f"field {name!r} should hold the texts of answers and their answer_start"
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise FlawError(f"{due}, two lists of the same length")
        pairs = list(zip(starts, texts))
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        pairs = [(each.get("answer_start"), each.get("text")) for each in value]
    else:
        raise FlawError(f"{due}, not {type(value).__name__}")
    for start, text in pairs:
        if not isinstance(text, str) or type(start) is not int:
            raise FlawError(f"{due}, not text={text!r:.40} and answer_start={start!r:.40}")
    return tuple(pairs)


def _held_out(config: LabelledConfig, train: Questions) -> dict[str, Questions]:
    """Split the training questions: those that are kept, and those that are held out."""
    contexts = [each.context for each in train.references]
    held = held_out(config, [contexts], [0] * len(train), by_class=False)
    return {
        "train": train.chosen(np.flatnonzero(~held), f", less {held.sum()} held out"),
        "validation": train.chosen(np.flatnonzero(held), f", {held.sum()} of {held.size} held out"),
    }

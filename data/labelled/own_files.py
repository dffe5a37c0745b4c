"""Examples of files of one's own: csv, tsv, JSON or JSON lines, with one or two texts and a class or a score."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from data.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import Examples, LabelledData, Limits
from data.labelled.labels import (
    ReadLabel,
    are_scores,
    as_array,
    read_class,
    read_name,
    read_score,
    require_two_classes,
    sorted_names,
)
from data.labelled.rows import Collected, Columns, collect
from data.labelled.tables import FORMATS, Row, delimited_rows, json_rows
from data.labelled.tasks import Task
from data.sources.documents import column_of
from data.sources.paths import File, find_files, suffixes

LABEL = "config.data.label"
ONE_CLASS = f"; check config.data.train and {LABEL}"
NAMES = "config.data.label_names"
REGRESSION = "config.data.label, or config.data.regression=False for classes"


def read_files(config: LabelledConfig, parts: Collection[str], limits: Limits) -> LabelledData:
    """The task that one's own files make, and their examples.

    The classes are config.data.label_names, or those of the training file in order: by value where all are whole
    numbers, else by spelling. A csv file has quotes as RFC 4180 says; a tsv file has none, like GLUE's.

    Args:
      config: the run's config.data.
      parts: which of train, evaluations and tests to read; the training file is looked at in any case, for its classes.
      limits: the most examples of each.

    Raises:
      UserError: what is wrong with the files, each with its line.
    """
    if not any((config.train, config.validation, config.test)):
        raise UserError("config.data.train is empty; set it to csv, tsv, json or jsonl files")
    _check_names(config)
    train = _collect(config, "train", _train_reader(config), None) if config.train else None
    names = _names(config, train)
    found = {}
    if train and "train" in parts:
        # All of the file has been read, so that a class that comes late in it is known to the other files.
        first = train.first(limits.train)
        known = (
            first.labels if config.regression or config.label_names else list(map(names.index, first.labels))
        )
        found["train"] = _examples(config, "train", first, as_array(known, names), limits.train)
    read_label = read_score(REGRESSION) if config.regression else read_class(names, NAMES)
    for part, split, limit in (("evaluations", "validation", limits.evaluation), ("tests", "test", None)):
        if part in parts and getattr(config, split):
            collected = _collect(config, split, read_label, limit)
            labels = as_array(collected.labels, names) if collected.labels else None
            found[split] = _examples(config, split, collected, labels, limit)
    return LabelledData(
        _task(config, names),
        train=found.get("train"),
        evaluations={split: found[split] for split in ("validation",) if split in found},
        tests={split: found[split] for split in ("test",) if split in found},
    )


def _train_reader(config: LabelledConfig) -> ReadLabel:
    if config.regression:
        return read_score(REGRESSION)
    return read_class(config.label_names, NAMES) if config.label_names else read_name(LABEL)


def _check_names(config: LabelledConfig) -> None:
    names = list(config.label_names)
    if names and config.regression:
        raise UserError(
            f"config.data.label_names={names} are names of classes, but config.data.regression=True learns scores; "
            "unset one of them"
        )
    if names and len(set(names)) < max(len(names), 2):
        raise UserError(f"config.data.label_names={names} should be two or more names, each once")


def _names(config: LabelledConfig, train: Collected | None) -> tuple[str, ...]:
    """The classes; none where labels are scores."""
    if config.regression or config.label_names:
        return config.label_names
    if train is None:
        raise UserError(
            "config.data.train is empty, so the classes are not known; set it, or config.data.label_names"
        )
    names = sorted_names(train.labels)
    if len(names) < 2:  # else a class of another file would be taken for that file's mistake
        only = np.zeros(len(train.labels), np.int32)
        require_two_classes(only, names, _origin(config, "train"), ONE_CLASS)
    if are_scores(names):
        raise UserError(
            f"config.data.train={config.train!r}: the labels are numbers such as {names[0]} and {names[-1]}; set "
            "config.data.regression=True to learn scores, or config.data.label_names to take them as classes"
        )
    return names


def _task(config: LabelledConfig, names: tuple[str, ...]) -> Task:
    if not names:
        metrics: tuple[str, ...] = ("pearson", "spearman", "pearson_spearman")
    else:
        metrics = ("matthews", "f1" if len(names) == 2 else "f1_macro", "accuracy")
    named = next(path for path in (config.train, config.validation, config.test) if path)
    return Task(
        name="",
        title=PurePosixPath(named.split(",")[0].strip()).name,
        texts=_texts(config),
        labels=names,
        metrics=metrics,
        chooses=metrics[-1],
        evaluations=("validation",) if config.validation else (),
        tests=("test",) if config.test else (),
    )


def _texts(config: LabelledConfig) -> tuple[str, ...]:
    return (config.text, config.text_pair) if config.text_pair else (config.text,)


def _collect(config: LabelledConfig, split: str, read_label: ReadLabel, limit: int | None) -> Collected:
    where = f"config.data.{split}"
    files = find_files(getattr(config, split), where)
    for file in files:
        if suffixes(file.path)[0] not in FORMATS:
            raise UserError(
                f"{where}: {file.path!r} is none of {', '.join(FORMATS)}; each may also end in .gz or .zst"
            )
    settings = {
        config.text: "config.data.text",
        config.text_pair: "config.data.text_pair",
        config.label: LABEL,
    }
    columns = Columns(_texts(config), config.label, settings=settings)
    origin = ", ".join(file.path for file in files)
    if split == "test":
        row = next(_rows(files, replace(columns, label="")), None)
        if row is None or _hidden(row, config):
            return collect(_rows(files, replace(columns, label="")), columns, None, limit, origin)
    return collect(_rows(files, columns), columns, read_label, limit, origin)


def _rows(files: Sequence[File], columns: Columns) -> Iterator[Row]:
    for file in files:
        kind = suffixes(file.path)[0]
        if kind in (".csv", ".tsv"):
            yield from delimited_rows(file.path, columns.needed, quoted=kind == ".csv")
        else:
            yield from json_rows(file.path)


def _hidden(first: Row, config: LabelledConfig) -> bool:
    """Whether a test set has no labels, by its first row: no such field, nothing in it, or GLUE's -1 for a class."""
    value = first.fields.get(column_of(config.label, first.fields))
    if value in (-1, "-1"):
        return not config.regression and "-1" not in config.label_names
    return value in (None, "")


def _origin(config: LabelledConfig, split: str) -> str:
    names = ", ".join(PurePosixPath(path.strip()).name for path in getattr(config, split).split(","))
    return f"files {names}"


def _examples(
    config: LabelledConfig, split: str, found: Collected, labels: np.ndarray | None, limit: int | None
) -> Examples:
    origin = _origin(config, split) + (f", first {limit}" if len(found.ids) == limit else "")
    second = found.texts[1] if len(found.texts) > 1 else None
    return Examples(found.texts[0], second, labels, found.ids, origin, official=False)

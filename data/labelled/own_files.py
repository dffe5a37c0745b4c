"""Examples from the user's own files (csv, tsv, JSON, JSON lines): one or two texts, and a class or a score."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from base.errors import UserError
from data.labelled.classes import Classes, class_names, marks_among, missing_among
from data.labelled.config import LabelledConfig
from data.labelled.example_rows import Collected, Columns, collect
from data.labelled.examples import Examples, LabelledData, Limits
from data.labelled.held_out_examples import check_share, held_out
from data.labelled.labels import (
    ReadLabel,
    are_scores,
    as_array,
    read_class,
    read_if_known,
    read_name,
    read_score,
    require_two_classes,
    tell_of_classes,
    warn_of_unlabelled,
)
from data.labelled.tables import FORMATS, Row, delimited_rows, json_rows
from data.labelled.tasks import Task
from data.sources.paths import File, find_files, split_paths, suffixes

logger = logging.getLogger(__name__)

LABEL = "config.data.label"
ONE_CLASS = f"; check config.data.train and {LABEL}"
NAMES = "config.data.label_names"
REGRESSION = "config.data.label, or config.data.regression=False for classes"
HIDDEN_SCORE = -1.0
"""A test file may hold this value for every score, as GLUE's test files do; the scores are then hidden."""


def read_files(
    config: LabelledConfig,
    parts: Collection[str],
    limits: Limits,
    *,
    ids: bool = True,
    hold_out: bool = False,
) -> LabelledData:
    """Read the user's own files: the task that they define, and its examples.

    The classes are config.data.label_names, or those of the training file (see `data.labelled.classes`). A csv file has
    quotes as in RFC 4180. A tsv file has no quotes, like GLUE's. In a test file, labels may be missing or unknown.

    Args:
      config: the run's config.data.
      parts: the parts to return, among train, evaluations and tests; the training file is always read for its classes.
      limits: largest number of examples in each set.
      ids: whether files may give a class of config.data.label_names by its number in that list.
      hold_out: whether to hold out a share of the training file if there is no validation file (see
        `data.labelled.held_out_examples`).

    Raises:
      UserError: a mistake in the files; the message names the line.
    """
    if not any((config.train, config.validation, config.test)):
        raise UserError("config.data.train is empty; set it to csv, tsv, json or jsonl files")
    _check_names(config)
    check_share(config)
    train = _collect(config, "train", _train_reader(config, ids), None) if config.train else None
    names = _names(config, train)
    if train and not (config.regression or config.label_names):
        train = _with_ids(config, train, names)
    classes = Classes(names, ids and bool(config.label_names))
    read_label = read_score(REGRESSION) if config.regression else read_class(classes, NAMES)
    # The whole training file has been read, so a class in its last rows is known when the other files are read.
    examples: dict[str, Examples] = {}
    if train:
        examples = (_held_out if hold_out and not config.validation else _whole)(config, train, names, limits)
    if config.validation and "evaluations" in parts:
        collected = _collect(config, "validation", read_label, limits.evaluation)
        examples["validation"] = _examples(config, "validation", collected, names, limits.evaluation)
    if config.test and "tests" in parts:
        examples["test"] = _test(config, read_label, names)
    evaluations = _of("validation", examples) if "evaluations" in parts else {}
    return LabelledData(
        replace(_task(config, names), evaluations=tuple(evaluations)),
        train=examples.get("train") if "train" in parts else None,
        evaluations=evaluations,
        tests=_of("test", examples),
    )


def _of(split: str, examples: Mapping[str, Examples]) -> dict[str, Examples]:
    return {split: examples[split]} if split in examples else {}


def _train_reader(config: LabelledConfig, ids: bool) -> ReadLabel:
    if config.regression:
        return read_score(REGRESSION)
    return read_class(Classes(config.label_names, ids), NAMES) if config.label_names else read_name(LABEL)


def _with_ids(config: LabelledConfig, train: Collected, names: tuple[str, ...]) -> Collected:
    """The training examples with the ids of their classes; examples with a mark of no label are left out."""
    classes = Classes(names)
    labelled = replace(train, labels=[classes.find(name) for name in train.labels])
    kept = [row for row, label in enumerate(labelled.labels) if label is not None]
    passed = len(train.labels) - len(kept)
    hint = f"; if that label is a class, name it in {NAMES}"
    warn_of_unlabelled(passed, len(train.labels), _origin(config, "train"), hint)
    return labelled.chosen(kept) if passed else labelled


def _whole(
    config: LabelledConfig, train: Collected, names: Sequence[str], limits: Limits
) -> dict[str, Examples]:
    return {"train": _examples(config, "train", train.first(limits.train), names, limits.train)}


def _held_out(
    config: LabelledConfig, train: Collected, names: Sequence[str], limits: Limits
) -> dict[str, Examples]:
    """Split the training file: the kept examples are the training set, the held-out ones the validation set."""
    held = held_out(config, train.texts, train.labels)
    kept, taken = train.chosen(np.flatnonzero(~held)), train.chosen(np.flatnonzero(held))
    notes = f", less {held.sum()} held out", f", {held.sum()} of {held.size} held out"
    return {
        "train": _examples(config, "train", kept.first(limits.train), names, limits.train, notes[0]),
        "validation": _examples(
            config, "train", taken.first(limits.evaluation), names, limits.evaluation, notes[1]
        ),
    }


def _test(config: LabelledConfig, read_label: ReadLabel, names: Sequence[str]) -> Examples:
    """The test set with its known labels, which are scored. A run does not depend on them."""
    unknown: list[str] = []
    collected = _collect(config, "test", read_if_known(read_label, unknown), None)
    if unknown:
        logger.warning(
            "config.data.test: %d of %d examples are not scored, because their labels are not known; the first: %s",
            *(len(unknown), len(collected.ids), unknown[0]),
        )
    if set(collected.labels) <= ({None, HIDDEN_SCORE} if config.regression else {None}):
        collected.labels.clear()
    return _examples(config, "test", collected, names, None)


def _check_names(config: LabelledConfig) -> None:
    names = list(config.label_names)
    if names and config.regression:
        raise UserError(
            f"config.data.label_names={names} are names of classes, but config.data.regression=True learns scores; "
            "unset one of them"
        )
    if names and (len(set(names)) < max(len(names), 2) or not all(map(str.strip, names))):
        raise UserError(f"config.data.label_names={names} should be two or more names, each once")


def _names(config: LabelledConfig, train: Collected | None) -> tuple[str, ...]:
    """Names of the classes; empty if labels are scores."""
    if config.regression or config.label_names:
        return config.label_names
    if train is None:
        raise UserError(
            "config.data.train is empty, so the classes are not known; set it, or config.data.label_names"
        )
    places, origin = train.places, _origin(config, "train")
    names = class_names(set(places) - marks_among(places))
    if len(names) < 2:  # otherwise a second class in another file would look like that file's mistake
        only = np.zeros(len(train.labels), np.int32)
        require_two_classes(only, names, origin, ONE_CLASS)
    if are_scores(names):
        raise UserError(
            f"config.data.train={config.train!r}: the labels are numbers such as {names[0]} and {names[-1]}; set "
            "config.data.regression=True to learn scores, or config.data.label_names to take them as classes"
        )
    if odd := missing_among(names):
        raise UserError(
            f"{places[odd]}: label {odd!r} among numbers should be a number too; correct it, or name it in {NAMES}"
        )
    tell_of_classes(places, names, origin)
    return names


def _task(config: LabelledConfig, names: tuple[str, ...]) -> Task:
    if not names:
        metrics: tuple[str, ...] = ("pearson", "spearman", "pearson_spearman")
    else:
        metrics = ("matthews", "f1" if len(names) == 2 else "f1_macro", "accuracy")
    named = next(path for path in (config.train, config.validation, config.test) if path)
    return Task(
        name="",
        title=PurePosixPath(split_paths(named)[0]).name,
        texts=_texts(config),
        labels=names,
        metrics=metrics,
        chooses=metrics[-1],
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
    columns = Columns(_texts(config), config.label, may_lack_label=split == "test", settings=settings)
    origin = ", ".join(file.path for file in files)
    return collect(_rows(files, columns), columns, read_label, limit, origin)


def _rows(files: Sequence[File], columns: Columns) -> Iterator[Row]:
    for file in files:
        kind = suffixes(file.path)[0]
        if kind in (".csv", ".tsv"):
            yield from delimited_rows(file.path, columns.needed, quoted=kind == ".csv")
        else:
            yield from json_rows(file.path)


def _origin(config: LabelledConfig, split: str) -> str:
    names = ", ".join(PurePosixPath(path).name for path in split_paths(getattr(config, split)))
    return f"files {names}"


def _examples(
    config: LabelledConfig,
    split: str,
    collected: Collected,
    names: Sequence[str],
    limit: int | None,
    note: str = "",
) -> Examples:
    origin = _origin(config, split) + note + (f", first {limit}" if len(collected.ids) == limit else "")
    second = collected.texts[1] if len(collected.texts) > 1 else None
    labels = as_array(collected.labels, names) if collected.labels else None
    return Examples(collected.texts[0], second, labels, collected.ids, origin, official=False)

"""Examples of the user's own files or of any data set of the hub: one or two texts; a class, classes or a score."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
    as_sets,
    read_class,
    read_if_known,
    read_list,
    read_name,
    read_score,
    refuse_twice,
    require_two_classes,
    tell_of_classes,
    warn_of_unlabelled,
)
from data.labelled.own_sources import SPLITS, OwnSource, check_names, own_source
from data.labelled.tasks import CLASSES, MULTI_LABEL, SCORES, Task
from data.sources.documents import FlawError, value_of

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
    """Read the user's own files, or a data set of the hub: the task that they define, and its examples.

    The classes are config.data.label_names; or those that the training data declares (a ClassLabel); or those of its
    examples (see `data.labelled.classes`). If the first example has a list of labels, an example may have any number of
    them. A csv file has quotes as in RFC 4180. A tsv file has no quotes, like GLUE's. In a test file, labels may be
    missing or unknown.

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
    source = own_source(config)
    check_names(config)
    check_share(config)
    reader = _Reader(config, source, several=_has_lists(config, source))
    given = config.label_names
    if source.has("train") and not (given or config.regression):
        given = source.names("train", config.label)
    read_train = reader.of_example(_train_reader(config, given, ids))
    train = reader.read("train", read_train, None) if source.has("train") else None
    names = given or _names(config, source, train)
    if train and not (config.regression or given):
        train = _with_ids(train, names, source.origin("train"))
    reader.names = names
    classes = Classes(names, ids and bool(config.label_names))
    read_label = read_score(REGRESSION) if config.regression else read_class(classes, NAMES)
    read_label = reader.of_example(read_label)
    # The whole training file has been read, so a class in its last rows is known when the other files are read.
    examples: dict[str, Examples] = {}
    if train:
        holds_out = hold_out and not source.has("validation")
        examples = _held_out(reader, train, limits) if holds_out else _whole(reader, train, limits)
    if source.has("validation") and "evaluations" in parts:
        collected = reader.read("validation", read_label, limits.evaluation)
        examples["validation"] = reader.examples("validation", collected, limits.evaluation)
    if source.has("test") and "tests" in parts:
        examples["test"] = _test(reader, read_label)
    evaluations = _of("validation", examples) if "evaluations" in parts else {}
    task = _task(config, names, source, several=reader.several)
    return LabelledData(
        replace(task, evaluations=tuple(evaluations)),
        train=examples.get("train") if "train" in parts else None,
        evaluations=evaluations,
        tests=_of("test", examples),
    )


def _has_lists(config: LabelledConfig, source: OwnSource) -> bool:
    """Whether the first example has a list of labels, so that an example may have any number of them."""
    if config.regression:
        return False
    for split in SPLITS:
        if source.has(split):
            row = next(source.rows(split, {}), None)
            try:
                return row is not None and isinstance(value_of(row.fields, config.label, LABEL), list)
            except FlawError:  # told where the rows are read
                return False
    return False


class _Reader:
    """A reader of the splits of a source."""

    def __init__(self, config: LabelledConfig, source: OwnSource, *, several: bool):
        self.config, self.source, self.several = config, source, several
        self.names: tuple[str, ...] = ()

    def read(self, split: str, read_label: ReadLabel, limit: int | None) -> Collected:
        """Read the examples of a split."""
        config = self.config
        settings = {
            config.text: "config.data.text",
            config.text_pair: "config.data.text_pair",
            config.label: LABEL,
        }
        columns = Columns(_texts(config), config.label, may_lack_label=split == "test", settings=settings)
        rows = self.source.rows(split, columns.needed)
        return collect(rows, columns, read_label, limit, self.source.origin(split).removeprefix("files "))

    def of_example(self, read_label: ReadLabel) -> ReadLabel:
        """The reader of what an example has: one label, or a list of them."""
        return read_list(read_label) if self.several else read_label

    def examples(self, split: str, collected: Collected, limit: int | None, note: str = "") -> Examples:
        """The examples of a split with arrays of labels."""
        first = f", first {limit}" if len(collected.ids) == limit else ""
        second = collected.texts[1] if len(collected.texts) > 1 else None
        labels = None
        if collected.labels:
            to_array = as_sets if self.several else as_array
            labels = to_array(collected.labels, self.names)
        origin = self.source.origin(split) + note + first
        return Examples(collected.texts[0], second, labels, collected.ids, origin, official=False)


def _of(split: str, examples: Mapping[str, Examples]) -> dict[str, Examples]:
    return {split: examples[split]} if split in examples else {}


def _train_reader(config: LabelledConfig, given: Sequence[str], ids: bool) -> ReadLabel:
    if config.regression:
        return read_score(REGRESSION)
    ids = ids and bool(config.label_names)
    return read_class(Classes(tuple(given), ids), NAMES) if given else read_name(LABEL)


def _with_ids(train: Collected, names: tuple[str, ...], origin: str) -> Collected:
    """The training examples with the ids of their classes; examples with only marks of no label are left out."""
    classes = Classes(names)

    def found(label: Any) -> Any:
        if not isinstance(label, list):
            return classes.find(label)
        ids = [classes.find(name) for name in label]
        refuse_twice(label, ids, origin)
        known = [index for index in ids if index is not None]
        return known if known or not label else None

    labelled = replace(train, labels=[found(label) for label in train.labels])
    kept = [row for row, label in enumerate(labelled.labels) if label is not None]
    passed = len(train.labels) - len(kept)
    hint = f"; if that label is a class, name it in {NAMES}"
    warn_of_unlabelled(passed, len(train.labels), origin, hint)
    return labelled.chosen(kept) if passed else labelled


def _whole(reader: _Reader, train: Collected, limits: Limits) -> dict[str, Examples]:
    return {"train": reader.examples("train", train.first(limits.train), limits.train)}


def _held_out(reader: _Reader, train: Collected, limits: Limits) -> dict[str, Examples]:
    """Split the training file: the kept examples are the training set, the held-out ones the validation set."""
    by_class = not (reader.config.regression or reader.several)
    held = held_out(reader.config, train.texts, train.labels, by_class=by_class)
    kept, taken = train.chosen(np.flatnonzero(~held)), train.chosen(np.flatnonzero(held))
    notes = f", less {held.sum()} held out", f", {held.sum()} of {held.size} held out"
    return {
        "train": reader.examples("train", kept.first(limits.train), limits.train, notes[0]),
        "validation": reader.examples("train", taken.first(limits.evaluation), limits.evaluation, notes[1]),
    }


def _test(reader: _Reader, read_label: ReadLabel) -> Examples:
    """The test set with its known labels, which are scored. A run does not depend on them."""
    unknown: list[str] = []
    collected = reader.read("test", read_if_known(read_label, unknown), None)
    if unknown:
        logger.warning(
            "%s: %d of %d examples are not scored, because their labels are not known; the first: %s",
            *("config.data.test", len(unknown), len(collected.ids), unknown[0]),
        )
    hidden = {None, HIDDEN_SCORE} if reader.config.regression else {None}
    if all(not isinstance(label, list) and label in hidden for label in collected.labels):
        collected.labels.clear()
    return reader.examples("test", collected, None)


def _names(config: LabelledConfig, source: OwnSource, train: Collected | None) -> tuple[str, ...]:
    """Names of the classes in the training examples; empty if labels are scores."""
    if config.regression:
        return ()
    if train is None:
        raise UserError(
            "config.data.train is empty, so the classes are not known; set it, or config.data.label_names"
        )
    places, origin = train.places, source.origin("train")
    names = class_names(set(places) - marks_among(places))
    if not names:
        raise UserError(f"{origin}: none of its {len(train.labels)} examples has a label{ONE_CLASS}")
    if len(names) < 2:  # otherwise a second class in another file would look like that file's mistake
        if any(isinstance(label, list) for label in train.labels):
            raise UserError(
                f"{origin}: {names[0]!r} is the only class of its {len(train.labels)} examples; a classifier needs two "
                f"classes or more{ONE_CLASS}"
            )
        only = np.zeros(len(train.labels), np.int32)
        require_two_classes(only, names, origin, ONE_CLASS)
    if are_scores(names):
        raise UserError(
            f"{source.setting('train')}: the labels are numbers such as {names[0]} and {names[-1]}; set "
            "config.data.regression=True to learn scores, or config.data.label_names to take them as classes"
        )
    if odd := missing_among(names):
        raise UserError(
            f"{places[odd]}: label {odd!r} among numbers should be a number too; correct it, or name it in {NAMES}"
        )
    tell_of_classes(places, names, origin)
    return names


def _task(config: LabelledConfig, names: tuple[str, ...], source: OwnSource, *, several: bool) -> Task:
    kind = SCORES if not names else MULTI_LABEL if several else CLASSES
    metrics = {
        SCORES: ("pearson", "spearman", "pearson_spearman"),
        MULTI_LABEL: ("accuracy", "f1_macro", "f1_micro"),
        CLASSES: ("matthews", "f1" if len(names) == 2 else "f1_macro", "accuracy"),
    }[kind]
    return Task(
        name="",
        title=source.title,
        texts=_texts(config),
        labels=names,
        metrics=metrics,
        chooses=metrics[-1],
        tests=("test",) if source.has("test") else (),
        kind=kind,
    )


def _texts(config: LabelledConfig) -> tuple[str, ...]:
    return (config.text, config.text_pair) if config.text_pair else (config.text,)

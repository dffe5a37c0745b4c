"""Sentences whose words have labels, from the user's own files or from any data set of the hub."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData, Limits
from data.labelled.held_out_examples import check_share, held_out
from data.labelled.labels import UNLABELLED
from data.labelled.own_sources import SPLITS, OwnSource, check_names, own_source
from data.labelled.sentences import PART, Sentences, are_entities, odd_among_entities
from data.labelled.tables import Row
from data.labelled.tasks import TOKENS, Task
from data.sources.documents import FlawError, missing_field, value_of

logger = logging.getLogger(__name__)

WORDS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags")
"""Fields that are taken where the config has its defaults, the first that is there."""
ENTITY_SCORES, CLASS_SCORES = ("accuracy", "precision", "recall", "f1"), ("f1_macro", "accuracy")
TEXT, LABEL, NAMES = "config.data.text", "config.data.label", "config.data.label_names"
MOST_SHOWN, MOST_ODD = 10, 3


def read_sentences(
    config: LabelledConfig, parts: Collection[str], limits: Limits, *, hold_out: bool = False
) -> LabelledData:
    """Read sentences: the task that they define, and its examples.

    The classes are config.data.label_names; or those that the training data declares (a ClassLabel); or the tags of its
    words, sorted. In a test set, tags may be missing or unknown.

    Args:
      config: the run's config.data.
      parts: the parts to return, among train, evaluations and tests.
      limits: largest number of sentences in each set.
      hold_out: whether to hold out a share of the training sentences if there are none to evaluate on.

    Raises:
      UserError: a mistake in the config or in the data; the message names the line.
    """
    source = own_source(config, per_word=True)
    check_names(config)
    check_share(config)
    read = {split: _read(config, source, split) for split in SPLITS if source.has(split)}
    names = config.label_names or _declared(config, source, read) or _names(read.get("train"))
    if "train" in read and not config.label_names:
        _warn_of_odd(names, read["train"])
    ids = {name.strip(): index for index, name in enumerate(names)}
    if "train" in read and hold_out and "validation" not in read:
        read |= _held_out(config, read["train"])
    most = {"train": limits.train, "validation": limits.evaluation, "test": None}
    sets = {
        split: each.first(most[split]).with_ids(ids, strict=split != "test") for split, each in read.items()
    }
    evaluations = {name: sets[name] for name in ("validation",) if name in sets and "evaluations" in parts}
    tests = {name: sets[name] for name in ("test",) if name in sets and "tests" in parts}
    scores = ENTITY_SCORES if are_entities(names) else CLASS_SCORES
    task = Task(
        name="",
        title=source.title,
        texts=(config.text,),
        labels=tuple(names),
        metrics=scores,
        chooses=scores[-1],
        evaluations=tuple(evaluations),
        tests=tuple(tests),
        kind=TOKENS,
    )
    return LabelledData(task, sets.get("train") if "train" in parts else None, evaluations, tests)


Tags = list[str | None]
"""The tags of a sentence's words; None for a word of a test set without one."""


class Tagged:
    """Sentences with their tags as the source spells them."""

    def __init__(self, words: list[list[str]], tags: list[Tags | None], places: list[str], origin: str):
        self.words, self.tags, self.places, self.origin = words, tags, places, origin

    def first(self, limit: int | None) -> "Tagged":
        """The first `limit` sentences; None for all."""
        if limit is None or limit >= len(self.words):
            return self
        return self.chosen(range(limit), f", first {limit}")

    def chosen(self, rows: Sequence[int] | np.ndarray, note: str) -> "Tagged":
        """The sentences with these indices."""
        chosen = list(rows)
        words, tags, places = ([each[row] for row in chosen] for each in (self.words, self.tags, self.places))
        return Tagged(words, tags, places, self.origin + note)  # type: ignore[arg-type]

    def with_ids(self, ids: Mapping[str, int], *, strict: bool) -> Sentences:
        """The sentences with the ids of their tags.

        Args:
          ids: the id of each class.
          strict: whether every tag must be a class; else unknown tags are left out, with a warning.

        Raises:
          UserError: a tag is no class.
        """
        labels: list[int] = []
        unknown = 0
        for words, tags, place in zip(self.words, self.tags, self.places, strict=True):
            for tag in tags or [None] * len(words):
                index = UNLABELLED if tag is None else ids.get(tag, UNLABELLED)
                if index == UNLABELLED and tags is not None:
                    if strict:
                        raise UserError(
                            f"{place}: tag {tag!r} is not one of the classes {_listed(list(ids))}; correct it, or set "
                            f"{NAMES} to all of them"
                        )
                    unknown += 1
                labels.append(index)
        if unknown:
            logger.warning(
                "%s: %d of %d tags are no classes; their sentences are not scored",
                *(self.origin, unknown, len(labels)),
            )
        array = np.array(labels, np.int32)
        hidden = bool((array == UNLABELLED).all())
        return Sentences(self.words, None if hidden else array, list(range(len(self.words))), self.origin)


def _read(config: LabelledConfig, source: OwnSource, split: str) -> Tagged:
    """All sentences of a split. Sentences without words are left out.

    Raises:
      UserError: a field is missing or is no list, a sentence's words and tags differ in number, or there is none.
    """
    words: list[list[str]] = []
    tags: list[Tags | None] = []
    places: list[str] = []
    count = 0
    for row in source.rows(split, {}):
        count += 1
        try:
            each = words_of(row, config.text)
            labels = _tags(row, config, may_lack=split == "test")
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None
        if labels is not None and len(labels) != len(each):
            raise UserError(
                f"{row.place}: {len(each)} words have {len(labels)} tags; each word needs one; correct the sentence"
            )
        if each:
            words.append(each)
            tags.append(labels)
            places.append(row.place)
    origin = source.origin(split)
    if not words:
        raise UserError(
            f"{source.setting(split)}: {split} has no sentence with a word ({count} rows); name another"
        )
    return Tagged(words, tags, places, origin)


def column(fields: Mapping[str, Any], given: str, default: str, known: Sequence[str]) -> str:
    """The field that a config names: by its name, or a column by its number; negative numbers count from the last.

    Args:
      fields: those of a row.
      given: as the config has it.
      default: what the config has if the user names none.
      known: the fields that are taken then, the first that is there.
    """
    if given in fields:
        return given
    numbered = all(name.isdecimal() for name in fields)
    if numbered and given.startswith("-") and given[1:].isdecimal() and 0 < int(given[1:]) <= len(fields):
        return str(len(fields) - int(given[1:]))
    if given in ("", default):
        if numbered:
            return "0" if known is WORDS else str(len(fields) - 1)
        return next((name for name in known if name in fields), given or known[0])
    return given


def words_of(row: Row, given: str, setting: str = TEXT) -> list[str]:
    """The words of a row.

    Raises:
      FlawError: there is no such field, or it holds no list of words.
    """
    name = column(row.fields, given, LabelledConfig.text, WORDS)
    value = value_of(row.fields, name, setting)
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FlawError(
            f"field {name!r} should hold a list of words, not {type(value).__name__}; set {setting} to another"
        )
    return value


def _tags(row: Row, config: LabelledConfig, *, may_lack: bool) -> Tags | None:
    """The tags of a row; None if they may be missing, and are.

    Raises:
      FlawError: there is no such field, it holds no list, or a tag that must be there is none.
    """
    name = column(row.fields, config.label, LabelledConfig.label, TAGS)
    if may_lack and (row.fields.get(name) is None or len(row.fields) == 1):
        return None
    if name == column(row.fields, config.text, LabelledConfig.text, WORDS):
        fields = ", ".join(row.fields)
        raise FlawError(
            f"field {name!r} holds the words, and no other their tags; fields present: {fields}; set {LABEL}"
        )
    if name not in row.fields and "." not in name:
        raise FlawError(missing_field(name, row.fields, LABEL))
    value = value_of(row.fields, name, LABEL)
    if not isinstance(value, list):
        raise FlawError(
            f"field {name!r} should hold a list of tags, one for each word, not {type(value).__name__}; set {LABEL} to "
            "another"
        )
    tags = list(map(_tag, value))
    if None in tags and not may_lack:
        number = tags.index(None)
        raise FlawError(
            f"tag {value[number]!r:.60} of word {number + 1} should be the name of a class; correct it, or set {LABEL} "
            "to another field"
        )
    return tags


def _tag(raw: Any) -> str | None:
    """A tag without blanks around it; numbers and booleans are their JSON text. None for what is no tag."""
    if isinstance(raw, str):
        return raw.strip() or None
    return json.dumps(raw) if isinstance(raw, bool | int) else None


def _declared(config: LabelledConfig, source: OwnSource, read: Mapping[str, Tagged]) -> tuple[str, ...]:
    """The classes that the training data declares; () where it declares none."""
    if "train" not in read:
        return ()
    row = next(source.rows("train", {}))
    return source.names("train", column(row.fields, config.label, LabelledConfig.label, TAGS))


def _names(train: Tagged | None) -> tuple[str, ...]:
    """The tags of the training sentences, sorted.

    Raises:
      UserError: there are none, or one.
    """
    if train is None:
        raise UserError(f"config.data.train is empty, so the classes are not known; set it, or {NAMES}")
    names = sorted({tag for tags in train.tags for tag in tags or () if tag is not None})
    if all(map(str.isdecimal, names)):
        names.sort(key=int)
    if len(names) < 2:
        raise UserError(
            f"{train.origin}: all tags are {names[0]!r}; a classifier needs words of two classes or more; check {LABEL}"
        )
    return tuple(names)


def _warn_of_odd(names: Sequence[str], train: Tagged) -> None:
    """Warn of tags, such as a misspelt one or a table's header, which keep entities from being scored."""
    if not (odd := odd_among_entities(names)):
        return
    places = (place for tags, place in zip(train.tags, train.places, strict=True) if odd[0] in (tags or ()))
    more = f", ... ({len(odd)} of them)" if len(odd) > MOST_ODD else ""
    logger.warning(
        "%s: tags that are neither O nor a part of an entity such as %r: %s%s; so scores are by token, and not by "
        "entity. Correct them, or set %s to all classes",
        *(next(places, train.origin), next(name for name in names if PART.fullmatch(name))),
        *(", ".join(map(repr, odd[:MOST_ODD])), more, NAMES),
    )


def _held_out(config: LabelledConfig, train: Tagged) -> dict[str, Tagged]:
    """Split the training sentences: those that are kept, and those that are held out."""
    held = held_out(config, [list(map(tuple, train.words))], [0] * len(train.words), by_class=False)
    return {
        "train": train.chosen(np.flatnonzero(~held), f", less {held.sum()} held out"),
        "validation": train.chosen(np.flatnonzero(held), f", {held.sum()} of {held.size} held out"),
    }


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} of them)" if len(names) > MOST_SHOWN else ""
    return ", ".join(map(repr, names[:MOST_SHOWN])) + more

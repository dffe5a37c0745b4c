"""Collects examples from rows of files: texts, labels and ids, each in a column."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from base.errors import UserError
from data.labelled.classes import number as number_of
from data.labelled.labels import ReadLabel, warn_of_unlabelled
from data.labelled.tables import Row
from data.sources.documents import FlawError, text_of, value_of


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read, and the settings that name them ('' if the user does not name a column)."""

    texts: tuple[str, ...]
    label: str = ""
    """'' if the labels are hidden."""
    id: str = ""
    """Column of the examples' ids, if the file has it; otherwise examples are numbered from 0."""
    settings: dict[str, str] = field(default_factory=dict)
    may_lack_label: bool = False
    """Whether a row may have no label; its label is None then."""

    @property
    def needed(self) -> dict[str, str]:
        """Every column that the file must have, with its setting."""
        names = filter(None, (*self.texts, "" if self.may_lack_label else self.label))
        return {name: self.settings.get(name, "") for name in names}


@dataclass
class Collected:
    """The examples of one set, as columns."""

    texts: tuple[list[str], ...]
    """One or two columns [n]."""
    labels: list[Any] = field(default_factory=list)
    """[n]; empty if the labels are hidden."""
    ids: list[int | str] = field(default_factory=list)

    places: dict[str, str] = field(default_factory=dict)
    """Place (file and line) of the first example of each class name."""

    def first(self, limit: int | None) -> "Collected":
        """The first `limit` examples; None for all."""
        return self.chosen(range(min(len(self.ids), len(self.ids) if limit is None else limit)))

    def chosen(self, rows: Iterable[int]) -> "Collected":
        """The examples with these indices."""
        chosen = list(rows)
        texts = tuple([column[row] for row in chosen] for column in self.texts)
        labels = [self.labels[row] for row in chosen] if self.labels else []
        return Collected(texts, labels, [self.ids[row] for row in chosen], self.places)


def collect(
    rows: Iterator[Row], columns: Columns, read_label: ReadLabel | None, limit: int | None, origin: str
) -> Collected:
    """Read the first `limit` examples of a set.

    A row with a mark instead of a label is skipped and counted in the log, unless rows may lack a label.

    Args:
      rows: rows of the set's files.
      columns: names of the columns to read.
      read_label: function that reads a label; None to leave the labels out.
      limit: largest number of examples; None for all.
      origin: name of the set, for messages.

    Raises:
      UserError: a field is missing or holds no text, a label cannot be read, or there are no examples.
    """
    collected = Collected(tuple([] for _ in columns.texts))
    number = -1
    for number, row in enumerate(rows):
        try:
            texts = [text_of(row.fields, name, columns.settings.get(name, "")) for name in columns.texts]
            label = _label(row, columns, read_label) if read_label else None
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None
        if read_label and label is None and not columns.may_lack_label:
            continue
        for column, text in zip(collected.texts, texts):
            column.append(text)
        if read_label:
            collected.labels.append(label)
            for name in label if isinstance(label, list) else [label]:
                if isinstance(name, str):
                    collected.places.setdefault(name, row.place)
        collected.ids.append(_id(row.fields.get(columns.id, number)))
        if len(collected.ids) == limit:
            break
    if number < 0:
        raise UserError(f"{origin}: there are no examples, only a header")
    warn_of_unlabelled(number + 1 - len(collected.ids), number + 1, origin)
    if not collected.ids:
        raise UserError(f"{origin}: none of its {number + 1} examples has a label")
    return collected


def _label(row: Row, columns: Columns, read_label: ReadLabel) -> Any:
    try:
        raw = value_of(row.fields, columns.label, columns.settings.get(columns.label, ""))
    except FlawError:
        if columns.may_lack_label:
            return None
        raise
    return read_label(raw, row.place)


def _id(raw: Any) -> int | str:
    """An example's id; a whole number becomes an int, however the file spells it."""
    if isinstance(raw, int):
        return raw
    value = number_of(str(raw))
    return str(raw) if value is None or value != int(value) else int(value)

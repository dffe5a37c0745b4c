"""Examples collected from the rows of files: texts, labels and ids by column."""

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
    """Which column holds what, and the settings that name them ('' where the user does not)."""

    texts: tuple[str, ...]
    label: str = ""
    """'' where labels are hidden."""
    id: str = ""
    """The one with their names, where it is there; else examples are numbered from 0."""
    settings: dict[str, str] = field(default_factory=dict)
    may_lack_label: bool = False
    """Whether rows may have no label, which is None then."""

    @property
    def needed(self) -> dict[str, str]:
        """Every column that must be there, with its setting."""
        names = filter(None, (*self.texts, "" if self.may_lack_label else self.label))
        return {name: self.settings.get(name, "") for name in names}


@dataclass
class Collected:
    """Columns of the examples of one set."""

    texts: tuple[list[str], ...]
    """One or two of [n]."""
    labels: list[Any] = field(default_factory=list)
    """[n], or none where they are hidden."""
    ids: list[int | str] = field(default_factory=list)

    places: dict[str, str] = field(default_factory=dict)
    """Where each different name of a class stands first."""

    def first(self, limit: int | None) -> "Collected":
        """The first `limit` examples; all of them with None."""
        return self.chosen(range(min(len(self.ids), len(self.ids) if limit is None else limit)))

    def chosen(self, rows: Iterable[int]) -> "Collected":
        """The examples of these indices."""
        chosen = list(rows)
        texts = tuple([column[row] for row in chosen] for column in self.texts)
        labels = [self.labels[row] for row in chosen] if self.labels else []
        return Collected(texts, labels, [self.ids[row] for row in chosen], self.places)


def collect(
    rows: Iterator[Row], columns: Columns, read_label: ReadLabel | None, limit: int | None, origin: str
) -> Collected:
    """The first `limit` examples of a set; `read_label` None leaves the labels out.

    Rows that are marked as without a label are passed over, and counted in the log, unless they may lack it.

    Raises:
      UserError: a field that is missing or no text, a label that cannot be read, or no examples at all.
    """
    found = Collected(tuple([] for _ in columns.texts))
    number = -1
    for number, row in enumerate(rows):
        try:
            texts = [text_of(row.fields, name, columns.settings.get(name, "")) for name in columns.texts]
            label = _label(row, columns, read_label) if read_label else None
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None
        if read_label and label is None and not columns.may_lack_label:
            continue
        for column, text in zip(found.texts, texts):
            column.append(text)
        if read_label:
            found.labels.append(label)
            if isinstance(label, str):
                found.places.setdefault(label, row.place)
        found.ids.append(_id(row.fields.get(columns.id, number)))
        if len(found.ids) == limit:
            break
    if number < 0:
        raise UserError(f"{origin}: there are no examples, only a header")
    warn_of_unlabelled(number + 1 - len(found.ids), number + 1, origin)
    if not found.ids:
        raise UserError(f"{origin}: none of its {number + 1} examples has a label")
    return found


def _label(row: Row, columns: Columns, read_label: ReadLabel) -> Any:
    try:
        raw = value_of(row.fields, columns.label, columns.settings.get(columns.label, ""))
    except FlawError:
        if columns.may_lack_label:
            return None
        raise
    return read_label(raw, row.place)


def _id(raw: Any) -> int | str:
    """A whole number as such, however it is spelled."""
    if isinstance(raw, int):
        return raw
    value = number_of(str(raw))
    return str(raw) if value is None or value != int(value) else int(value)

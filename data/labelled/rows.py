"""Examples collected from the rows of files: texts, labels and ids by column."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from data.errors import UserError
from data.labelled.labels import ReadLabel
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

    @property
    def needed(self) -> dict[str, str]:
        """Every column that must be there, with its setting."""
        names = filter(None, (*self.texts, self.label))
        return {name: self.settings.get(name, "") for name in names}


@dataclass
class Collected:
    """Columns of the examples of one set."""

    texts: tuple[list[str], ...]
    """One or two of [n]."""
    labels: list[Any] = field(default_factory=list)
    """[n], or none where they are hidden."""
    ids: list[int | str] = field(default_factory=list)

    def first(self, limit: int | None) -> "Collected":
        """The first `limit` examples; all of them with None."""
        return Collected(tuple(texts[:limit] for texts in self.texts), self.labels[:limit], self.ids[:limit])


def collect(
    rows: Iterator[Row], columns: Columns, read_label: ReadLabel | None, limit: int | None, origin: str
) -> Collected:
    """The first `limit` examples of a set; `read_label` None leaves the labels out.

    Raises:
      UserError: a field that is missing or no text, a label that cannot be read, or no rows at all.
    """
    found = Collected(tuple([] for _ in columns.texts))
    for row in itertools.islice(rows, limit):
        try:
            for texts, name in zip(found.texts, columns.texts):
                texts.append(text_of(row.fields, name, columns.settings.get(name, "")))
            if read_label:
                raw = value_of(row.fields, columns.label, columns.settings.get(columns.label, ""))
                found.labels.append(read_label(raw, row.place))
        except FlawError as flaw:
            raise UserError(f"{row.place}: {flaw}") from None
        name = str(row.fields.get(columns.id, len(found.ids)))
        found.ids.append(int(name) if name.isdecimal() else name)
    if not found.ids:
        raise UserError(f"{origin}: there are no examples, only a header")
    return found

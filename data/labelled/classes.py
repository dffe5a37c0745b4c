"""Rules for labels: which spellings are one class, and which labels mean that an example has no label.

Equal numbers are one class (2, 2.0, 2e0). Equal booleans are one class (true, True, TRUE). A number with leading zeros
is a code, such as a zip code: 007 is not 7.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
CODE = re.compile(r"[+-]?0\d")
BOOLEANS = frozenset(
    spelling for word in ("true", "false") for spelling in (word, word.capitalize(), word.upper())
)
DASH, PLUS, MINUS_ONE = "-", "+", Decimal(-1)
FORMAT = "Cf"
"""Unicode's category of invisible characters, such as a byte order mark."""
MISSING = ("nan", "na", "n/a", "<na>", "null", "none", "inf", "infinity")
"""Spellings, in any case, that programs write for a missing or infinite number."""
MARKED_CLASSES = 3
"""Number of classes. Next to at least so many classes 0, 1, ... the label -1 marks an example without a label. Next to
fewer it may be a class (-1, 0, 1)."""

Key = Decimal | str


def number(name: str) -> Decimal | None:
    """The number that a label spells, with or without leading zeros; None if it spells no number."""
    return Decimal(name) if NUMBER.fullmatch(name) else None


def key(name: str) -> Key:
    """A key that is equal for labels of one class."""
    value = number(name)
    if value is not None:
        return name if CODE.match(name) else value
    return name.lower() if name in BOOLEANS else name


def look(name: str) -> Key:
    """A key that is equal for labels that differ only by case, Unicode form, white space or leading zeros."""
    value = number(name)
    if value is not None:
        return value
    seen = (
        letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != FORMAT
    )
    return " ".join("".join(seen).casefold().split())


@dataclass(frozen=True)
class Classes:
    """The classes in the order of their ids, with look-up by the labels in files."""

    names: tuple[str, ...]
    ids: bool = False
    """Whether a label may also be a class's id. It may not if any class's name is a number."""

    def find(self, name: str) -> int | None:
        """The id of a label's class: by exact spelling, else as an equal number or boolean, else as an id."""
        return self._exact[name] if name in self._exact else self._equal.get(key(name))

    def find_alike(self, name: str) -> int | None:
        """The id of the only class with the same `look` as the label; None if there is no such class."""
        return self._alike.get(look(name))

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _equal(self) -> dict[Key, int]:
        if self.ids and not any(number(name) is not None for name in self.names):
            return _only(self.names, key) | {Decimal(index): index for index in range(len(self.names))}
        return _only(self.names, key)

    @cached_property
    def _alike(self) -> dict[Key, int]:
        return _only(self.names, look)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes among labels, sorted by value if all are numbers, else by spelling.

    The names are the labels' spellings. If equal numbers or booleans have several spellings, the name is the plain one.
    """
    spellings: dict[Key, set[str]] = {}
    for name in set(labels):
        spellings.setdefault(key(name), set()).add(name)
    several = any(len(each) > 1 for each in spellings.values())
    names = [_plain(each, of) if several else min(each) for of, each in spellings.items()]
    values = {name: value for name in names if (value := number(name)) is not None}
    return tuple(
        sorted(names, key=lambda name: (values[name], name)) if len(values) == len(names) else sorted(names)
    )


def groups(names: Iterable[str], by: Callable[[str], Key]) -> list[list[str]]:
    """Groups of two or more labels with an equal `key` or `look`; each group is sorted."""
    labels_by_key: dict[Key, set[str]] = {}
    for name in names:
        labels_by_key.setdefault(by(name), set()).add(name)
    return [sorted(each) for each in labels_by_key.values() if len(each) > 1]


def matching(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each class in `wanted`, the id of the same or similar class in `names`; None if there is none."""
    if list(names) == list(wanted):
        return list(range(len(names)))
    known, ids = Classes(tuple(names)), list[int | None]()
    for name in wanted:
        index = known.find(name)
        index = known.find_alike(name) if index is None else index
        ids.append(None if index in ids else index)
    return ids


def unnamed(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives to unnamed classes: LABEL_0, LABEL_1, ..."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def marks_nothing(name: str) -> bool:
    """Whether a label, which is no known class, marks an example without a label: -1, or SNLI's dash."""
    return name == DASH or key(name) == MINUS_ONE


def marks_among(names: Iterable[str]) -> set[str]:
    """The labels that mark examples without a label, for classes that are not known beforehand.

    A dash is a mark unless there is a plus. -1 is a mark next to names, and next to three or more classes 0, 1, ...
    """
    names = set(names)
    marks = {DASH} & names if PLUS not in names else set[str]()
    minus = {name for name in names if key(name) == MINUS_ONE}
    rest = names - marks - minus
    values = sorted({value for name in rest if (value := number(name)) is not None})
    counted = len(values) >= MARKED_CLASSES and values == list(range(len(values)))
    return marks | minus if rest and (not values or counted) else marks


def may_be_marks(names: Sequence[str]) -> bool:
    """Whether all classes are numbers, and -1 is the only negative number among them."""
    values = [number(name) for name in names]
    return [value for value in values if value is None or value < 0] == [MINUS_ONE]


def missing_among(names: Iterable[str]) -> str | None:
    """A label such as 'nan', if all other labels are numbers or stand for a missing number too; else None."""
    names = list(names)
    odd = [name for name in names if number(name) is None]
    missing = len(odd) < len(names) and all(name.lower().lstrip("+-") in MISSING for name in odd)
    return odd[0] if odd and missing else None


def _only(names: Sequence[str], by: Callable[[str], Key]) -> dict[Key, int]:
    """Ids by the key that `by` gives; a key that several names share is left out."""
    keys = [by(name) for name in names]
    times = Counter(keys)
    return {each: index for index, each in enumerate(keys) if times[each] == 1}


def _plain(spellings: set[str], of: Key) -> str:
    if isinstance(of, str):
        return of
    return (
        str(int(of)) if of == of.to_integral_value() else min(spellings, key=lambda name: (len(name), name))
    )

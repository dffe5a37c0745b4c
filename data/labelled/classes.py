"""Which labels are the same class however they are spelled, and which stand for no label.

Equal numbers are one class (2, 2.0, 2e0), and so are equal booleans (true, True, TRUE). A number with leading zeros is
a code, such as a zip code: 007 is not 7.
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
"""Unicode's category of characters that are not seen, such as a byte order mark."""
MISSING = ("nan", "na", "n/a", "<na>", "null", "none", "inf", "infinity")
"""What programs write for a number that is not there, in any case."""
MARKED_CLASSES = 3
"""Beside so many classes 0, 1, ... -1 marks an example without a label; beside fewer it may be a class (-1, 0, 1)."""

Key = Decimal | str


def number(name: str) -> Decimal | None:
    """The number that a label spells, with leading zeros or without; None where it spells none."""
    return Decimal(name) if NUMBER.fullmatch(name) else None


def key(name: str) -> Key:
    """What two labels of one class have in common."""
    value = number(name)
    if value is not None:
        return name if CODE.match(name) else value
    return name.lower() if name in BOOLEANS else name


def look(name: str) -> Key:
    """What two labels have in common that differ by case, Unicode form, white space or leading zeros only."""
    value = number(name)
    if value is not None:
        return value
    seen = (
        letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != FORMAT
    )
    return " ".join("".join(seen).casefold().split())


@dataclass(frozen=True)
class Classes:
    """Classes by id, to be found by the labels of files."""

    names: tuple[str, ...]
    ids: bool = False
    """Whether a label may also be a class's id, where no class is a number itself."""

    def find(self, name: str) -> int | None:
        """The id of the class that a label names: by its spelling, else as an equal number or boolean, else by id."""
        return self._exact[name] if name in self._exact else self._equal.get(key(name))

    def find_alike(self, name: str) -> int | None:
        """The id of the only class that looks as a label does."""
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
    """The classes among labels: by value where all are numbers, else by spelling.

    Their names are as they are spelled; where equal numbers or booleans are spelled in several ways, in the plain one.
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
    """The labels, sorted, of each `key` or `look` that several of them have."""
    found: dict[Key, set[str]] = {}
    for name in names:
        found.setdefault(by(name), set()).add(name)
    return [sorted(each) for each in found.values() if len(each) > 1]


def matching(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each of the `wanted` classes the id of that of `names` which is the same, or looks so; None for none."""
    if list(names) == list(wanted):
        return list(range(len(names)))
    known, found = Classes(tuple(names)), list[int | None]()
    for name in wanted:
        index = known.find(name)
        index = known.find_alike(name) if index is None else index
        found.append(None if index in found else index)
    return found


def unnamed(names: Sequence[str]) -> bool:
    """Whether these are transformers' names of classes that nobody has named: LABEL_0, LABEL_1, ..."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def marks_nothing(name: str) -> bool:
    """Whether a label that is none of the known classes marks an example without one: -1, or SNLI's dash."""
    return name == DASH or key(name) == MINUS_ONE


def marks_among(names: Iterable[str]) -> set[str]:
    """The labels that mark examples without one, where the classes are not known beforehand.

    A dash does unless there is a plus; -1 does beside names, and beside three or more classes that are 0, 1, ...
    """
    names = set(names)
    marks = {DASH} & names if PLUS not in names else set[str]()
    minus = {name for name in names if key(name) == MINUS_ONE}
    rest = names - marks - minus
    values = sorted({value for name in rest if (value := number(name)) is not None})
    counted = len(values) >= MARKED_CLASSES and values == list(range(len(values)))
    return marks | minus if rest and (not values or counted) else marks


def may_be_marks(names: Sequence[str]) -> bool:
    """Whether -1 is among classes that are all numbers, and no other of them is negative."""
    values = [number(name) for name in names]
    return [value for value in values if value is None or value < 0] == [MINUS_ONE]


def missing_among(names: Iterable[str]) -> str | None:
    """A label that says that a number is not there, where all that do not say it are numbers."""
    names = list(names)
    odd = [name for name in names if number(name) is None]
    missing = len(odd) < len(names) and all(name.lower().lstrip("+-") in MISSING for name in odd)
    return odd[0] if odd and missing else None


def _only(names: Sequence[str], by: Callable[[str], Key]) -> dict[Key, int]:
    """Ids by what `by` gives, without those that several names share."""
    keys = [by(name) for name in names]
    times = Counter(keys)
    return {each: index for index, each in enumerate(keys) if times[each] == 1}


def _plain(spellings: set[str], of: Key) -> str:
    if isinstance(of, str):
        return of
    return (
        str(int(of)) if of == of.to_integral_value() else min(spellings, key=lambda name: (len(name), name))
    )

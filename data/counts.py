"""How many documents were read, and what became of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.source import BLANK, Record

Unwanted = Callable[[str], bool]
"""Whether a text is on the other side of the split between training and evaluation."""


@dataclass
class Counts:
    """A running count of records by what became of them."""

    documents: int = 0
    """Kept."""
    held_out: int = 0
    """Left for evaluation (or, where evaluation reads, for training)."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Dropped by the source, by reason."""

    def keeps(self, record: Record, unwanted: Unwanted) -> bool:
        """Count a record that is no blank line; whether it is kept: neither dropped by its source nor unwanted."""
        if record.dropped == BLANK:
            return False
        if record.dropped:
            self.dropped[record.dropped] = self.dropped.get(record.dropped, 0) + 1
        elif unwanted(record.text):
            self.held_out += 1
        else:
            self.documents += 1
            return True
        return False

    def add(self, other: "Counts") -> None:
        """Count what `other` has counted too."""
        self.documents += other.documents
        self.held_out += other.held_out
        for reason, number in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {
            "documents": self.documents,
            "held_out": self.held_out,
            "dropped": dict(sorted(self.dropped.items())),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Counts":
        """The inverse of `as_dict`."""
        return cls(values["documents"], values["held_out"], dict(values["dropped"]))

    def __str__(self) -> str:
        return f"{describe_dropped(self.dropped)}, {self.held_out} held out for evaluation"


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """How many were dropped and why: '3 dropped (empty: 1, min_chars: 2)'."""
    reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(dropped.items()))
    return f"{sum(dropped.values())} dropped" + (f" ({reasons})" if reasons else "")

"""Counts of the documents that were kept, held out and dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.source_protocol import BLANK, Record

Unwanted = Callable[[str], bool]
"""Function that tells whether a text belongs to the other side of the split between training and evaluation."""


@dataclass
class Counts:
    """Running counts of records: kept, held out, and dropped by reason."""

    documents: int = 0
    """Number of kept documents."""
    held_out: int = 0
    """Number of documents left for evaluation (or, when evaluation reads, for training)."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of documents that the source dropped, by reason."""

    def keeps(self, record: Record, unwanted: Unwanted) -> bool:
        """Count a record, unless it is a blank line; return whether it is kept (not dropped and not unwanted)."""
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
        """Add the counts of `other` to these."""
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
    """The number of dropped documents and the reasons: '3 dropped (empty: 1, min_chars: 2)'."""
    reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(dropped.items()))
    return f"{sum(dropped.values())} dropped" + (f" ({reasons})" if reasons else "")

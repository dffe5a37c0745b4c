"""Documents from the rows of Arrow tables."""

from collections.abc import Iterator
from typing import Any

from data.source_protocol import Record
from data.sources.documents import FlawError, Gate, text_of


def row_records(rows: Any, first: int, start: int, place: str, field: str, gate: Gate) -> Iterator[Record]:
    """Records of a table or batch, from record `start` on; its first row is record `first`, `place` is its file."""
    for number in range(max(first, start), first + len(rows)):
        try:
            # One row at a time: a single text with invalid UTF-8 would break the conversion of the whole batch.
            row = rows.slice(number - first, 1).to_pylist()[0]
            yield gate.document(number, text_of(row, field, f"{gate.where}.text_field"))
        except UnicodeDecodeError as error:
            flaw = FlawError("invalid UTF-8", f"byte {error.start + 1} of the text")
            yield gate.unreadable(number, f"{place} row {number + 1}", flaw)
        except FlawError as missing:
            yield gate.unreadable(number, f"{place} row {number + 1}", missing)

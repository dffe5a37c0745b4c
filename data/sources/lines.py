"""Documents from a file's numbered lines; a broken line is replaced by a flaw."""

import sys
from collections.abc import Iterator

from data.source_protocol import Record
from data.sources import compressed_lines
from data.sources.compressed_lines import lines_and_flaws
from data.sources.documents import FlawError, Gate, decode

NumberedLines = Iterator[tuple[int, bytes | FlawError]]
"""(number from 0, line), as `numbered_lines` yields them."""


def or_empty(records: Iterator[Record], path: str, gate: Gate, start: int) -> Iterator[Record]:
    """Yield the records; if a reader that began at 0 has none, yield one dropped record for an empty file."""
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif start == 0:
        yield gate.unreadable(0, path, FlawError("empty file"))


def numbered_lines(path: str) -> NumberedLines:
    """Yield (number from 0, line) of a file. A flaw stands for a line that is too long, and for all after damage."""
    number = -1
    try:
        for number, line in enumerate(lines_and_flaws(path)):
            yield number, line
    except FlawError as flaw:
        yield number + 1, flaw


def sound(line: bytes | FlawError) -> bytes:
    """Return the line; raise it if it is a flaw."""
    if isinstance(line, FlawError):
        raise line
    return line


def blank_line_documents(lines: NumberedLines, place: str, gate: Gate, start: int = 0) -> Iterator[Record]:
    """Yield documents that are runs of non-blank lines, numbered from 0; `place` is where the lines come from.

    A flaw in a line is a flaw of the whole document.
    """
    for number, (first, run) in enumerate(_runs(lines)):
        if number >= start:
            yield _joined(number, first, run, place, gate)


def _joined(number: int, first: int, run: list[bytes] | FlawError, place: str, gate: Gate) -> Record:
    lines: list[str] = []
    try:
        if isinstance(run, FlawError):
            raise run
        for line in run:
            lines.append(decode(line).rstrip("\r\n"))
        return gate.document(number, "\n".join(lines))
    except FlawError as flaw:
        return gate.unreadable(number, f"{place} line {first + len(lines) + 1}", flaw)


def _runs(lines: NumberedLines) -> Iterator[tuple[int, list[bytes] | FlawError]]:
    """Yield (first line from 0, lines) of each run of non-blank lines; or (line, flaw) of a run with a flaw."""
    run: list[bytes] = []
    flaw: tuple[int, FlawError] | None = None  # of the run
    held = 0  # bytes of memory of the run
    index = -1
    for index, line in lines:
        if isinstance(line, FlawError):
            run, flaw = [], flaw or (index, line)
        elif line.isspace():
            if flaw or run:
                yield flaw or (index - len(run), run)
            run, flaw, held = [], None, 0
        elif not flaw:
            run.append(line)
            held += sys.getsizeof(line)
            if held > compressed_lines.LONGEST_LINE:
                run, flaw = [], (index, compressed_lines.too_long(held))
    if flaw or run:
        yield flaw or (index + 1 - len(run), run)

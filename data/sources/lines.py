"""Documents made of a file's lines, numbered, with what is broken in them kept as a flaw in its place."""

from collections.abc import Iterator

from data.source import Record
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, Gate, decode


def or_empty(records: Iterator[Record], path: str, gate: Gate, start: int) -> Iterator[Record]:
    """The records; where a reader that began at 0 finds none, one dropped record that says that the file is empty."""
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif start == 0:
        yield gate.unreadable(0, path, FlawError("empty file"))


def numbered_lines(path: str) -> Iterator[tuple[int, bytes | FlawError]]:
    """(number from 0, line) of a file; where the archive breaks off, the flaw stands for the rest."""
    number = -1
    try:
        for number, line in enumerate(read_lines(path)):
            yield number, line
    except FlawError as flaw:
        yield number + 1, flaw


def sound(line: bytes | FlawError) -> bytes:
    """The line, or its flaw raised."""
    if isinstance(line, FlawError):
        raise line
    return line


def blank_line_documents(path: str, gate: Gate, start: int = 0) -> Iterator[Record]:
    """Documents that are runs of non-blank lines, numbered from 0.

    A flaw in a line is a flaw of its document.
    """
    for number, (first, run) in enumerate(_runs(path)):
        if number >= start:
            yield _joined(number, first, run, path, gate)


def _joined(number: int, first: int, run: list[bytes] | FlawError, path: str, gate: Gate) -> Record:
    lines: list[str] = []
    try:
        if isinstance(run, FlawError):
            raise run
        for line in run:
            lines.append(decode(line).rstrip("\r\n"))
        return gate.document(number, "\n".join(lines))
    except FlawError as flaw:
        return gate.unreadable(number, f"{path} line {first + len(lines) + 1}", flaw)


def _runs(path: str) -> Iterator[tuple[int, list[bytes] | FlawError]]:
    """(first line from 0, lines) of each run of non-blank lines; one that a broken archive cuts short is left out."""
    run: list[bytes] = []
    index = -1
    for index, line in numbered_lines(path):
        if isinstance(line, FlawError):
            yield index, line
            return
        if not line.isspace():
            run.append(line)
        elif run:
            yield index - len(run), run
            run = []
    if run:
        yield index + 1 - len(run), run

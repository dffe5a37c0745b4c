"""Documents from a file's numbered lines; a broken line is replaced by a flaw."""

from collections.abc import Iterator

from data.source_protocol import Record
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, Gate, decode


def or_empty(records: Iterator[Record], path: str, gate: Gate, start: int) -> Iterator[Record]:
    """Yield the records; if a reader that began at 0 has none, yield one dropped record for an empty file."""
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif start == 0:
        yield gate.unreadable(0, path, FlawError("empty file"))


def numbered_lines(path: str) -> Iterator[tuple[int, bytes | FlawError]]:
    """Yield (number from 0, line) of a file. If the archive is damaged, a flaw stands for the rest."""
    number = -1
    try:
        for number, line in enumerate(read_lines(path)):
            yield number, line
    except FlawError as flaw:
        yield number + 1, flaw


def sound(line: bytes | FlawError) -> bytes:
    """Return the line; raise it if it is a flaw."""
    if isinstance(line, FlawError):
        raise line
    return line


def blank_line_documents(path: str, gate: Gate, start: int = 0) -> Iterator[Record]:
    """Yield documents that are runs of non-blank lines, numbered from 0.

    A flaw in a line is a flaw of the whole document.
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
    """Yield (first line from 0, lines) of each run of non-blank lines; a run cut short by damage is left out."""
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

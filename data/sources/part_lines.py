"""Lines of a part of a file (see `data.sources.file_parts`).

A line belongs to the part in which it begins; one that begins exactly where a part ends belongs to that part too. So
every part but the first leaves out what is before its first line break. The same rule serves bytes and Zstandard
frames, which may end in the middle of a line.

A part of an archive goes on to the first sound frame that begins at its end or later. No part begins at a damaged
frame, so the part before it reads and reports it.
"""

from collections.abc import Callable, Iterator

from data.sources.compressed_lines import BYTE_ORDER_MARK, CHUNK, archive_flaws, split_lines
from data.sources.documents import FlawError
from data.sources.file_parts import Part
from data.sources.lines import NumberedLines
from data.sources.paths import open_part, suffixes
from data.sources.zstandard_blocks import find_frame, frame_end, unpacked_zstandard

Lines = Iterator[tuple[bool, bytes | FlawError]]
"""(whether it begins after the part's end, line)."""


def place_of(path: str, part: Part) -> str:
    """A part of a file, for messages; numbers of lines count from there."""
    return f"{path} (from byte {part.start})" if part.start else path


def lines_of_part(path: str, part: Part) -> NumberedLines:
    """Yield (number from 0, line) of the lines that belong to a part; flaws as in `lines.numbered_lines`."""
    return _numbered(_before(_lines(path, part), lambda past, line: past))


def lines_of_documents(path: str, part: Part) -> NumberedLines:
    """Yield (number from 0, line) of the lines of a part whose documents are separated by blank lines.

    A part ends with the first blank line that begins after its end, and the next part begins after that line.
    """
    lines = _lines(path, part)
    return _numbered(_before(_after_blank(lines) if part.start else lines, _ends_documents))


def _ends_documents(past: bool, line: bytes | FlawError) -> bool:
    return past and isinstance(line, bytes) and line.isspace()


def _after_blank(lines: Lines) -> Lines:
    """The lines from the first blank line on."""
    found = False
    for past, line in lines:
        found = found or (isinstance(line, bytes) and line.isspace())
        if found:
            yield past, line


def _before(lines: Lines, ends: Callable[[bool, bytes | FlawError], bool]) -> Iterator[bytes | FlawError]:
    """The lines before the first one that `ends` a part."""
    for past, line in lines:
        if ends(past, line):
            return
        yield line


def _numbered(lines: Iterator[bytes | FlawError]) -> NumberedLines:
    number = -1
    try:
        for number, line in enumerate(lines):
            yield number, line
    except FlawError as flaw:
        yield number + 1, flaw


class _Content:
    """What a file holds from a part's start on."""

    def __init__(self, path: str, part: Part):
        self._path, self._part = path, part
        self.size: int | None = None
        """Unpacked bytes of the part; None before its end is read."""

    def blocks(self) -> Iterator[bytes]:
        """Blocks of the part, and then of the rest of the file."""
        start, stop = self._part.start, self._part.stop
        with open_part(self._path, stop) as opened, archive_flaws():
            if suffixes(self._path)[1] != ".zst":
                self.size = stop - start
                opened.seek(start)
                while opened.peek(1):
                    yield opened.read1(CHUNK)
                return
            first = find_frame(opened, start, stop) if start else 0
            if first is None:
                return
            opened.seek(first)
            read, last = 0, first
            for place, block in unpacked_zstandard(opened):
                if self.size is None and place >= stop and place != last and self._is_frame(place):
                    self.size = read
                last = place
                read += len(block)
                yield block

    def _is_frame(self, place: int) -> bool:
        """Whether a later part finds the frame that begins here."""
        with open_part(self._path, self._part.stop) as opened:
            return frame_end(opened, place) is not None


def _lines(path: str, part: Part) -> Lines:
    """All lines from a part's start to the end of the file, without what is left there of a line begun before."""
    content, place = _Content(path, part), 0
    for number, line in enumerate(split_lines(content.blocks())):
        past = content.size is not None and place > content.size
        place += line.size if isinstance(line, FlawError) else len(line)
        if not number and part.start:
            continue
        if not number and isinstance(line, bytes):
            line = line.removeprefix(BYTE_ORDER_MARK)
        yield past, line

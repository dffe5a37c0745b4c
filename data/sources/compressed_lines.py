"""Lines of stdin and of plain, gzip and Zstandard files, streamed. Damage raises an error."""

import contextlib
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

from data.sources.documents import FlawError
from data.sources.paths import open_file, suffixes

CHUNK = 2**17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_FORMAT = 16 + zlib.MAX_WBITS

LONGEST_LINE = 2**30
"""Largest size of a line, in bytes; a longer line is read past and is a flaw. Whole corpora that are one line (text8,
fil9) are shorter. So only a mistake or an attack is longer."""


def read_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, as `split_lines` does. An archive is unpacked, and a leading byte order mark removed.

    Raises:
      FlawError: a line is longer than LONGEST_LINE, or the archive is truncated or damaged. All whole lines before have
        been yielded.
    """
    yield from _sound(lines_and_flaws(path))


def stdin_lines() -> Iterator[bytes]:
    """Yield the lines of stdin as they arrive, in the same form as those of a file.

    Raises:
      FlawError: a line is longer than LONGEST_LINE.
    """
    stdin = cast(io.BufferedReader, sys.stdin.buffer)
    yield from _sound(_without_mark(split_lines(iter(stdin.read1, b""))))


def lines_and_flaws(path: str) -> Iterator[bytes | FlawError]:
    """Yield the lines of a file, as `read_lines` does; a FlawError stands for a line that is too long.

    Raises:
      FlawError: the archive is truncated or damaged. All whole lines before the damage have been yielded.
    """
    return _without_mark(split_lines(read_blocks(path)))


def _sound(lines: Iterator[bytes | FlawError]) -> Iterator[bytes]:
    for line in lines:
        if isinstance(line, FlawError):
            raise line
        yield line


def _without_mark(lines: Iterator[bytes | FlawError]) -> Iterator[bytes | FlawError]:
    for line in lines:
        yield line if isinstance(line, FlawError) else line.removeprefix(BYTE_ORDER_MARK)
        break
    yield from lines


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes | FlawError]:
    r"""Yield the lines of consecutive blocks. Each keeps its end: \n, \r\n or \r, as in Python's text files.

    A FlawError stands for a line that is longer than LONGEST_LINE; such a line is not kept in memory.
    """
    begun: list[bytes] = []  # parts of a line without an end yet
    size = 0  # of the line so far; `begun` is empty if that is too much
    held = b""  # a \r at the end of a block: the next block may begin with its \n
    for block in blocks:
        block = held + block
        held = block[-1:] if block.endswith(b"\r") else b""
        lines = (block[:-1] if held else block).splitlines(keepends=True)
        unfinished = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        if lines and size:
            yield _line((*begun, end := lines.pop(0)), size, size + len(end))
            begun, size = [], 0
        yield from lines
        if unfinished:
            size += len(unfinished)
            if size > LONGEST_LINE:
                begun = []
            else:
                begun.append(unfinished)
    if size or held:
        yield _line((*begun, held), size, size + len(held))


def _line(parts: Iterable[bytes], size: int, whole: int) -> bytes | FlawError:
    if size > LONGEST_LINE:
        return too_long(size, whole)
    return b"".join(parts)


def too_long(size: int, whole: int = 0) -> FlawError:
    """The flaw of a line, or of a document of several lines, that is longer than LONGEST_LINE.

    Args:
      size: its bytes so far.
      whole: all bytes of the line.
    """
    return FlawError(
        "too long", f"{size} bytes or more; at most {LONGEST_LINE} are read as one document", whole
    )


def read_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file in blocks; the extension tells whether to unpack it (.gz, .zst, else plain).

    A block has CHUNK bytes at most, however much an archive unpacks to.

    Raises:
      FlawError: the archive is truncated or damaged. All content before the damage has been yielded.
    """
    from data.sources.zstandard_blocks import unpacked_zstandard

    with open_file(path) as opened, archive_flaws():
        match suffixes(path)[1]:
            case ".gz":
                yield from _unpacked_gzip(opened)
            case ".zst":
                yield from (block for _, block in unpacked_zstandard(opened))
            case _:
                yield from iter(lambda: opened.read1(CHUNK), b"")


@contextlib.contextmanager
def archive_flaws() -> Iterator[None]:
    """Turn the errors of unpacking into flaws."""
    import zstandard

    try:
        yield
    except EOFError:
        raise FlawError("truncated file", "the archive ends before its end mark; copy it again") from None
    except (zlib.error, zstandard.ZstdError) as error:
        raise FlawError("damaged file", str(error)) from None


def _unpacked_gzip(opened: io.BufferedReader) -> Iterator[bytes]:
    """Yield the content of an archive of one or more members.

    Unlike gzip's reader, it yields all content before the damage.

    Raises:
      EOFError: the archive is truncated.
    """
    member: Any = None
    while packed := opened.read1(CHUNK):
        while packed:
            if member is None and not (packed := packed.lstrip(b"\0")):  # padding between or after members
                break
            member = member or zlib.decompressobj(wbits=GZIP_FORMAT)
            yield member.decompress(packed, CHUNK)
            packed = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member = None
    while member is not None:  # what the last bytes unpack to
        content = member.decompress(b"", CHUNK)
        yield content
        if member.eof:
            return
        if not content:
            raise EOFError

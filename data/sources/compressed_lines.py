"""Lines of stdin and of plain, gzip and Zstandard files, streamed. Damage raises an error."""

import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from data.sources.documents import FlawError
from data.sources.paths import open_file, suffixes

CHUNK = 2**17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_FORMAT = 16 + zlib.MAX_WBITS


def read_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, as `split_lines` does. An archive is unpacked, and a leading byte order mark removed.

    Raises:
      FlawError: the archive is truncated or damaged. All whole lines before the damage have been yielded.
    """
    yield from _without_mark(split_lines(read_blocks(path)))


def stdin_lines() -> Iterator[bytes]:
    """Yield the lines of stdin as they arrive, in the same form as those of a file."""
    stdin = cast(io.BufferedReader, sys.stdin.buffer)
    yield from _without_mark(split_lines(iter(stdin.read1, b"")))


def _without_mark(lines: Iterator[bytes]) -> Iterator[bytes]:
    yield from (line.removeprefix(BYTE_ORDER_MARK) for line in [next(lines, b"")] if line)
    yield from lines


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield the lines of consecutive blocks. Each keeps its end: \n, \r\n or \r, as in Python's text files."""
    begun: list[bytes] = []  # parts of a line without an end yet
    held = b""  # a \r at the end of a block: the next block may begin with its \n
    for block in blocks:
        block = held + block
        held = block[-1:] if block.endswith(b"\r") else b""
        lines = (block[:-1] if held else block).splitlines(keepends=True)
        unfinished = lines.pop() if lines and not lines[-1].endswith((b"\n", b"\r")) else b""
        if lines and begun:
            lines[0] = b"".join((*begun, lines[0]))
            begun = []
        yield from lines
        if unfinished:
            begun.append(unfinished)
    if last := b"".join((*begun, held)):
        yield last


def read_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file in blocks; the extension tells whether to unpack it (.gz, .zst, else plain).

    Raises:
      FlawError: the archive is truncated or damaged. All content before the damage has been yielded.
    """
    import zstandard

    with open_file(path) as opened:
        packed = iter(lambda: opened.read1(CHUNK), b"")
        new_frame = _decompressor(suffixes(path)[1])
        try:
            yield from _unpacked(packed, new_frame) if new_frame else packed
        except EOFError:
            raise FlawError("truncated file", "the archive ends before its end mark; copy it again") from None
        except (zlib.error, zstandard.ZstdError) as error:
            raise FlawError("damaged file", str(error)) from None


def _decompressor(compression: str) -> Callable[[], Any] | None:
    """Function that makes a decompressor of one gzip member or Zstandard frame; None for a plain file."""
    if compression == ".gz":
        return lambda: zlib.decompressobj(wbits=GZIP_FORMAT)
    if compression == ".zst":
        import zstandard

        # Archives written with --long need a larger window than the library's default.
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    return None


def _unpacked(blocks: Iterable[bytes], new_frame: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the content of an archive of one or more frames.

    Unlike zstandard's reader, it raises EOFError at a truncated frame. Unlike gzip's reader, it yields all content
    before the damage.
    """
    frame: Any = None
    for packed in blocks:
        while packed:
            if frame is None and not (
                packed := packed.lstrip(b"\0")
            ):  # padding between or after gzip members
                break
            frame = frame or new_frame()
            content = memoryview(frame.decompress(packed))
            yield from (bytes(content[start : start + CHUNK]) for start in range(0, len(content), CHUNK))
            packed = frame.unused_data
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError

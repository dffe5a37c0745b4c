"""Lines of stdin and of plain, gzip and Zstandard files, streamed; damage is not taken for the end of the file."""

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
    """Lines of a file as `split_lines` makes them, unpacked as `read_blocks` does, without a leading byte order mark.

    Raises:
      FlawError: the archive is truncated or damaged; every whole line before that has been yielded.
    """
    yield from _without_mark(split_lines(read_blocks(path)))


def stdin_lines() -> Iterator[bytes]:
    """Lines of stdin as they come, like those of a file."""
    stdin = cast(io.BufferedReader, sys.stdin.buffer)
    yield from _without_mark(split_lines(iter(stdin.read1, b"")))


def _without_mark(lines: Iterator[bytes]) -> Iterator[bytes]:
    yield from (line.removeprefix(BYTE_ORDER_MARK) for line in [next(lines, b"")] if line)
    yield from lines


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Lines of consecutive blocks, each with its end: \n, \r\n or \r, as in Python's text files."""
    begun: list[bytes] = []  # parts of a line whose end is yet to come
    held = b""  # a \r at the end of a block: the next may begin with its \n
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
    """The content of a file in blocks, unpacked by the extension (.gz, .zst, else plain).

    Raises:
      FlawError: the archive is truncated or damaged; all that comes before the damage has been yielded.
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
    """Makes the decompressor of one gzip member or Zstandard frame; None for a plain file."""
    if compression == ".gz":
        return lambda: zlib.decompressobj(wbits=GZIP_FORMAT)
    if compression == ".zst":
        import zstandard

        # Archives written with --long need a larger window than the library grants unasked.
        return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
    return None


def _unpacked(blocks: Iterable[bytes], new_frame: Callable[[], Any]) -> Iterator[bytes]:
    """The content of an archive of one or more frames.

    Unlike zstandard's reader it raises EOFError at a truncated frame; unlike gzip's it hands out all that comes before
    the damage.
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

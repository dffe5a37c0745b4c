"""Lines of plain, gzip and Zstandard files, streamed, with damage noticed rather than taken for the end of the file."""

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from data.sources.documents import FlawError
from data.sources.paths import open_file, suffixes

CHUNK = 2**17
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_FORMAT = 16 + zlib.MAX_WBITS


def read_lines(path: str) -> Iterator[bytes]:
    """Lines of a file with their line breaks, unpacked by the extension (.gz, .zst, else plain), without a leading BOM.

    Raises:
      FlawError: the archive is truncated or damaged; every whole line before that has been yielded.
    """
    import zstandard

    with contextlib.ExitStack() as opened:
        lines = opened.enter_context(open_file(path))
        if new_frame := _decompressor(suffixes(path)[1]):
            lines = opened.enter_context(io.BufferedReader(_Unpacked(lines, new_frame), CHUNK))
        try:
            yield from (line.removeprefix(BYTE_ORDER_MARK) for line in [next(lines, b"")] if line)
            yield from lines
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


class _Unpacked(io.RawIOBase):
    """The content of an archive of one or more frames.

    Unlike zstandard's reader it raises EOFError at a truncated frame; unlike gzip's behind a buffer of its own it hands
    out all that comes before the damage.
    """

    def __init__(self, packed: IO[bytes], new_frame: Callable[[], Any]):
        self._file = packed
        self._new_frame = new_frame
        self._frame: Any = None
        self._packed = b""
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            if self._frame is None:
                self._packed = self._packed.lstrip(b"\0")  # padding between or after gzip members
            if not self._packed:
                self._packed = self._file.read(CHUNK)
                if not self._packed:
                    if self._frame is not None:
                        raise EOFError
                    return 0
                continue
            self._frame = self._frame or self._new_frame()
            self._content = memoryview(self._frame.decompress(self._packed))
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size

"""Unpacks Zstandard archives block by block (RFC 8878, section 3.1), so that memory does not depend on the content.

A block unpacks to 128 KiB at most. The library's own functions unpack all of their input in one call, where 4 bytes may
stand for 128 KiB, or do not tell a truncated archive from a whole one.
"""

import io
from collections.abc import Iterator

import zstandard

MAGIC = 0xFD2FB528
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
RUN = 1
"""Kind of a block that is one byte, repeated."""
CHECKSUM_BYTES = 4


def unpacked_zstandard(opened: io.BufferedReader) -> Iterator[bytes]:
    """Yield the content of an archive of one or more frames, a block at a time.

    Raises:
      EOFError: the archive is truncated. All whole blocks before have been yielded.
      zstandard.ZstdError: the archive is damaged. All blocks before the damage have been yielded.
    """
    while magic := _magic(opened):
        number = int.from_bytes(magic, "little")
        if number in SKIPPABLE:
            _skip(opened, int.from_bytes(_exactly(opened, 4), "little"))
        elif number != MAGIC:
            raise zstandard.ZstdError(f"no Zstandard frame begins with the bytes {magic.hex()}")
        else:
            yield from _frame(opened, magic)


def _frame(opened: io.BufferedReader, magic: bytes) -> Iterator[bytes]:
    described = _exactly(opened, 1)
    flags = described[0]
    single = flags >> 5 & 1
    header = (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
    # Archives written with --long need a larger window than the library's default.
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    unpacker.decompress(magic + described + _exactly(opened, header))
    last = 0
    while not last:
        begin = _exactly(opened, 3)
        value = int.from_bytes(begin, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if content := unpacker.decompress(begin + _exactly(opened, 1 if kind == RUN else size)):
            yield content
    if flags >> 2 & 1:
        unpacker.decompress(_exactly(opened, CHECKSUM_BYTES))


def _magic(opened: io.BufferedReader) -> bytes:
    """The next four bytes after zeros, which may lie between frames; empty at the end of the file."""
    found = b""
    while len(found) < 4:
        more = opened.read(4 - len(found))
        if not more and found:
            raise EOFError
        if not more:
            break
        found = (found + more).lstrip(b"\0")
    return found


def _exactly(opened: io.BufferedReader, size: int) -> bytes:
    content = opened.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _skip(opened: io.BufferedReader, size: int) -> None:
    while size:
        size -= len(_exactly(opened, min(size, 2**16)))

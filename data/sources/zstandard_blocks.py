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
NO_KIND = 3
CHECKSUM_BYTES = 4
RESERVED = 8
"""The bit of a frame's first byte that is 0."""
LARGEST_BLOCK = 2**17
SEARCHED = 2**18
"""Bytes that are searched for a frame at a time."""


def unpacked_zstandard(opened: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield the content of an archive of one or more frames: (place of the frame in the file, next block).

    Each frame yields, also one without content: its block is empty.

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
            place = opened.tell() - len(magic)
            yield from ((place, block) for block in _frame(opened, magic))


def find_frame(opened: io.BufferedReader, start: int, stop: int) -> int | None:
    """The place of the first frame that begins in bytes start to stop (exclusive) of an archive; None if none does.

    Compressed content may hold the mark of a frame by chance. So a mark counts only if whole blocks follow it, up to
    another frame or the end of the file.
    """
    mark = MAGIC.to_bytes(4, "little")
    for place in range(start, stop, SEARCHED):
        opened.seek(place)
        content = opened.read(min(SEARCHED, stop - place) + len(mark) - 1)
        found = content.find(mark)
        while found >= 0:
            if frame_end(opened, place + found) is not None:
                return place + found
            found = content.find(mark, found + 1)
    return None


def frame_end(opened: io.BufferedReader, start: int, limit: int | None = None) -> int | None:
    """The place after the frame that begins at `start`; None if none does, or if it ends after `limit`."""
    opened.seek(start)
    try:
        if _exactly(opened, 4) != MAGIC.to_bytes(4, "little"):
            return None
        flags = _exactly(opened, 1)[0]
        if flags & RESERVED:
            return None
        _exactly(opened, _header_bytes(flags))
        last = 0
        while not last:
            last, kind, size = _block(_exactly(opened, 3))
            place = opened.seek(1 if kind == RUN else size, io.SEEK_CUR)
            if kind == NO_KIND or size > LARGEST_BLOCK or (limit is not None and place > limit):
                return None
        end = opened.seek(CHECKSUM_BYTES if flags >> 2 & 1 else 0, io.SEEK_CUR)
        opened.seek(end - 1)
        _exactly(opened, 1)  # a seek beyond the end of a file succeeds
        following = int.from_bytes(_magic(opened), "little")
    except EOFError:
        return None
    return end if following in (0, MAGIC) or following in SKIPPABLE else None


def _frame(opened: io.BufferedReader, magic: bytes) -> Iterator[bytes]:
    described = _exactly(opened, 1)
    flags = described[0]
    # Archives written with --long need a larger window than the library's default.
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    unpacker.decompress(magic + described + _exactly(opened, _header_bytes(flags)))
    last = 0
    while not last:
        begin = _exactly(opened, 3)
        last, kind, size = _block(begin)
        yield unpacker.decompress(begin + _exactly(opened, 1 if kind == RUN else size))
    if flags >> 2 & 1:
        unpacker.decompress(_exactly(opened, CHECKSUM_BYTES))


def _header_bytes(flags: int) -> int:
    """Size of a frame's header after its mark and its first byte, `flags`."""
    single = flags >> 5 & 1
    return (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]


def _block(begin: bytes) -> tuple[int, int, int]:
    """What the 3 bytes before a block tell: whether it is the last of its frame, its kind, its size."""
    value = int.from_bytes(begin, "little")
    return value & 1, value >> 1 & 3, value >> 3


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

"""Damaged archives in parts: parts report each damage that the whole file reports, and lose no document before it."""

import random
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from base.errors import UserError
from data.config import SourceConfig
from data.source_protocol import Record
from data.sources.documents import Gate
from data.sources.file_parts import Part
from data.sources.files import read_file, read_part
from data.sources.paths import File

DAMAGE = ("unreadable: damaged file", "unreadable: truncated file")


def frames_of_blocks(lines: list[bytes], choice: random.Random) -> tuple[bytes, list[int]]:
    """Zstandard frames, most with several blocks and some empty, that end anywhere; and where blocks begin."""
    content, packed, blocks = b"".join(lines), b"", []
    while content:
        frame, stream = b"", zstandard.ZstdCompressor(write_checksum=True).compressobj()
        for _ in range(choice.randrange(4)):
            size = choice.randrange(1, 60)
            blocks.append(len(packed) + len(frame))
            frame += stream.compress(content[:size]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
            content = content[size:]
            if len(frame) + len(packed) > blocks[-1] and blocks[-1] == len(packed):
                blocks[-1] += zstandard.frame_header_size(frame)
        packed += frame + stream.flush()
    return packed, blocks


def damaged(packed: bytes, blocks: list[int], kind: str, choice: random.Random) -> bytes:
    changed = bytearray(packed)
    if kind == "header of a block":
        changed[choice.choice(blocks)] |= 6  # a kind that does not exist
    elif kind == "end":
        del changed[choice.randrange(len(changed) // 2, len(changed)) :]
    else:
        changed[choice.randrange(4, len(changed))] ^= 1 << choice.randrange(8)
    return bytes(changed)


def kept(records: list[Record]) -> Counter[str]:
    return Counter(record.text for record in records if not record.dropped)


@pytest.mark.parametrize("documents", ["lines", "blank_line"])
@pytest.mark.parametrize("kind", ["header of a block", "end", "any byte"])
def test_damage_is_reported_wherever_parts_end(tmp_path: Path, kind: str, documents: str) -> None:
    skip = SourceConfig(source="files", txt_documents=documents, bad_documents="skip")
    strict = SourceConfig(source="files", txt_documents=documents)
    between = b"\n" if documents == "blank_line" else b""
    path, several = tmp_path / "a.txt.zst", 0
    for seed in range(30):
        choice = random.Random(seed)
        lines = [b"%d %s\n" % (number, b"ord " * choice.randrange(20)) + between for number in range(40)]
        path.write_bytes(damaged(*frames_of_blocks(lines, choice), kind, choice))
        size = path.stat().st_size
        file = File(str(path), path.name, size)
        cuts = sorted(choice.sample(range(1, size), choice.randrange(1, 12)))
        parts = [Part(0, *bounds, 1.0) for bounds in zip([0, *cuts], [*cuts, size], strict=True)]
        whole = list(read_file(file, skip, Gate(skip)))
        divided = [record for part in parts for record in read_part(file, part, skip, Gate(skip))]
        assert not kept(whole) - kept(divided), seed
        if kind != "any byte":  # a wrong size lets a block hold the next frame
            written = Counter(line.decode().rstrip("\n") for line in lines)
            assert not kept(divided) - (kept(whole) | written), f"{seed}: read twice, or no document"
        if not any(record.dropped in DAMAGE for record in whole):
            assert kept(whole) == kept(divided), seed
            continue
        assert any(record.dropped in DAMAGE for record in divided), seed
        several += len(kept(divided)) > len(kept(whole))
        with pytest.raises(UserError, match="bad_documents=skip"):
            for part in parts:
                list(read_part(file, part, strict, Gate(strict)))
    assert kind == "end" or several > 8, "parts after the damage are read"


def test_no_line_is_read_twice_if_a_damaged_frame_follows_an_empty_one_at_which_a_part_begins(
    tmp_path: Path,
) -> None:
    skip = SourceConfig(source="files", bad_documents="skip")
    first, empty = zstandard.compress(b"a\nb\n"), zstandard.compress(b"")
    stream = zstandard.ZstdCompressor().compressobj()
    blocks = stream.compress(b"c\nd\n") + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    path, cut = tmp_path / "a.txt.zst", len(first)
    path.write_bytes(first + empty + blocks)
    file = File(str(path), path.name, path.stat().st_size)
    parts = Part(0, 0, cut, 1.0), Part(0, cut, file.size, 1.0)
    divided = [record for part in parts for record in read_part(file, part, skip, Gate(skip))]
    assert kept(divided) == kept(list(read_file(file, skip, Gate(skip))))
    assert any(record.dropped in DAMAGE for record in divided)

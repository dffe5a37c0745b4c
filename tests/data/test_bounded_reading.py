"""Memory that reading needs: archives that unpack to much more, lines without end, and streams of many epochs."""

import gzip
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import zstandard

from base.errors import UserError
from data.batches import open_batches
from data.config import DataConfig, SourceConfig
from data.source_protocol import BLANK
from data.sources import compressed_lines, open_source
from data.sources.compressed_lines import read_blocks
from data.sources.documents import FlawError
from tests.memory_corpus import SPECIAL

MB = 2**20


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """The body allocates less than `limit` bytes of Python's memory at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def expanding_zst(size: int) -> bytes:
    """An archive in which four bytes stand for 128 KiB of zeros."""
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    end = (1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (size // 2**17) + end


def expanding_gz(size: int) -> bytes:
    return gzip.compress(bytes(MB)) * (size // MB)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", expanding_gz), ("zst", expanding_zst)])
@pytest.mark.parametrize("documents", ["lines", "blank_line"])
def test_an_archive_that_unpacks_to_one_endless_line_is_one_bad_document(
    tmp_path, monkeypatch, suffix, pack, documents
):
    monkeypatch.setattr(compressed_lines, "LONGEST_LINE", MB)
    path = tmp_path / f"a.txt.{suffix}"
    line = "line" if documents == "lines" else "line\n"
    path.write_bytes(
        (gzip if suffix == "gz" else zstandard).compress(f"before\n{line[4:]}".encode())
        + pack(32 * MB)
        + (gzip if suffix == "gz" else zstandard).compress(f"\n{line[4:]}after\n".encode())
    )
    assert path.stat().st_size < MB // 4

    def read(policy: str) -> list[tuple[str, str]]:
        config = SourceConfig(source="files", path=str(path), txt_documents=documents, bad_documents=policy)
        records = open_source(config).read(0)
        return [(record.text, record.dropped) for record in records if record.dropped != BLANK]

    with peak_below(8 * MB):
        assert read("skip") == [("before", ""), ("", "unreadable: too long"), ("after", "")]
        with pytest.raises(
            UserError, match=r"a\.txt\.\w+ line [23]: too long \(33554432 bytes or more; at most 1048576"
        ):
            read("strict")


def test_a_document_of_very_many_lines_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed_lines, "LONGEST_LINE", MB // 4)
    (tmp_path / "a.txt").write_bytes(b"one\n\n" + b"a\n" * 300_000 + b"\n\ntwo\n")
    config = SourceConfig(
        source="files", path=f"{tmp_path}/a.txt", txt_documents="blank_line", bad_documents="skip"
    )
    with peak_below(6 * MB):  # all lines take 13 MB
        dropped = [record.dropped for record in open_source(config).read(0)]
    assert dropped == ["", "unreadable: too long", ""]


@pytest.mark.parametrize("name", ["gz", "zst"])
def test_an_archive_cut_anywhere_gives_a_start_of_its_content_and_says_so(tmp_path, name):
    draw = random.Random(0)
    text = " ".join(str(draw.randrange(10**6)) for _ in range(60_000)).encode()
    if name == "gz":
        whole = gzip.compress(text[:1000]) + gzip.compress(text[1000:])
    else:
        pack = zstandard.ZstdCompressor(write_checksum=True)
        skipped = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
        stream = pack.compressobj()
        whole = pack.compress(text[:1000]) + skipped + stream.compress(text[1000:]) + stream.flush() + b"\0\0"
    path = tmp_path / f"a.txt.{name}"
    path.write_bytes(whole)
    assert b"".join(read_blocks(str(path))) == text
    first = len(zstandard.ZstdCompressor(write_checksum=True).compress(text[:1000]))
    for size in [1, 3, 7, *draw.sample(range(first + 20, len(whole) - 2), 15)]:
        path.write_bytes(whole[:size])
        blocks: list[bytes] = []
        with pytest.raises(FlawError, match="truncated file"):
            blocks.extend(read_blocks(str(path)))
        assert text.startswith(b"".join(blocks))


def test_damage_in_an_archive_is_told_from_its_end(tmp_path):
    pack = zstandard.ZstdCompressor(write_checksum=True)
    whole = bytearray(pack.compress(random.Random(0).randbytes(400_000)))
    for place, reason in ((0, "no Zstandard frame begins"), (-1, "checksum")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "a.txt.zst").write_bytes(damaged)
        with pytest.raises(FlawError, match=f"damaged file.*{reason}"):
            list(read_blocks(f"{tmp_path}/a.txt.zst"))


def test_memory_does_not_grow_with_the_epochs(tmp_path):
    """Held in memory: two windows of each stream, and the batches that are ready."""
    for part in range(3):
        lines = [" ".join(str(5 + (7 * line + part) % 9999) for _ in range(20)) for line in range(200)]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    config = DataConfig(
        source="files", path=f"{tmp_path}/*.txt", streams=2, window=50, eval_fraction=0.0, prefetch=2
    )
    held: dict[int, int] = {}
    tracemalloc.start()
    try:
        encode = lambda texts: [np.array(text.split(), np.int32) for text in texts]  # noqa: E731
        with open_batches(config, encode, SPECIAL, seed=1, seq_len=128, global_batch=4) as batches:
            while len(held) < 60:
                epoch = min(state["epoch"] for state in next(batches).states.values())
                held.setdefault(epoch, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # An epoch's texts are 60 kB. A file that is open at the moment takes 0.4 MB.
    assert max(held[epoch] for epoch in range(50, 60)) < max(held[epoch] for epoch in range(5, 15)) + MB


def test_a_stream_holds_the_texts_of_two_windows(tmp_path):
    size, window = 100_000, 8
    lines = [f"{line} ".ljust(size, "x") for line in range(10 * window)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    del lines
    config = DataConfig(
        source="files", path=f"{tmp_path}/a.txt", streams=1, window=window, eval_fraction=0.0, prefetch=1
    )

    def encode(texts):
        return [np.full(len(text) // 10, 7, np.int32) for text in texts]

    with (
        peak_below(2 * window * size + 2 * MB),
        open_batches(config, encode, SPECIAL, seed=1, seq_len=512, global_batch=32, epochs=2) as batches,
    ):
        assert sum(1 for _ in batches) > 90

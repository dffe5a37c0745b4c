"""Few large files on many hosts: parts of files that streams read alone, and files that have no parts."""

import gzip
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from base import schema
from base.errors import UserError
from data import streams
from data.config import DataConfig, SourceConfig
from data.corpus import count_steps
from data.source_protocol import Record, Source
from data.sources import file_parts, open_source, paths, zstandard_blocks
from data.sources.documents import Gate
from data.sources.file_parts import Part, divide
from data.sources.files import FilesSource, read_file, read_part
from data.sources.paths import File
from data.streams import division
from tests.data.test_batches import assert_same, opened, take, text_tokens
from tests.memory_corpus import Encoder, make_corpus

PIECES = ("", "a", "en", "  ", "lang linje " * 9, "æ")
ENDS = ("\n", "\n", "\n", "\r\n", "\r", "\n\n", "\n \n")


def lines_at_random(seed: int) -> bytes:
    """Lines with all line breaks, blank ones too; with and without a last break."""
    choice = random.Random(seed)
    parts = [choice.choice(PIECES) + choice.choice(ENDS) for _ in range(choice.randrange(1, 40))]
    text = "".join(parts)
    return (b"\xef\xbb\xbf" if seed % 5 == 0 else b"") + (text if seed % 2 else text.rstrip()).encode()


def in_frames(content: bytes, seed: int) -> bytes:
    """Zstandard frames that end anywhere, some with checksums, between them frames to skip and zeros."""
    choice, packed = random.Random(seed), b""
    while content:
        size = choice.randrange(1, 60)
        packed += zstandard.ZstdCompressor(write_checksum=size % 2 == 0).compress(content[:size])
        packed += choice.choice((b"", b"", b"\0\0", b"\x50\x2a\x4d\x18\x03\0\0\0abc"))
        content = content[size:]
    return packed


def texts(records: Any) -> list[str]:
    found: list[Record] = list(records)
    assert [record.number for record in found] == list(range(len(found)))
    return [record.text for record in found if not record.dropped]


@pytest.mark.parametrize("documents", ["lines", "blank_line"])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_each_document_is_in_one_part_wherever_parts_end(tmp_path: Path, documents: str, suffix: str) -> None:
    config = SourceConfig(source="files", txt_documents=documents, bad_documents="skip")
    gate, several = Gate(config), 0
    for seed in range(60):
        content = lines_at_random(seed)
        path = tmp_path / f"{seed}.txt{suffix}"
        path.write_bytes(in_frames(content, seed) if suffix else content)
        size = path.stat().st_size
        file = File(str(path), path.name, size)
        choice = random.Random(seed)
        cuts = sorted(choice.sample(range(1, size), min(size - 1, choice.randrange(1, 12))))
        parts = [Part(0, *bounds, 1.0) for bounds in zip([0, *cuts], [*cuts, size], strict=True)]
        whole = [record.text for record in read_file(file, config, gate) if not record.dropped]
        divided = [texts(read_part(file, part, config, gate)) for part in parts]
        assert [text for part in divided for text in part] == whole, seed
        several += sum(map(bool, divided)) > 1
        for part in parts[:3]:  # read on from any number
            records = list(read_part(file, part, config, gate))
            assert all(
                list(read_part(file, part, config, gate, n)) == records[n:] for n in range(len(records))
            )
    assert several > 30


def test_a_mark_of_a_frame_in_compressed_content_is_no_frame(tmp_path: Path) -> None:
    """Content that does not compress is stored as it is, with frames in it."""
    inner = zstandard.compress(b"inner\n") + b"\x28\xb5\x2f\xfd"
    noise = random.Random(0).randbytes(500)
    outer = zstandard.ZstdCompressor().compress(noise + inner[:-9] + b"\x07" + noise)
    path = tmp_path / "a.zst"
    path.write_bytes(outer + zstandard.compress(b"next\n"))
    with path.open("rb") as opened:
        assert zstandard_blocks.find_frame(opened, 1, path.stat().st_size) == len(outer)
        assert zstandard_blocks.find_frame(opened, 1, len(outer)) is None
        assert zstandard_blocks.find_frame(opened, len(outer) - 1, len(outer) + 1) == len(outer)


def test_parts_have_similar_sizes_and_streams_equal_numbers() -> None:
    sizes = (9 << 20, 5 << 20, 99, 2 << 20)
    files = [File(f"{number}.txt", f"{number}.txt", size) for number, size in enumerate(sizes)]
    parts = divide(files, (), 16, 2)
    assert not isinstance(parts, str)
    assert [sum(part.file == number for part in parts) for number in range(4)] == [8, 5, 1, 2]
    assert [(part.start, part.stop) for part in parts if part.file == 3] == [(0, 1 << 20), (1 << 20, 2 << 20)]
    assert divide(files[:1], (), 16, 2) == "", "small"
    assert divide([File("a.txt", "a.txt", 99 << 20)], [0], 16, 2) == "a.txt is a text and its metadata"


def test_files_that_give_a_stream_too_much_or_too_little_text_are_not_divided() -> None:
    def files(*sizes: int) -> list[File]:
        return [File(f"{number}.txt", f"{number}.txt", size << 20) for number, size in enumerate(sizes)]

    assert divide(files(*[4, 0] * 7), (), 16, 2) == (
        "4.txt and the other files have too different sizes for equal shares"
    )
    alone = divide(files(*[0, 14] * 8), (), 64, 8)
    assert "too different sizes" in str(alone), "empty files would be all that stream 0 has"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes count as large."""
    monkeypatch.setattr(file_parts, "LEAST_PART", 40)
    monkeypatch.setattr(paths, "BEYOND", 64)


CORPUS = [text for shard in make_corpus(1, 1200, longest=12) for text in shard]


def write_parquet(path: Path, groups: int, first: int = 0) -> None:
    """Row groups of equal numbers of rows; or one of `first` rows, and of the others 40 of equal numbers."""
    table = pa.table({"text": CORPUS})
    with pq.ParquetWriter(path, table.schema) as writer:
        if first:
            writer.write_table(table.slice(0, first))
        writer.write_table(
            table.slice(first), row_group_size=-(-(len(CORPUS) - first) // (40 if first else groups))
        )


def write_frames(path: Path) -> None:
    frames = ["\n".join(CORPUS[n : n + 5]) + "\n" for n in range(0, len(CORPUS), 5)]
    path.write_bytes(b"".join(zstandard.compress(frame.encode()) for frame in frames))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.txt": lambda path: path.write_text("\n".join(CORPUS)),
    "a.jsonl": lambda path: path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in CORPUS)),
    "a.parquet": lambda path: write_parquet(path, 40),
    "a.txt.zst": write_frames,
    "no_meta.jsonl": lambda path: path.write_text(
        "".join(f"{json.dumps({'content': text, 'metadata': {}})}\n" for text in CORPUS)
    ),
    "no.txt": lambda path: path.write_text("\n\n".join(CORPUS)),
}


def written(folder: Path, name: str, **changes: Any) -> tuple[DataConfig, Source]:
    WRITERS[name](folder / name)
    oscar = name.startswith("no")
    kind = {"source": "oscar" if oscar else "files", "path": str(folder if oscar else folder / name)}
    config = DataConfig(**{**kind, "streams": 4, "window": 8, "eval_fraction": 0.1, **changes})
    return config, open_source(SourceConfig(source=config.source, path=config.path))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", WRITERS)
def test_streams_read_each_document_once_from_their_own_parts(tmp_path: Path, name: str) -> None:
    config, source = written(tmp_path, name)
    divided = division(config, source)
    assert not isinstance(divided, str) and len(divided.shards) == 32
    shape = {"epochs": 1, "seq_len": 32}
    batches = take(config, [source], **shape)
    steps = count_steps(config, Encoder(), seed=1, seq_len=32, global_batch=8, epochs=1, sources=[source])
    assert len(batches) == steps
    held_out = sum(state["counts"]["held_out"] for state in batches[-1].states.values())
    assert sum(state["counts"]["documents"] for state in batches[-1].states.values()) == 1200 - held_out
    whole = take(DataConfig(**{**vars(config), "split_files": False}), [source], **shape)
    assert text_tokens(batches) == text_tokens(whole), "the same documents are held out"


@pytest.mark.usefixtures("small")
def test_a_process_reads_its_share_of_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    readinto = paths._UpTo.readinto

    def counted(self: Any, buffer: Any) -> int:
        read.append(readinto(self, buffer))
        return read[-1]

    monkeypatch.setattr(paths._UpTo, "readinto", counted)
    config, source = written(tmp_path, "a.txt", window=1)
    with opened(config, [source], rows=range(2, 4)) as batches:
        while next(batches).states["1"]["epoch"] == 0:
            pass
    assert sum(read) < 0.5 * (tmp_path / "a.txt").stat().st_size


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt.zst"])
def test_resume_is_exact_on_any_number_of_processes(tmp_path: Path, name: str) -> None:
    config, source = written(tmp_path, name)
    whole = take(config, [source], 80, seq_len=32)
    assert whole[-1].states["0"]["epoch"] >= 1
    for step in (0, 13, 37, 64):
        saved = json.loads(json.dumps(whole[step].states))
        again = open_source(SourceConfig(source="files", path=config.path))
        assert_same(take(config, [again], 79 - step, states=saved, seq_len=32), whole[step + 1 :])
    halves = [take(config, [source], 80, rows=range(*half), seq_len=32) for half in ((0, 4), (4, 8))]
    for index, batch in enumerate(whole):
        parts = [half[index].arrays["tokens"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), batch.arrays["tokens"])


@pytest.mark.usefixtures("small")
def test_a_run_of_older_code_reads_as_it_did(tmp_path: Path) -> None:
    config, source = written(tmp_path, "a.txt")
    saved = {name: value for name, value in schema.as_dict(config).items() if name != "split_files"}
    older = schema.restored(DataConfig, saved)
    assert not older.split_files
    states = take(older, [source], 1)[0].states["0"]
    assert states["start"][1:3] == [0, 0] and states["end"][1] == 0, "all streams are in the one file"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "a.txt.gz",
            gzip.compress("\n".join(CORPUS).encode()),
            "a.txt.gz is a .gz file, which can be read from",
        ),
        (
            "a.txt.zst",
            zstandard.compress("\n".join(CORPUS).encode()),
            "a.txt.zst is a .zst file of one frame",
        ),
        ("a.parquet", None, "a.parquet has only 7 row groups"),
        ("unequal.parquet", None, "unequal.parquet has row groups of unequal sizes"),
    ],
)
def test_files_without_parts_are_read_whole_and_named_on_several_hosts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None, why: str
) -> None:
    streams._say_shared.cache_clear()
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    else:
        write_parquet(path, 7, first=600 if name.startswith("unequal") else 0)
    config = DataConfig(source="files", path=str(path), streams=4, window=8)
    source = FilesSource(SourceConfig(source="files", path=str(path)))
    assert str(division(config, source)).startswith(why)
    with caplog.at_level(logging.WARNING):
        take(config, [source], 2)
        assert not caplog.messages, "one process reads all of it anyway"
        for _ in range(2):
            take(config, [source], 2, rows=range(2))
    (message,) = caplog.messages
    assert message.startswith(why) and "every process reads all of the text; prepare the corpus" in message


@pytest.mark.usefixtures("small")
def test_a_stream_without_a_frame_says_how_to_read_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"a\n") + zstandard.compress("\n".join(CORPUS).encode()))
    config = DataConfig(source="files", path=str(path), streams=4, window=8)
    source = FilesSource(SourceConfig(source="files", path=str(path)))
    with pytest.raises(
        UserError, match=r"stream 1 of 4 has no document: .*, or set config\.data\.split_files=False"
    ):
        take(config, [source], 1)

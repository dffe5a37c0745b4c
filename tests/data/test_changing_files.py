"""Files of a corpus that change while a run reads them: named, with what has changed, and never read on silently."""

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from base.errors import UserError
from data.batches import open_batches
from data.config import DataConfig, SourceConfig
from data.source_protocol import Source
from data.sources import file_versions, open_source
from tests.memory_corpus import SPECIAL, Encoder

LINES = [f"{100 + number} {200 + number}" for number in range(40)]


def content(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def replace(path: Path, new: bytes) -> None:
    """As tools do it: a new file takes the name of the old one."""
    other = path.with_name("new")
    other.write_bytes(new)
    other.replace(path)


def written_later(path: Path, seconds: int = 10) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def source_of(path: object, **fields) -> Source:
    return open_source(SourceConfig(source="files", path=str(path), **fields))


def test_an_archive_that_is_replaced_between_two_epochs_stops_the_run(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(content(LINES), mtime=0))
    config = DataConfig(source="files", path=str(path), streams=1, window=4, eval_fraction=0.0, prefetch=1)
    with open_batches(config, Encoder(), SPECIAL, seed=1, seq_len=16, global_batch=1) as batches:
        next(batches)
        replace(path, gzip.compress(content([line.replace("1", "3") for line in LINES] * 2), mtime=0))
        with pytest.raises(
            UserError,
            match=r"a\.txt\.gz: the file has changed while .* \(\d+ bytes before, \d+ now\); put the",
        ):
            for _ in range(100):
                next(batches)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.zst", "a.jsonl", "a.parquet"])
def test_a_file_that_is_written_again_is_noticed_when_it_is_opened_again(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": LINES}), path)
    elif name == "a.txt.zst":
        import zstandard

        path.write_bytes(zstandard.compress(content(LINES)))
    else:
        path.write_bytes(content([f'{{"text": "{line}"}}' for line in LINES]))
    source = source_of(path)
    for _ in range(2):
        assert len(list(source.read(0))) == len(LINES)
    written_later(path)
    with pytest.raises(
        UserError, match=r"written again at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, with as many bytes"
    ):
        list(source.read(0, 5))


def test_a_file_that_grows_or_shrinks_after_it_was_listed_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    for lines in (LINES + LINES, LINES[:3]):
        path.write_bytes(content(LINES))
        source = source_of(path)
        path.write_bytes(content(lines))
        with pytest.raises(UserError, match=rf"320 bytes before, {len(content(lines))} now"):
            next(source.read(0))


@pytest.mark.parametrize("policy", ["strict", "skip"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, name, policy):
    """An archive that is cut short would be called damaged; under `skip` its rest would be passed over."""
    path = tmp_path / name
    lines = [f"{os.urandom(40).hex()}" for _ in range(20_000)]
    path.write_bytes(gzip.compress(content(lines)) if name.endswith("gz") else content(lines))
    records = source_of(path, bad_documents=policy).read(0)
    next(records)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"the file has changed while the run was reading the corpus"):
        list(records)


def test_a_large_local_file_is_looked_at_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(file_versions, "RECORDS_BETWEEN_LOOKS", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(content(LINES))
    records = source_of(path).read(0)
    next(records)
    written_later(path)
    with pytest.raises(UserError, match="the file has changed"):
        for _ in range(10):
            next(records)


def test_an_object_of_a_store_that_is_replaced_is_noticed():
    files = fsspec.filesystem("memory")
    files.pipe_file("/changing/a.txt", content(LINES))
    source = source_of("memory://changing/a.txt")
    for _ in range(2):
        assert len(list(source.read(0))) == len(LINES)
    files.pipe_file("/changing/a.txt", content(LINES)[::-1])
    with pytest.raises(UserError, match=r"memory://.*a\.txt: .* \(written again, with as many bytes\)"):
        list(source.read(0))


def test_a_file_that_was_only_touched_does_not_stop_another_process(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content(LINES))
    before = source_of(path)
    list(before.read(0))
    written_later(path)
    after = source_of(path)
    assert len(list(after.read(0))) == len(LINES)
    assert after.fingerprint() == before.fingerprint()

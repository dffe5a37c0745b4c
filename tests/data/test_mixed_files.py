"""Large files beside small ones of other forms: the large ones are divided, and each small one is read as a whole."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data.config import DataConfig, SourceConfig
from data.source_protocol import Source
from data.sources import file_parts, open_source
from data.streams import division

STREAMS = 4
LARGE = [f"dokument {number} " + "ord " * 12 for number in range(1200)]
SMALL = [f"lite {number}" for number in range(12)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_parts, "LEAST_PART", 40)


def json_lines(field: str, texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({field: text, "metadata": {}}) + "\n" for text in texts).encode()


def named(name: str) -> list[str]:
    """Small documents that name their file."""
    return [f"{text} {name}" for text in SMALL]


def write_files(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines("text", LARGE))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json_lines("text", named("b"))))
    pq.write_table(pa.table({"text": named("c")}), folder / "c.parquet", row_group_size=5)
    (folder / "d.txt.gz").write_bytes(gzip.compress("\n".join(named("d")).encode()))
    (folder / "e.txt.zst").write_bytes(zstandard.compress("\n".join(named("e")).encode()))
    (folder / "f.txt").write_text("\n".join(named("f")))


def write_oscar(folder: Path) -> None:
    (folder / "no_meta_part_1.jsonl").write_bytes(json_lines("content", LARGE))
    (folder / "no_meta_part_2.jsonl.gz").write_bytes(gzip.compress(json_lines("content", named("2"))))
    (folder / "no_meta_part_3.jsonl.zst").write_bytes(zstandard.compress(json_lines("content", named("3"))))


def write_old_oscar(folder: Path) -> None:
    (folder / "no_part_1.txt").write_text("\n\n".join(LARGE))
    (folder / "no_part_2.txt.gz").write_bytes(gzip.compress("\n\n".join(named("2")).encode()))


def texts(source: Source) -> list[str]:
    records = [record for shard in range(len(source.shards)) for record in source.read(shard)]
    return [record.text for record in records if not record.dropped]


@pytest.mark.parametrize(
    ("write", "oscar", "small"),
    [(write_files, False, 5), (write_oscar, True, 2), (write_old_oscar, True, 1)],
    ids=["files", "oscar 22.01", "oscar 2019"],
)
def test_small_files_of_any_form_are_read_whole_beside_divided_ones(tmp_path, write, oscar, small) -> None:
    write(tmp_path)
    where = {"source": "oscar" if oscar else "files", "path": str(tmp_path if oscar else tmp_path / "*")}
    source = open_source(SourceConfig(**where))
    divided = division(DataConfig(**where, streams=STREAMS), source)
    assert not isinstance(divided, str) and len(divided.shards) == 8 * STREAMS
    assert texts(divided) == texts(source)
    assert len(texts(source)) == len(LARGE) + small * len(SMALL)
    whole = [number for number, name in enumerate(divided.shards) if name in source.shards]
    assert len(whole) == small
    for shard in [0, *whole]:
        records = list(divided.read(shard))
        for start in range(len(records) + 2):
            assert list(divided.read(shard, start)) == records[start:]

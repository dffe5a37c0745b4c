"""Fault 18: bad documents are named and stop the run, or are skipped and counted; nothing is lost silently."""

import gzip
import json
import logging
import random
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from base.errors import UserError
from data.config import SourceConfig
from data.sources import open_source

GOOD = [f"dokument {number} {random.Random(number).randbytes(40).hex()}" for number in range(6000)]


def read(
    path: object, policy: str, documents: str = "lines", field: str = "text"
) -> list[tuple[int, str, str]]:
    source = open_source(
        SourceConfig(
            source="files", path=str(path), bad_documents=policy, txt_documents=documents, text_field=field
        )
    )
    records = [tuple(record) for record in source.read(0)]
    for start in range(max(0, len(records) - 3), len(records) + 3):
        assert [tuple(record) for record in source.read(0, start)] == records[start:]
    return records


def stops(path: object, *expected: str, documents: str = "lines") -> None:
    with pytest.raises(UserError) as raised:
        read(path, "strict", documents)
    message = str(raised.value)
    assert "\n" not in message and str(path) in message and "config.data.bad_documents=skip" in message
    for part in expected:
        assert part in message, message


def test_invalid_utf8_in_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"en\nto \xff\xfe\ntre\n")
    stops(path, "a.txt line 2: invalid UTF-8 (byte 4, 0xff)")
    assert read(path, "skip") == [(0, "en", ""), (1, "", "unreadable: invalid UTF-8"), (2, "tre", "")]


def test_invalid_utf8_in_a_document_of_several_lines_names_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"en\nto\n\ntre\nfire \xe6\nfem\n\nseks\n")
    stops(path, "a.txt line 5: invalid UTF-8", documents="blank_line")
    records = read(path, "skip", "blank_line")
    assert records == [(0, "en\nto", ""), (1, "", "unreadable: invalid UTF-8"), (2, "seks", "")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut of', "broken JSON"),
        (b'["text"]', "broken JSON"),
        (b'{"text": "b", "n": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
        (b'{"body": "b"}', "missing field"),
        (b'{"text": 3}', "not text"),
        (b'{"text": "\\ud800"}', "invalid Unicode"),
    ],
)
def test_bad_json_line(tmp_path, line, reason):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "en"}\n' + line + b'\n{"text": "tre"}\n'))
    stops(path, f"a.jsonl.gz line 2: {reason}")
    assert read(path, "skip") == [(0, "en", ""), (1, "", f"unreadable: {reason}"), (2, "tre", "")]


def test_missing_field_names_those_present(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "en"}\n{"url": "u", "body": "b"}\n')
    stops(
        path, "line 2: missing field (no field 'text'; fields present: body, url; set config.data.text_field)"
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.txt.zst"])
def test_empty_file_among_others(tmp_path, name):
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(b""))
    (tmp_path / "b.txt").write_text("en\n")
    with pytest.raises(UserError, match=f"{name}: empty file"):
        read(tmp_path / "*", "strict")
    assert read(tmp_path / "*", "skip") == [(0, "", "unreadable: empty file")]


@pytest.mark.parametrize("policy", ["strict", "skip"])
def test_all_files_empty(tmp_path, policy):
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match=r"(all files are empty \(2 of them\)|a\.txt: empty file)"):
        read(tmp_path / "*", policy)


def archive(name: str) -> bytes:
    """The good documents as they lie in a file of this name."""
    if ".jsonl" in name:
        content = "".join(json.dumps({"text": text}) + "\n" for text in GOOD).encode()
    else:
        content = "\n\n".join(GOOD).encode()
    return gzip.compress(content) if name.endswith(".gz") else zstandard.ZstdCompressor().compress(content)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz", "a.txt.zst"])
def test_truncated_archive_keeps_what_comes_before(tmp_path, name):
    path = tmp_path / name
    whole = archive(name)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    documents = "blank_line" if ".txt" in name else "lines"
    stops(path, f"{name} line ", "truncated file", documents=documents)
    *records, last = read(path, "skip", documents)
    assert [record[1] for record in records] == GOOD[: len(records)]
    # Neither less nor more than what the decompressor can give: whole blocks.
    decompressor = (
        zlib.decompressobj(wbits=31) if name.endswith(".gz") else zstandard.ZstdDecompressor().decompressobj()
    )
    available = decompressor.decompress(path.read_bytes()).count(b"\n") // (2 if ".txt" in name else 1)
    assert len(records) == available > 500
    assert last == (len(records), "", "unreadable: truncated file")


def test_document_that_a_truncation_cuts_in_two_is_not_taken_for_a_whole_one(tmp_path):
    path = tmp_path / "a.txt.gz"
    documents = ["\n".join(GOOD[start : start + 50]) for start in range(0, 6000, 50)]
    whole = gzip.compress("\n\n".join(documents).encode())
    for size in range(len(whole) // 2, len(whole) - 1, len(whole) // 16):
        path.write_bytes(whole[:size])
        *records, last = read(path, "skip", "blank_line")
        assert [record[1] for record in records] == documents[: len(records)] and len(records) > 50
        assert last[2] == "unreadable: truncated file"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_archive_missing_only_its_last_bytes_is_noticed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(archive(name)[:-1])
    stops(path, "truncated file")


def test_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(archive("a.jsonl.gz"))
    content[-6] ^= 1  # in the checksum of the content
    path.write_bytes(content)
    stops(path, "damaged file")
    assert read(path, "skip")[-1][2] == "unreadable: damaged file"


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": GOOD[:90]}), path, row_group_size=30, compression="gzip", use_dictionary=False
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.parquet: damaged file"):
        read(path, "strict")
    assert read(path, "skip") == [(0, "", "unreadable: damaged file")]
    second = pq.ParquetFile(pa.BufferReader(whole)).metadata.row_group(1).column(0)
    middle = second.data_page_offset + second.total_compressed_size // 2
    path.write_bytes(
        whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 20]) + whole[middle + 20 :]
    )
    stops(path, "row 31: damaged file")
    records = read(path, "skip")
    assert [record[0] for record in records] == list(range(90))
    assert [bool(record[2]) for record in records] == [False] * 30 + [True] * 30 + [False] * 30


def test_skipped_documents_are_named_in_the_log_up_to_a_limit(tmp_path, caplog):
    path = tmp_path / "a.txt"
    path.write_bytes(b"en\n" + b"\xff\n" * 50)
    source = open_source(SourceConfig(source="files", path=str(path), bad_documents="skip"))
    with caplog.at_level(logging.WARNING):
        dropped = sum(bool(record.dropped) for record in source.read(0))
    assert dropped == 50
    assert f"skipped {path} line 2: invalid UTF-8 (byte 1, 0xff)" in caplog.messages
    assert (
        len(caplog.messages) == 21
        and caplog.messages[-1] == "further unreadable documents are counted but not shown"
    )

"""The files source: formats, compression, numbering, restart, filters, and what is refused."""

import dataclasses
import gzip
import io
import json
import random
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.source_protocol import BLANK, Record
from data.sources import open_source
from data.sources.compressed_lines import split_lines

TEXT = "Første dokument.\nandre linje\n\n  \nAnnet dokument.\r\n\n\n\nTredje."
LINES = ["Første dokument.", "andre linje", "", "", "Annet dokument.", "", "", "", "Tredje."]
DOCUMENTS = ["Første dokument.\nandre linje", "Annet dokument.", "Tredje."]


def packed(content: bytes, suffix: str) -> bytes:
    """Content as it lies in a file with this suffix; .gz and .zst in two members, as concatenated archives have."""
    middle = len(content) // 2
    if suffix == ".gz":
        return gzip.compress(content[:middle]) + gzip.compress(content[middle:])
    if suffix == ".zst":
        compressor = zstandard.ZstdCompressor()
        return compressor.compress(content[:middle]) + compressor.compress(content[middle:])
    return content


def config(path: object, **changes) -> SourceConfig:
    return dataclasses.replace(SourceConfig(source="files", path=str(path)), **changes)


def refused(path: object, **changes) -> str:
    with pytest.raises(UserError) as raised:
        list(open_source(config(path, **changes)).read(0))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def kept(source) -> list[str]:
    return [
        record.text
        for shard in range(len(source.shards))
        for record in source.read(shard)
        if not record.dropped
    ]


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "meta": {"body": text[::-1]}}) + "\n" for text in texts).encode()


def write_parquet(path: Path, texts: list[str | None], rows: int = 3) -> None:
    table = pa.table(
        {"text": pa.array(texts, pa.string()), "meta": [{"body": f"body {i}"} for i in range(len(texts))]}
    )
    pq.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("documents", "expected"), [("lines", LINES), ("blank_line", DOCUMENTS)])
def test_text_by_line_and_by_blank_line(tmp_path, suffix, documents, expected):
    path = tmp_path / f"corpus.txt{suffix}"
    path.write_bytes(packed(TEXT.encode(), suffix))
    source = open_source(config(path, txt_documents=documents))
    records = [Record(number, text, "" if text else BLANK) for number, text in enumerate(expected)]
    assert list(source.shards) == [f"corpus.txt{suffix}"]
    assert list(source.read(0)) == records
    for start in range(len(records) + 2):
        assert list(source.read(0, start)) == records[start:]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_with_plain_and_nested_field(tmp_path, suffix):
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(
        packed(json_lines(["en", "to\n", " "]) + b"\n" + json_lines(["fem"]), Path(suffix).suffix)
    )
    records = [
        Record(0, "en", ""),
        Record(1, "to", ""),
        Record(2, "", "empty"),
        Record(3, "", BLANK),
        Record(4, "fem", ""),
    ]
    source = open_source(config(path))
    for start in range(7):
        assert list(source.read(0, start)) == records[start:]
    assert kept(open_source(config(path, text_field="meta.body"))) == ["ne", "\not", "mef"]


def test_null_text_is_an_empty_document(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "b"}\n')
    assert list(open_source(config(tmp_path / "a.jsonl")).read(0)) == [
        Record(0, "", "empty"),
        Record(1, "b", ""),
    ]


def test_parquet_restart_at_every_row_gives_the_same_tail(tmp_path):
    texts = ["en", None, "tre", "fire", "  ", "seks", "sju"]
    write_parquet(tmp_path / "a.parquet", texts)
    source = open_source(config(tmp_path / "a.parquet"))
    records = [
        Record(number, text, "") if text and text.strip() else Record(number, "", "empty")
        for number, text in enumerate(texts)
    ]
    for start in range(9):
        assert list(source.read(0, start)) == records[start:]
    assert kept(open_source(config(tmp_path / "a.parquet", text_field="meta.body")))[-1] == "body 6"


def test_parquet_start_leaves_earlier_row_groups_unread(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", [str(number) for number in range(9)])
    source = open_source(config(tmp_path / "a.parquet"))
    read, groups = pq.ParquetFile.iter_batches, []
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda *args, **kwargs: groups.extend(kwargs["row_groups"]) or read(*args, **kwargs),
    )
    assert [record.number for record in source.read(0, 4)] == [4, 5, 6, 7, 8]
    assert groups == [1, 2]


def test_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhei\n")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hopp"}\n')
    assert kept(open_source(config(tmp_path / "*"))) == ["hei", "hopp"]


def test_remote_files_are_found_and_read_like_local_ones(tmp_path):
    store = fsspec.filesystem("memory")
    content = packed(json_lines(["fjern", "nær"]), ".zst")
    for path in ("part_2.jsonl.zst", "part_10.jsonl.zst"):
        store.pipe_file(f"/bucket/no/{path}", content)
        (tmp_path / path).write_bytes(content)
    source = open_source(config("memory://bucket/no/*.jsonl.zst"))
    assert list(source.shards) == ["part_2.jsonl.zst", "part_10.jsonl.zst"]
    assert kept(source) == ["fjern", "nær"] * 2
    assert source.fingerprint() == open_source(config(tmp_path / "*")).fingerprint()
    assert "no such file" in refused("memory://bucket/no/part_3.jsonl.zst")
    assert "cannot read 'nowhere://a.txt'" in refused("nowhere://a.txt")


def test_short_documents_are_dropped_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("kort\nlangt nok\n\n")
    source = open_source(config(tmp_path / "a.txt", filters=FilterConfig(min_chars=5)))
    assert [record.dropped for record in source.read(0)] == ["min_chars", "", BLANK]


def test_fingerprint_follows_content_sizes_and_reading_not_the_place(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("hei\n")
    base = open_source(config(tmp_path / "a/x.txt")).fingerprint()
    assert open_source(config(tmp_path / "b/x.txt", bad_documents="skip")).fingerprint() == base
    assert open_source(config(tmp_path / "a/x.txt", txt_documents="blank_line")).fingerprint() != base
    assert open_source(config(tmp_path / "a/x.txt", filters=FilterConfig(min_chars=1))).fingerprint() != base
    (tmp_path / "b/x.txt").write_text("hei igjen\n")
    assert open_source(config(tmp_path / "b/x.txt")).fingerprint() != base


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("hei\n")
    (tmp_path / "a.csv").write_text("hei\n")
    (tmp_path / "a.parquet.gz").write_text("hei\n")
    (tmp_path / "plain").write_text("hei\n")
    assert "config.data.path='' names no file" in refused("")
    assert "no such file or folder" in refused(tmp_path / "b.txt")
    assert "matches no file" in refused(tmp_path / "*.jsonl")
    assert "is a folder; name its files, for example " + f"{tmp_path}/*.txt" in refused(tmp_path)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").touch()
    assert "for example " + f"{tmp_path}/csv/*.jsonl.gz" in refused(tmp_path / "csv")
    assert "is none of .txt, .jsonl, .json, .parquet" in refused(tmp_path / "a.csv")
    assert "is none of" in refused(tmp_path / "plain")
    assert "unpack the file" in refused(tmp_path / "a.parquet.gz")


def test_wrong_text_field_is_refused_at_opening_under_both_policies(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["en", "to"]))
    write_parquet(tmp_path / "a.parquet", ["en", "to"])
    for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        for policy in ("strict", "skip"):
            for field in ("content", "meta.content"):
                message = refused(path, text_field=field, bad_documents=policy)
                assert (
                    f"no field {field!r}; fields present: meta, text; set config.data.text_field" in message
                )


@pytest.mark.parametrize("name", ["quality_warnings", "min_language_probability", "min_harmful_pp"])
def test_filters_on_metadata_are_refused(tmp_path, name):
    (tmp_path / "a.txt").write_text("hei\n")
    value = ("noisy",) if name == "quality_warnings" else 0.5
    assert f"config.data.filters.{name}=" in refused(
        tmp_path / "a.txt", filters=FilterConfig(**{name: value})
    )


def test_impossible_filters_are_refused(tmp_path):
    assert "min_chars=-1 should be 0 (off) or more" in refused(tmp_path, filters=FilterConfig(min_chars=-1))
    assert "should be between 0 and 1" in refused(
        tmp_path, filters=FilterConfig(min_language_probability=95.0)
    )


def test_a_mix_is_not_one_source():
    with pytest.raises(UserError, match="source='mix' cannot be opened by itself"):
        open_source(SourceConfig(source="mix"))


class Failing(io.FileIO):
    """A file whose connection is lost after some bytes."""

    left = 100_000

    def readinto(self, buffer):
        if self.tell() > self.left:
            raise ConnectionResetError(104, "Connection reset by peer")
        return super().readinto(buffer)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("policy", ["strict", "skip"])
def test_a_connection_lost_in_mid_file_is_no_damage(tmp_path, monkeypatch, name, policy):
    texts = [f"{number} " + random.Random(number).randbytes(500).hex() for number in range(4000)]
    path = tmp_path / name
    if name == "a.parquet":
        write_parquet(path, texts, rows=1000)
    else:
        path.write_bytes(packed(json_lines(texts), path.suffix))
    source = open_source(config(path, bad_documents=policy))
    monkeypatch.setattr(Path, "open", lambda path, *args, **kwargs: Failing(path))
    if name == "a.parquet":  # its index is at the end
        monkeypatch.setattr(Failing, "left", path.stat().st_size)
        reader = source.read(0)
        next(reader)
        monkeypatch.setattr(Failing, "left", 0)
    else:
        reader = source.read(0)
    with pytest.raises(UserError, match=rf"{name}: cannot be read: Connection reset by peer"):
        list(reader)


def test_a_file_that_may_not_be_opened_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("hei\n")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert f"{tmp_path}/a.txt: cannot be read: Permission denied" in refused(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("lines", ["en", "to", "", "tre", "fire", "", "fem"]),
        ("blank_line", ["en\nto", "tre\nfire", "fem"]),
    ],
)
def test_a_line_ends_as_in_any_text_file(tmp_path, suffix, documents, expected):
    path = tmp_path / f"mixed.txt{suffix}"
    path.write_bytes(packed(b"en\rto\r\rtre\r\nfire\n\rfem\r", suffix))
    source = open_source(config(path, txt_documents=documents))
    records = [Record(number, text, "" if text else BLANK) for number, text in enumerate(expected)]
    for start in range(len(records) + 1):
        assert list(source.read(0, start)) == records[start:]


def test_json_lines_may_end_in_carriage_returns(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "en"}\r{"text": "to\\r3"}\r\r\n{"text": "fire"}')
    assert kept(open_source(config(tmp_path / "a.jsonl"))) == ["en", "to\r3", "fire"]


def test_lines_are_the_same_wherever_blocks_end():
    draw = random.Random(0)
    for _ in range(2000):
        content = bytes(draw.choices(b"\r\nab\xe2", k=draw.randrange(12)))
        cuts = sorted(draw.choices(range(len(content) + 1), k=3))
        blocks = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, None])]
        expected = io.StringIO(content.decode("latin-1"), newline="").readlines()
        assert [line.decode("latin-1") for line in split_lines(blocks)] == expected


def test_a_line_of_many_blocks_takes_time_in_proportion_to_its_length():
    parts = (b"x" * 1000 for _ in range(100_000))
    assert [len(line) for line in split_lines(parts)] == [10**8]


def parquet_of(path: Path, kind: pa.DataType, values: list[bytes | None]) -> None:
    stored = kind.value_type if pa.types.is_dictionary(kind) else kind
    binary = pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored)
    texts = pa.array([value if binary or value is None else value.decode() for value in values], stored)
    if pa.types.is_dictionary(kind):
        texts = texts.dictionary_encode()
    nested = pa.StructArray.from_arrays(
        [texts], ["text"], mask=pa.array([True] + [False] * (len(values) - 1))
    )
    pq.write_table(pa.table({"text": texts, "m": nested}), path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int32(), pa.binary()),
    ],
    ids=str,
)
def test_parquet_text_of_any_type_and_under_a_null_parent(tmp_path, kind):
    parquet_of(tmp_path / "a.parquet", kind, ["blåbær".encode(), None, b"to"])
    source = open_source(config(tmp_path / "a.parquet"))
    assert list(source.read(0)) == [Record(0, "blåbær", ""), Record(1, "", "empty"), Record(2, "to", "")]
    nested = open_source(config(tmp_path / "a.parquet", text_field="m.text"))
    assert list(nested.read(0)) == [Record(0, "", "empty"), Record(1, "", "empty"), Record(2, "to", "")]


def test_parquet_bytes_that_are_no_text_are_a_flaw_of_their_row(tmp_path):
    parquet_of(tmp_path / "a.parquet", pa.binary(), [b"en", b"to\xff", b"tre"])
    assert "a.parquet row 2: invalid UTF-8 (byte 3, 0xff)" in refused(tmp_path / "a.parquet")
    source = open_source(config(tmp_path / "a.parquet", bad_documents="skip"))
    assert [record.dropped for record in source.read(0)] == ["", "unreadable: invalid UTF-8", ""]


def test_what_a_null_record_would_hold_is_an_empty_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"m": null}\n{"m": {"text": "b"}}\n{"m": {"n": null}}\n')
    source = open_source(config(tmp_path / "a.jsonl", text_field="m.text", bad_documents="skip"))
    assert [record.dropped for record in source.read(0)] == ["empty", "", "unreadable: missing field"]
    pq.write_table(pa.table({"m": pa.nulls(2)}), tmp_path / "b.parquet")
    nulls = open_source(config(tmp_path / "b.parquet", text_field="m.text"))
    assert [record.dropped for record in nulls.read(0)] == ["empty", "empty"]

"""The oscar source: layouts recognised from their files, filters on metadata, every shard accounted for."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import zstandard

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.source_protocol import BLANK, Record
from data.sources import open_source

DOCUMENTS = ["Første dokument.\nMed to linjer.", "Andre.", "Tredje dokument."]


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)


def record_2301(
    text: str, *, prob: float = 0.99, harmful_pp: float | None = 900.0, warnings: list[str] | None = None
) -> str:
    metadata = {
        "identification": {"label": "no", "prob": prob}, "harmful_pp": harmful_pp, "tlsh": None,
        "quality_warnings": warnings, "categories": None, "sentence_identifications": [None],
    }  # fmt: skip
    return (
        json.dumps({"content": text, "warc_headers": {"warc-type": "conversion"}, "metadata": metadata})
        + "\n"
    )


def record_2201(text: str, *, prob: float = 0.99, annotation: list[str] | None = None) -> str:
    metadata = {
        "identification": {"label": "no", "prob": prob},
        "annotation": annotation,
        "sentence_identifications": [],
    }
    return json.dumps({"content": text, "warc_headers": {}, "metadata": metadata}) + "\n"


def config(path: Path, **changes) -> SourceConfig:
    return dataclasses.replace(SourceConfig(source="oscar", path=str(path)), **changes)


def refused(path: Path, **changes) -> str:
    with pytest.raises(UserError) as raised:
        source = open_source(config(path, **changes))
        for shard in range(len(source.shards)):
            list(source.read(shard))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def whole(source) -> list[list[Record]]:
    """Every shard's records; along the way each is started anew at every record."""
    shards = []
    for shard in range(len(source.shards)):
        records = list(source.read(shard))
        for start in range(len(records) + 2):
            assert list(source.read(shard, start)) == records[start:]
        shards.append(records)
    return shards


def test_2019_layout(tmp_path):
    write(tmp_path / "no_part_2.txt.gz", DOCUMENTS[2] + "\n")
    write(tmp_path / "no_part_10.txt.gz", DOCUMENTS[0] + "\n\n\n")
    write(tmp_path / "no_part_1.txt.gz", "\n\n".join(DOCUMENTS[:2]) + "\n\n")
    write(tmp_path / "no_sha256.txt", "".join(f"no_part_{part}.txt.gz\t{'0' * 64}\n" for part in (1, 2, 10)))
    source = open_source(config(tmp_path))
    assert source.layout.release == "2019"
    assert list(source.shards) == ["no_part_1.txt.gz", "no_part_2.txt.gz", "no_part_10.txt.gz"]
    assert whole(source) == [
        [Record(0, DOCUMENTS[0], ""), Record(1, DOCUMENTS[1], "")],
        [Record(0, DOCUMENTS[2], "")],
        [Record(0, DOCUMENTS[0], "")],
    ]


def spans(*pairs: tuple[int, int]) -> str:
    return "".join(
        json.dumps({"headers": {}, "offset": offset, "nb_sentences": count}) + "\n" for offset, count in pairs
    )


def test_2109_layout_takes_lines_by_offset(tmp_path):
    write(tmp_path / "no_part_1.txt.gz", "a\nb\n\nc\n\nd\ne\nf\n")
    write(tmp_path / "no_meta_part_1.jsonl.gz", spans((0, 2), (3, 1), (5, 3)))
    write(tmp_path / "no_part_2.txt.gz", "g\n")
    write(tmp_path / "no_meta_part_2.jsonl.gz", spans((0, 1)))
    source = open_source(config(tmp_path))
    assert source.layout.release == "21.09"
    assert list(source.shards) == ["no_part_1.txt.gz", "no_part_2.txt.gz"]
    assert whole(source) == [
        [Record(0, "a\nb", ""), Record(1, "c", ""), Record(2, "d\ne\nf", "")],
        [Record(0, "g", "")],
    ]


def test_2109_offsets_count_line_feeds_whatever_else_ends_a_line(tmp_path):
    write(tmp_path / "no_part_1.txt.gz", "a\rb\r\n\nc\nd\r")
    write(tmp_path / "no_meta_part_1.jsonl.gz", spans((0, 1), (2, 2)).replace("\n", "\r"))
    assert whole(open_source(config(tmp_path))) == [[Record(0, "a\nb", ""), Record(1, "c\nd", "")]]


def test_2019_documents_may_end_in_carriage_returns_and_hidden_files_are_no_shards(tmp_path):
    write(tmp_path / "no_part_1.txt.gz", "a\rb\r\rc\r")
    write(tmp_path / "._no_part_1.txt.gz", "x\n")
    write(tmp_path / ".old" / "no_part_2.txt.gz", "y\n")
    assert whole(open_source(config(tmp_path))) == [[Record(0, "a\nb", ""), Record(1, "c", "")]]


def test_2109_text_and_metadata_that_disagree_are_counted(tmp_path):
    write(tmp_path / "no.txt.gz", "a\nb\nc\nd\n\n")
    write(tmp_path / "no_meta.json.gz", spans((0, 1), (0, 1), (2, 1), (3, 9)) + '{"offset": "x"}\n')
    assert whole(open_source(config(tmp_path, bad_documents="skip"))) == [
        [
            Record(0, "a", ""),
            Record(1, "", "unreadable: misplaced text"),
            Record(2, "c", ""),
            Record(3, "", "unreadable: misplaced text"),
            Record(4, "", "unreadable: missing field"),
            Record(5, "", "unreadable: text without metadata"),
        ]
    ]
    assert "no.txt.gz line 1: misplaced text (offset 0 was passed" in refused(tmp_path)


def test_2109_half_of_a_pair_is_refused(tmp_path):
    write(tmp_path / "no_part_1.txt.gz", "a\n")
    write(tmp_path / "no_meta_part_1.jsonl.gz", spans((0, 1)))
    write(tmp_path / "no_part_2.txt.gz", "b\n")
    assert "no_part_2.txt.gz: its metadata file (..._meta_part_2.jsonl.gz) is missing" in refused(tmp_path)
    (tmp_path / "no_part_2.txt.gz").rename(tmp_path / "no_part_3.txt.gz")
    write(tmp_path / "no_meta_part_3.jsonl.gz", spans((0, 1)))
    write(tmp_path / "no_meta_part_4.jsonl.gz", spans((0, 1)))
    assert "no_meta_part_4.jsonl.gz: the text file that this metadata belongs to is missing" in refused(
        tmp_path
    )


def test_2201_layout_filters_by_annotation_and_language(tmp_path):
    lines = (
        record_2201("kort", annotation=["tiny", "noisy"])
        + record_2201("ren")
        + record_2201("usikker", prob=0.5)
    )
    write(tmp_path / "compressed" / "no_meta" / "no_meta_part_1.jsonl.gz", lines)
    filters = FilterConfig(quality_warnings=("noisy", "tiny"), min_language_probability=0.8)
    source = open_source(config(tmp_path, filters=filters))
    assert source.layout.release == "22.01"
    assert whole(source) == [
        [
            Record(0, "", "quality_warnings: noisy"),
            Record(1, "ren", ""),
            Record(2, "", "min_language_probability"),
        ]
    ]
    assert "min_harmful_pp=5.0, but the documents" in refused(
        tmp_path, filters=FilterConfig(min_harmful_pp=5.0)
    )


def test_2301_layout_filters_by_everything_and_counts_each_reason(tmp_path):
    lines = [
        record_2301("bra"),
        record_2301("støy", warnings=["noisy"]),
        record_2301("tvilsom", prob=0.3),
        record_2301("skadelig", harmful_pp=12.0),
        record_2301("uten tall", harmful_pp=None),
        record_2301("k"),
        record_2301(" \n "),
    ]
    write(tmp_path / "no_meta" / "no_meta_part_1.jsonl.zst", "".join(lines))
    filters = FilterConfig(
        min_chars=2, quality_warnings=("noisy",), min_language_probability=0.8, min_harmful_pp=25.0
    )
    source = open_source(config(tmp_path / "no_meta", filters=filters))
    assert source.layout.release == "23.01"
    expected = [
        "",
        "quality_warnings: noisy",
        "min_language_probability",
        "min_harmful_pp",
        "",
        "min_chars",
        "empty",
    ]
    assert [record.dropped for record in whole(source)[0]] == expected
    assert [record.dropped for record in open_source(config(tmp_path)).read(0)] == [""] * 6 + ["empty"]


def test_harmful_pp_that_the_language_lacks_is_refused(tmp_path):
    write(tmp_path / "no_meta.jsonl.zst", record_2301("en", harmful_pp=None))
    assert "possible filters on metadata: min_language_probability, quality_warnings" in refused(
        tmp_path, filters=FilterConfig(min_harmful_pp=5.0)
    )


def test_community_layout_reads_all_snapshots_of_the_language(tmp_path):
    for snapshot in ("2015-14", "2014-42"):
        for language in ("no", "nn"):
            folder = tmp_path / "data" / snapshot / f"{language}_meta"
            write(folder / f"{language}_meta.jsonl.zst", record_2301(f"{language} {snapshot}"))
    for subset in ("no", "no_meta"):
        source = open_source(config(tmp_path, subset=subset))
        assert list(source.shards) == [
            "data/2014-42/no_meta/no_meta.jsonl.zst", "data/2015-14/no_meta/no_meta.jsonl.zst"
        ]  # fmt: skip
        assert [records[0].text for records in whole(source)] == ["no 2014-42", "no 2015-14"]
    assert "holds several languages or variants; set config.data.subset to one of 'nn', 'no'" in refused(
        tmp_path
    )
    assert "subset='sv' is not in" in refused(tmp_path, subset="sv")


def test_languages_of_plain_text_are_not_mixed_unasked(tmp_path):
    write(tmp_path / "no_part_1.txt.gz", "norsk\n")
    write(tmp_path / "en_part_1.txt.gz", "English\n")
    assert "holds several languages" in refused(tmp_path)
    assert list(open_source(config(tmp_path, subset="en")).read(0)) == [Record(0, "English", "")]


@pytest.mark.parametrize(
    "filters", [{"quality_warnings": ("noisy",)}, {"min_language_probability": 0.5}, {"min_harmful_pp": 1.0}]
)
@pytest.mark.parametrize("layout", ["2019", "21.09"])
def test_layouts_without_metadata_refuse_filters_on_it(tmp_path, layout, filters):
    write(tmp_path / "no_part_1.txt.gz", "norsk\n")
    if layout == "21.09":
        write(tmp_path / "no_meta_part_1.jsonl.gz", spans((0, 1)))
    message = refused(tmp_path, filters=FilterConfig(**filters))
    assert f"(layout {layout}) lack the metadata that it needs; possible filters on metadata: none" in message


def test_shard_in_the_checksum_list_but_not_on_disk_is_reported(tmp_path):
    folder = tmp_path / "no_meta"
    for part in (1, 3):
        write(folder / f"no_meta_part_{part}.jsonl.zst", record_2301(f"del {part}"))
    names = [f"no_meta_part_{part}.jsonl.zst" for part in (1, 2, 3)]
    write(folder / "checksum.sha256", "".join(f"{'0' * 64}  {name}\n" for name in names))
    message = refused(tmp_path)
    assert "1 of the shards in its checksum list are missing: 'no_meta/no_meta_part_2.jsonl.zst'" in message
    source = open_source(config(tmp_path, bad_documents="skip"))
    assert list(source.shards) == [f"no_meta/{name}" for name in names]
    assert whole(source)[1] == [Record(0, "", "unreadable: missing shard")]


def test_bad_lines_are_named_or_counted(tmp_path):
    path = tmp_path / "no_meta.jsonl.gz"
    write(
        path,
        record_2201("en") + '{"content": "to"\n' + json.dumps({"metadata": {}}) + "\n" + record_2201("fire"),
    )
    assert f"{path} line 2: broken JSON" in refused(tmp_path)
    records = whole(open_source(config(tmp_path, bad_documents="skip")))[0]
    assert [record.dropped for record in records] == [
        "",
        "unreadable: broken JSON",
        "unreadable: missing field",
        "",
    ]


def test_what_is_no_oscar_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.path='' names no folder"):
        open_source(SourceConfig(source="oscar"))
    assert "is not a folder" in refused(tmp_path / "nothing")
    assert "holds no OSCAR shard" in refused(tmp_path)
    write(tmp_path / "no_meta.jsonl.gz", "")
    assert "no_meta.jsonl.gz: empty file" in refused(tmp_path)
    write(tmp_path / "no_meta.jsonl.gz", '{"text": "en"}\n')
    assert "use config.data.source=files with config.data.text_field" in refused(tmp_path)
    assert "'noise' is no OSCAR annotation; known: tiny," in refused(
        tmp_path, filters=FilterConfig(quality_warnings=("noise",))
    )


def test_fingerprint_follows_shards_and_filters(tmp_path):
    write(tmp_path / "no_meta.jsonl.gz", record_2201("en"))
    base = open_source(config(tmp_path)).fingerprint()
    assert open_source(config(tmp_path, bad_documents="skip")).fingerprint() == base
    assert (
        open_source(config(tmp_path, filters=FilterConfig(min_language_probability=0.5))).fingerprint()
        != base
    )
    write(tmp_path / "no_meta.jsonl.gz", record_2201("en") + record_2201("to"))
    assert open_source(config(tmp_path)).fingerprint() != base


def test_a_licence_does_not_hide_that_there_are_several_languages(tmp_path):
    write(tmp_path / "no_part_1.txt", "norsk\n")
    write(tmp_path / "LICENSE.txt", "CC0\n")
    write(tmp_path / "dataset_info.json", "{}\n")
    assert list(open_source(config(tmp_path)).shards) == ["no_part_1.txt"]
    write(tmp_path / "en_part_1.txt", "English\n")
    assert "holds several languages or variants; set config.data.subset to one of 'en', 'no'" in refused(
        tmp_path
    )


def test_the_deduplicated_variant_is_not_mixed_with_the_original(tmp_path):
    write(tmp_path / "no_part_1.txt", "norsk\n\nnorsk\n")
    write(tmp_path / "no_dedup_part_1.txt", "norsk\n")
    assert "set config.data.subset to one of 'no', 'no_dedup'" in refused(tmp_path)
    assert list(open_source(config(tmp_path, subset="no")).shards) == ["no_part_1.txt"]
    assert list(open_source(config(tmp_path, subset="no_dedup")).shards) == ["no_dedup_part_1.txt"]
    (tmp_path / "no_part_1.txt").unlink()
    assert list(open_source(config(tmp_path, subset="no")).shards) == ["no_dedup_part_1.txt"]


def test_an_oscar_document_without_content_does_not_advise_another_field(tmp_path):
    write(tmp_path / "no_meta.jsonl", record_2201("en") + json.dumps({"metadata": {}}) + "\n")
    message = refused(tmp_path)
    assert "no field 'content'; fields present: metadata)" in message and "text_field" not in message


def test_a_blank_line_between_documents_is_none(tmp_path):
    write(
        tmp_path / "no_meta" / "no_meta_part_1.jsonl.gz", record_2201("a") + "\n" + record_2201("b") + " \r\n"
    )
    assert whole(open_source(config(tmp_path))) == [
        [Record(0, "a", ""), Record(1, "", BLANK), Record(2, "b", ""), Record(3, "", BLANK)]
    ]

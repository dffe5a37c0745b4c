"""The tfds source reads a data set that the test writes, by record number and without TensorFlow."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.source_protocol import Record
from data.sources import open_source

TEXTS = [f"dokument {number} på norsk" for number in range(10)]
TEXTS[5] = "  "


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    home = folder / "tiny" / "1.0.0"
    home.mkdir(parents=True)
    features = {"text": tfds.features.Text(), "count": np.int64, "meta": {"body": tfds.features.Text()}}
    identity = tfds.core.DatasetIdentity(
        name="tiny", version=tfds.core.Version("1.0.0"), data_dir=str(home), module_name="tiny"
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4, file_format="array_record")
    writer.initialize_splits(["train", "empty"])
    examples = [
        {"text": text, "count": number, "meta": {"body": f"body {number}"}}
        for number, text in enumerate(TEXTS)
    ]
    writer.add_examples({"train": examples})
    writer.close_all()
    return folder


def config(folder: Path, **changes) -> SourceConfig:
    return dataclasses.replace(SourceConfig(source="tfds", name="tiny", data_dir=str(folder)), **changes)


def test_shards_are_the_files_and_every_record_is_numbered(prepared):
    source = open_source(config(prepared))
    assert list(source.shards) == [f"tiny-train.array_record-{index:05d}" for index in range(3)]
    assert list(source.read(0)) == [Record(number, TEXTS[number], "") for number in range(4)]
    assert list(source.read(1)) == [
        Record(0, TEXTS[4], ""), Record(1, "", "empty"), Record(2, TEXTS[6], ""), Record(3, TEXTS[7], "")
    ]  # fmt: skip
    assert list(source.read(2)) == [Record(0, TEXTS[8], ""), Record(1, TEXTS[9], "")]


def test_restart_at_every_record_gives_the_same_tail(prepared):
    source = open_source(config(prepared))
    for shard in range(3):
        whole = list(source.read(shard))
        for start in range(len(whole) + 2):
            assert list(source.read(shard, start)) == whole[start:]


def test_field_may_be_nested_and_filters_count(prepared):
    source = open_source(config(prepared, text_field="meta.body"))
    assert next(source.read(2)).text == "body 8"
    source = open_source(config(prepared, filters=FilterConfig(min_chars=1000)))
    assert [record.dropped for record in source.read(1)] == ["min_chars", "empty", "min_chars", "min_chars"]


def test_fingerprint_changes_with_what_is_read_only(prepared):
    base = open_source(config(prepared)).fingerprint()
    assert open_source(config(prepared, bad_documents="skip")).fingerprint() == base
    assert open_source(config(prepared, text_field="meta.body")).fingerprint() != base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "nothing"}, "config.data.name='nothing' is not prepared in "),
        ({"split": "dev"}, "config.data.split='dev' is not a split of 'tiny'; choose one of 'train'"),
        (
            {"text_field": "body"},
            "no field 'body'; fields present: count, meta, text; set config.data.text_field",
        ),
        ({"filters": FilterConfig(min_harmful_pp=5.0)}, "source=tfds has no such metadata"),
    ],
)
def test_what_is_not_there_is_one_line(prepared, changes, message):
    with pytest.raises(UserError) as raised:
        open_source(config(prepared, **changes))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_field_that_is_not_text_stops_or_is_counted(prepared):
    with pytest.raises(UserError, match=r"tiny: tiny-train\.array_record-00000 record 1: not text"):
        list(open_source(config(prepared, text_field="count")).read(0))
    source = open_source(config(prepared, text_field="count", bad_documents="skip"))
    assert [record.dropped for record in source.read(2)] == ["unreadable: not text"] * 2


def test_reading_does_not_import_tensorflow(prepared):
    code = (
        "import sys; from data.config import SourceConfig; from data.sources import open_source\n"
        f"source = open_source(SourceConfig(source='tfds', name='tiny', data_dir={str(prepared)!r}))\n"
        "assert len(list(source.read(0))) == 4; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=120)

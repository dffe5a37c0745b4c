"""An index.json that is damaged or hostile is refused by one line, and nothing outside its folder is touched."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import UserError
from data.config import SourceConfig
from data.prepared.index import INDEX
from data.prepared.source import PreparedSource
from tests.memory_corpus import make_corpus
from tests.prepared_corpus import write_numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shards")
    write_numbers(made, make_corpus(1, 30), shards=1)
    return made


def changed(folder: Path, tmp_path: Path, **values: Any) -> Path:
    """A copy of a prepared folder whose index has other values: of its first shard, or of the index itself."""
    content = json.loads((folder / INDEX).read_text())
    for name, value in values.items():
        (content["shards"][0] if name in content["shards"][0] else content)[name] = value
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / INDEX).write_text(json.dumps(content))
    return tmp_path


def opened(folder: Path) -> PreparedSource:
    return PreparedSource(SourceConfig(source="prepared", path=str(folder)))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../shard-00000-of-00001.array_record", "a/shard-00000-of-00001.array_record", "", "x",
        "shard-00000-of-00001.array_record\n", "shard-00000-of-00001.array_record/../../x",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"index.json is damaged \(.* is no name of a shard\)"):
        opened(changed(folder, tmp_path, name=name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"documents": "7"}, r"shards\[0\].documents is '7' \(str\), where a whole number of 0 or more"),
        ({"documents": None}, r"shards\[0\].documents is 'None' \(NoneType\), where"),
        ({"tokens": -1}, r"shards\[0\].tokens is '-1' \(int\), where"),
        ({"documents": 30.0}, r"shards\[0\].documents is '30.0' \(float\), where"),
        ({"bytes": True}, r"shards\[0\].bytes is 'True' \(bool\), where"),
        ({"first": "0"}, r"shards\[0\].first is '0' \(str\), where"),
        ({"name": 7}, r"shards\[0\].name is '7' \(int\), where a text should be"),
        ({"tokenizer": 3}, r"tokenizer is '3' \(int\), where a text"),
        ({"made_from": None}, r"made_from is 'None' \(NoneType\), where a text"),
        ({"ids": "int8"}, r"ids is 'int8'; known: uint16, uint32"),
        ({"ids": ["uint16"]}, r"ids is .* \(list\), where a text"),
        ({"shards": []}, r"shards is empty"),
        ({"shards": [3]}, r"shards\[0\] is 3, where an object should be"),
        ({"shards": [{}]}, r"shards\[0\].name is missing"),
        ({"sources": [{"name": "a", "more": 1}]}, r"sources\[0\] has an unknown field 'more'"),
        ({"sources": "x"}, r"sources is 'x' \(str\), where a list"),
        ({"format": "1"}, r"format is '1', where 1 is read"),
    ],
)
def test_values_of_another_type_are_refused(
    folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"index.json is damaged \({message}"):
        opened(changed(folder, tmp_path, **values))


def test_ids_of_another_type_and_another_number_of_documents_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"its first document has [\d.]+ ids of uint32, not \d+"):
        opened(changed(folder, tmp_path, ids="uint32")).documents(np.arange(3))
    changed(folder, tmp_path, documents=29)
    (tmp_path / "shard-00000-of-00001.lengths").write_bytes(bytes(4 * 29))
    with pytest.raises(UserError, match=r"it has 30 documents, where index.json says 29"):
        opened(tmp_path).documents(np.arange(3))


def test_a_shard_of_a_bucket_that_is_not_that_of_the_index_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.prepared.source.is_remote", lambda path: True)
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    changed(folder, bucket)
    shard = bucket / "shard-00000-of-00001.array_record"
    whole = shard.read_bytes()
    for wrong in (whole[:-1], whole[:-1] + b"x"):
        shard.write_bytes(wrong)
        with pytest.raises(
            UserError, match=r"shard-00000-of-00001.array_record is not the file that index.json lists"
        ):
            opened(bucket).documents(np.arange(3))
    assert not list((tmp_path / "cache").rglob("*.array_record*"))

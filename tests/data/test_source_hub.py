"""The hub source, with the real client, against a stand-in for the hub on localhost."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_stub import HubStub, Reader

TOKEN = "hf_canary_of_the_tests"
MANY = 1200  # documents of about 20 kB: the client reads 10 MB at a time, so the second read is in mid-shard
SOUND = 1048  # those that begin in the first two of these reads; the third holds the damage


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "url": "u"}) + "\n" for text in texts).encode()


def parquet(texts: list[str | None]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"content": pa.array(texts, pa.string()), "n": range(len(texts))}), buffer, row_group_size=2
    )
    return buffer.getvalue()


CARD = """---
configs:
- config_name: nb
  data_files: [{split: train, path: nb/*.jsonl}, {split: test, path: test/*.jsonl}]
- config_name: nn
  data_files: nn/*.jsonl
---
"""


@pytest.fixture(scope="module")
def hub():
    with HubStub() as stub:
        stub.repositories = {
            "org/lines": {
                "README.md": b"# lines\n",
                "train-00000.jsonl": lines([f"document {number}" for number in range(5)]),
                "train-00001.jsonl": lines(["æøå", "", "last"]),
            },
            "org/columns": {
                "README.md": b"",
                "data/train-00000-of-00001.parquet": parquet(["one", None, "three", " "]),
            },
            "org/uneven": {"README.md": b"", "a.parquet": parquet(["x" * 5000, "y" * 5000, "a", "b"])},
            "org/languages": {
                "README.md": CARD.encode(),
                "nb/a.jsonl": lines(["bokmål"]),
                "test/a.jsonl": lines(["prøve"]),
                "nn/a.jsonl": lines(["nynorsk"]),
            },
            "org/script": {"README.md": b"", "script.py": b"import datasets\n"},
            "org/nothing": {"README.md": b""},
            "org/busy": {"README.md": b"", "train.jsonl": lines(["at last"])},
            "org/busier": {"README.md": b"", "train.jsonl": lines(["never"])},
            "org/gated": {"README.md": b""},
            "org/broken": {
                "README.md": b"",
                "train.jsonl": lines([f"{n} " + "x" * 20_000 for n in range(MANY)]),
            },
            "org/damaged": {
                "README.md": b"",
                "train.jsonl": lines([f"{n} " + "x" * 20_000 for n in range(MANY)]) + b'{"text": "cut off\n',
            },
        }
        stub.gated = {"org/gated"}
        yield stub


@pytest.fixture(scope="module")
def reader(hub, tmp_path_factory):
    reader = Reader(hub, tmp_path_factory.mktemp("home"), TOKEN)
    yield reader
    reader.close()


@pytest.fixture(autouse=True)
def whole(hub):
    yield
    hub.breaks, hub.break_from = {}, 0


def error(reader: Reader, **config) -> str:
    message = reader.ask(**config).get("error", "")
    assert message and "\n" not in message and TOKEN not in message, message
    return message


def test_shards_are_the_files_of_the_repository(reader):
    answer = reader.ask((0, 0), (1, 0), name="org/lines")
    assert answer["shards"] == ["train-00000.jsonl", "train-00001.jsonl"]
    assert answer["reads"][0] == [[number, f"document {number}", ""] for number in range(5)]
    assert answer["reads"][1] == [[0, "æøå", ""], [1, "", "empty"], [2, "last", ""]]


def test_restart_at_every_record_gives_the_same_tail(reader):
    whole, *tails = reader.ask((0, 0), *((0, start) for start in range(7)), name="org/lines")["reads"]
    assert tails == [whole[start:] for start in range(7)]


def test_the_revision_is_the_one_that_is_set(hub, reader):
    reader.ask(name="org/lines", revision="v1.0")
    assert "HEAD /datasets/org/lines/resolve/v1.0/README.md" in hub.requests


def test_parquet_with_another_text_field_and_null_text(reader):
    answer = reader.ask((0, 0), (0, 2), name="org/columns", text_field="content", filters={"min_chars": 4})
    assert answer["reads"][0] == [[0, "", "min_chars"], [1, "", "empty"], [2, "three", ""], [3, "", "empty"]]
    assert answer["reads"][1] == answer["reads"][0][2:]


def test_row_groups_are_read_by_parts(reader):
    """Row groups of two rows: each part reads its own, numbered from 0, and none is lost."""
    answer = reader.ask(
        *((part, 0) for part in range(2)), name="org/columns", text_field="content", divided=2
    )
    assert answer["reads"] == [[[0, "one", ""], [1, "", "empty"]], [[0, "three", ""], [1, "", "empty"]]]
    assert answer["shards"] == ["train 0/2", "train 1/2"]
    assert error(reader, name="org/columns", text_field="content", divided=3) == (
        "org/columns on the hub has 2 files or row groups, fewer than 3"
    )
    assert "org/lines on the hub has 2 files" in error(reader, name="org/lines", divided=16)
    assert error(reader, name="org/uneven", text_field="content", divided=2) == (
        "org/uneven on the hub has row groups of unequal sizes"
    )


def test_configuration_and_split_are_chosen(reader):
    assert reader.ask((0, 0), name="org/languages", subset="nn")["reads"] == [[[0, "nynorsk", ""]]]
    answer = reader.ask((0, 0), name="org/languages", subset="nb", split="test")
    assert answer["reads"] == [[[0, "prøve", ""]]] and answer["shards"] == ["test/a.jsonl"]


def test_fingerprint_tells_configurations_apart(reader):
    asked = [reader.ask(name="org/languages", subset=subset)["fingerprint"] for subset in ("nb", "nn", "nb")]
    assert asked[0] == asked[2] != asked[1]


def test_token_of_the_environment_is_sent(hub, reader):
    reader.ask(name="org/lines")
    assert f"Bearer {TOKEN}" in hub.tokens


def test_what_does_not_exist_is_said_with_what_does(reader):
    assert "'org/missing' does not exist on the hub, or is private" in error(reader, name="org/missing")
    assert "subset='sv' is not a configuration of 'org/languages'; choose one of 'nb', 'nn'" in error(
        reader, name="org/languages", subset="sv"
    )
    assert "subset='' is empty, but 'org/languages' has several; choose one of 'nb', 'nn'" in error(
        reader, name="org/languages"
    )
    assert "split='dev' is not a split of 'org/languages'; choose one of 'train', 'test'" in error(
        reader, name="org/languages", subset="nb", split="dev"
    )
    assert "no field 'text'; fields present: content, n; set config.data.text_field" in error(
        reader, name="org/columns"
    )
    assert "holds no data file that datasets can read" in error(reader, name="org/nothing")
    assert "config.data.name is empty" in error(reader, name="")


def test_loading_script_names_alternatives(reader):
    message = error(reader, name="org/script")
    assert "is made by a loading script" in message and "oscar-corpus/community-oscar" in message


def test_gated_says_where_to_ask_with_and_without_token(hub, reader, tmp_path):
    expected = (
        "'org/gated' is gated: request access on https://huggingface.co/datasets/org/gated, then set HF_TOKEN"
    )
    assert expected in error(reader, name="org/gated")
    anonymous = Reader(hub, tmp_path)
    assert expected in error(anonymous, name="org/gated")
    anonymous.close()


def test_connection_broken_in_mid_shard_loses_and_repeats_nothing(hub, reader):
    hub.breaks, hub.break_from = {"train.jsonl": 9}, 5_000_000
    answer = reader.ask((0, 0), name="org/broken")
    assert hub.breaks["train.jsonl"] == 0
    assert [record[0] for record in answer["reads"][0]] == list(range(MANY))
    assert [record[1].split()[0] for record in answer["reads"][0]] == [str(number) for number in range(MANY)]


def test_connection_that_stays_broken_is_given_up_in_one_line(hub, reader):
    hub.breaks, hub.break_from = {"train.jsonl": 10**6}, 5_000_000
    expected = "config.data.name='org/broken': the hub cannot be reached"
    answer = reader.ask((0, 0), name="org/broken")
    assert expected in answer["error"] and "\n" not in answer["error"]
    assert 30 < answer["slept"] < 240, "seconds"
    hub.break_from = 0
    assert expected in error(reader, name="org/broken")


def test_a_hub_that_is_busy_is_asked_again_after_the_time_that_it_names(hub, reader):
    hub.busy = {"org/busy": 2}
    answer = reader.ask((0, 0), name="org/busy")
    assert hub.busy == {"org/busy": 0} and answer["reads"] == [[[0, "at last", ""]]]
    asked = [seconds for seconds in answer["slept"] if seconds > 30]
    assert len(asked) == 2 and all(40 < seconds < 60 for seconds in asked)
    assert "requests of this process" in reader.log() and "it refused 2 for now (429)" in reader.log()


def test_a_hub_that_stays_busy_is_given_up_in_one_line(hub, reader):
    hub.busy = {"org/busier": 10**6}
    assert "'org/busier': the hub cannot be reached" in error(reader, name="org/busier")


def test_damage_in_mid_shard_stops_or_stands_for_the_rest(reader):
    assert "org/damaged: train.jsonl after row " in reader.ask((0, 0), name="org/damaged")["error"]
    answer = reader.ask((0, 0), (0, MANY + 9), name="org/damaged", bad_documents="skip")
    records, beyond = answer["reads"]
    assert [record[0] for record in records] == list(range(SOUND + 1))
    assert [record[1].split()[0] for record in records[:-1]] == [str(number) for number in range(SOUND)]
    assert records[-1][1:] == ["", "unreadable: damaged file"]
    assert beyond == []


def test_token_is_not_in_what_the_reader_writes(reader):
    reader.ask((0, 0), name="org/lines")
    assert "train-00000.jsonl" in reader.log(), "the client's own log is in it"
    assert TOKEN not in reader.log()

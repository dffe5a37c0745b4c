"""GLUE from the hub, by the real client against a stand-in on localhost that is laid out like `nyu-mll/glue`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_stub import HubStub

READER = """
import json, sys, time
import datasets
time.sleep = lambda seconds: None
from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.open import open_labelled

def plain(examples):
    labels = examples.labels
    return {
        "first": examples.first, "second": examples.second, "ids": examples.ids, "origin": examples.origin,
        "labels": None if labels is None else labels.tolist(), "kind": None if labels is None else str(labels.dtype),
    }

for line in sys.stdin:
    task, config = json.loads(line)
    try:
        data = open_labelled(LabelledConfig(source="hub", **config), task)
        found = {"train": data.train, **data.evaluations, **data.tests}
        answer = {split: plain(examples) for split, examples in found.items() if examples is not None}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""

CLASSES = {"mrpc": ["not_equivalent", "equivalent"], "mnli": ["entailment", "neutral", "contradiction"]}


def parquet(**columns: list[Any]) -> bytes:
    types = {"label": pa.float32() if isinstance(columns.get("label", [0])[0], float) else pa.int64()}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def card(classes: dict[str, list[str]], splits: dict[str, list[str]], texts: dict[str, list[str]]) -> bytes:
    """The part of a data set's README that says what is in which file, as the hub's own has it."""
    lines = ["---", "dataset_info:"]
    for name in splits:
        lines += [f"- config_name: {name}", "  features:"]
        for text in texts[name]:
            lines += [f"  - name: {text}", "    dtype: string"]
        lines += ["  - name: label", f"    dtype:{'' if name in classes else ' float32'}"]
        if name in classes:
            lines += ["        class_label:", "          names:"]
            lines += [f"            '{index}': {value}" for index, value in enumerate(classes[name])]
        lines += ["  - name: idx", "    dtype: int64"]
    lines.append("configs:")
    for name, of in splits.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in of:
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    return "\n".join([*lines, "---", ""]).encode()


def repository(classes: dict[str, list[str]] = CLASSES) -> dict[str, bytes]:
    ids, pair = {"idx": [0, 1]}, {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    three = ["train", "validation", "test"]
    halves = ["validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
    splits = {"mrpc": three, "stsb": three, "mnli": ["train", *halves]}
    texts = {"mrpc": list(pair), "stsb": list(pair), "mnli": ["premise", "hypothesis"]}
    known = {"mrpc": [1, 0], "stsb": [2.5, 5.0], "mnli": [2, 0]}
    hidden = {"mrpc": [-1, -1], "stsb": [-1.0, -1.0], "mnli": [-1, -1]}
    files = {"README.md": card(classes, splits, texts)}
    for name, of in splits.items():
        for split in of:
            text = {"premise": [split, "p"], "hypothesis": ["h", "i"]} if name == "mnli" else pair
            labels = (hidden if "test" in split else known)[name]
            files[f"{name}/{split}-00000-of-00001.parquet"] = parquet(**text, label=labels, **ids)
    return files


@pytest.fixture(scope="module")
def hub():
    plain = b"---\nconfigs:\n- config_name: mrpc\n  data_files: mrpc/*.parquet\n---\n"
    pair = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "idx": [0, 1]}
    with HubStub() as stub:
        stub.repositories = {
            "nyu-mll/glue": repository(),
            "org/busy": repository(),
            "org/turned": repository({**CLASSES, "mrpc": ["equivalent", "not_equivalent"]}),
            "org/other": repository({**CLASSES, "mrpc": ["other", "same"]}),
            "org/nothing": {"README.md": b""},
            "org/gated": {"README.md": b""},
            "org/script": {"README.md": b"", "script.py": b"import datasets\n"},
            "org/lines": {
                "mrpc/train.jsonl": b'{"text": "a", "label": 0}\n',
                "README.md": b"---\nconfigs:\n- config_name: mrpc\n  data_files: mrpc/*.jsonl\n---\n",
            },
            "org/ids": {"README.md": plain, "mrpc/train.parquet": parquet(**pair, label=[1, 7])},
            "org/hidden": {"README.md": plain, "mrpc/train.parquet": parquet(**pair, label=[-1, -1])},
        }
        stub.gated = {"org/gated"}
        yield stub


class Reader:
    """Opens labelled data in a process of its own: the client reads HF_ENDPOINT when it is imported."""

    def __init__(self, endpoint: str, home: Path, offline: str = "0"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": offline,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=environment,
            text=True,
        )

    def ask(self, task: str, **config: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([task, config]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def error(self, task: str, **config: Any) -> str:
        message = self.ask(task, **config).get("error", "")
        assert message and "\n" not in message, message
        return message

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def reader(hub, home):
    reader = Reader(hub.url, home)
    yield reader
    reader.close()


def test_the_revision_is_the_one_that_is_set(hub, reader):
    reader.ask("mrpc", revision="v1.0")
    assert "HEAD /datasets/nyu-mll/glue/resolve/v1.0/README.md" in hub.requests


def test_every_split_is_read_and_test_labels_are_hidden(reader):
    data = reader.ask("mrpc")
    assert data["train"] == {
        "first": ["a", "b"],
        "second": ["c", "d"],
        "ids": [0, 1],
        "labels": [1, 0],
        "kind": "int32",
        "origin": "hub nyu-mll/glue mrpc train (2 examples, officially 3668)",
    }
    assert data["validation"]["labels"] == [1, 0]
    assert data["test"]["labels"] is None


def test_scores_are_float32(reader):
    data = reader.ask("stsb", max_train_examples=1)
    assert (data["train"]["labels"], data["train"]["kind"]) == ([2.5], "float32")
    assert data["train"]["origin"] == "hub nyu-mll/glue stsb train, first 1"
    assert data["validation"]["labels"] == [2.5, 5.0] and data["test"]["labels"] is None


def test_mnli_has_both_halves_and_mismatched_one(reader):
    data = reader.ask("mnli")
    assert list(data) == [
        "train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"
    ]  # fmt: skip
    assert data["validation_matched"]["first"][0] == "validation_matched"
    assert data["train"]["labels"] == [2, 0]
    assert list(reader.ask("mnli-mm")) == ["train", "validation_mismatched", "test_mismatched"]


def test_classes_in_another_order_are_put_in_the_tasks_own(reader):
    assert reader.ask("mrpc", name="org/turned")["train"]["labels"] == [0, 1]


def test_a_hub_that_is_busy_is_asked_again(hub, reader):
    hub.busy = {"org/busy": 2}
    assert reader.ask("mrpc", name="org/busy")["train"]["labels"] == [1, 0]
    assert hub.busy == {"org/busy": 0}


def test_what_is_read_once_is_read_again_without_the_hub(reader, home):
    reader.ask("mrpc")
    alone = Reader("http://127.0.0.1:9", home, offline="1")
    assert alone.ask("mrpc")["train"]["labels"] == [1, 0]
    message = alone.error("mrpc", name="org/other-one")
    alone.close()
    assert "config.data.name='org/other-one': the hub cannot be reached (HF_HUB_OFFLINE is set)" in message


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("mrpc", "org/missing", "config.data.name='org/missing' does not exist on the hub, or is private"),
        ("mrpc", "org/gated", "config.data.name='org/gated' is gated: request access on "),
        ("mrpc", "org/nothing", "config.data.name='org/nothing' holds no data file that datasets can read"),
        ("mrpc", "org/script", "is made by a loading script, which datasets no longer runs; take a data set of data "
         "files instead, such as nyu-mll/glue"),
        ("rte", "nyu-mll/glue", "config.task='rte' is not a configuration of 'nyu-mll/glue'; choose one of 'mrpc', "),
        ("mrpc", "org/lines", "config.data.name='org/lines' has no column 'sentence1' for config.task=mrpc; columns "
         "there: label, text"),
        ("mrpc", "org/ids", "hub org/ids mrpc train row 2: label 7 is not one of the ids of the classes "
         "not_equivalent, equivalent, 0 to 1"),
        ("mrpc", "org/hidden", "hub org/hidden mrpc train row 1: label -1 is not one of the ids of the classes "),
        ("mrpc", "org/other", "hub org/other mrpc train: its classes are other, same; they should be not_equivalent, "
         "equivalent"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(reader, task, name, message):
    assert message in reader.error(task, name=name)

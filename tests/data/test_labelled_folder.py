"""GLUE's tsv files are read as they are distributed, and what is wrong in one is said with its line."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.examples import LabelledData
from data.labelled.open import open_labelled
from data.labelled.tasks import TASKS

MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
COLA = "gj04\t1\t\tThey came.\nks08\t0\t*\tCame they the.\n"


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def folder(root: Path, task: str, **config) -> LabelledData:
    return open_labelled(LabelledConfig(source="folder", path=str(root), **config), task)


def test_unbalanced_quotes_stay_and_a_byte_order_mark_and_carriage_returns_go(tmp_path):
    write(
        tmp_path,
        {
            "MRPC/train.tsv": MRPC_HEADER + '1\t7\t8\tHe said " no .\tShe said no . "\r\n0\t9\t10\ta\tb\r\n',
            "MRPC/dev.tsv.gz": gzip.compress((MRPC_HEADER + "0\t1\t2\tx\ty\r\n").encode()),
            "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tleft\tright\n",
        },
    )
    data = folder(tmp_path, "mrpc")
    assert data.train.first == ['He said " no .', "a"]
    assert data.train.second == ['She said no . "', "b"]
    assert data.train.labels.tolist() == [1, 0] and data.train.labels.dtype == np.int32
    assert data.train.ids == [0, 1]
    assert data.evaluations["validation"].labels.tolist() == [0]
    assert data.tests["test"].labels is None
    assert data.tests["test"].first == ["left"]


def test_numbers_of_examples_and_classes_may_be_spelled_as_a_spreadsheet_does(tmp_path):
    header = "index\tsentence1\tsentence2\tlabel\n"
    files = {
        "RTE/train.tsv": header + "7.0\ta\tb\tNot_Entailment\nx8\tc\td\t0.0\n",
        "RTE/dev.tsv": header + "0\ta\tb\t1\n1\ta\tb\t-\n",
    }
    data = folder(write(tmp_path, files), "rte")
    assert (data.train.ids, data.train.labels.tolist()) == ([7, "x8"], [1, 0])
    assert (data.evaluations["validation"].ids, data.evaluations["validation"].labels.tolist()) == ([0], [1])


def test_cola_has_a_header_in_its_test_file_only(tmp_path):
    write(
        tmp_path,
        {"CoLA/train.tsv": COLA, "CoLA/dev.tsv": COLA, "CoLA/test.tsv": "index\tsentence\n7\tGone.\n"},
    )
    data = folder(tmp_path, "cola")
    assert data.train.first == ["They came.", "Came they the."] and data.train.second is None
    assert data.train.labels.tolist() == [1, 0]
    assert (data.tests["test"].first, data.tests["test"].ids) == (["Gone."], [7])


def test_a_file_that_stands_in_is_said_to_and_the_official_one_goes_first(tmp_path):
    header = "index\tquestion\tsentence\tlabel\n"
    rows = header + "0\tq\ts\tnot_entailment\n1\tq\ts\tentailment\n"
    write(tmp_path, {"QNLI/train_subset.tsv": rows, "QNLI/dev_unofficial.tsv": rows, "QNLI/dev.tsv": rows})
    data = folder(tmp_path, "qnli")
    assert data.train.origin == "folder QNLI/train_subset.tsv (not the official file)"
    assert data.train.labels.tolist() == [1, 0]
    assert not data.train.official
    dev = data.evaluations["validation"]
    assert dev.origin == "folder QNLI/dev.tsv (2 examples, officially 5463)" and not dev.official
    assert data.tests == {}


def test_limits_take_the_first_examples_of_train_and_evaluation_but_all_to_predict(tmp_path):
    rows = [f"gj04\t{number % 2}\t\tsentence {number}\n" for number in range(9)]
    test = "index\tsentence\n" + "".join(f"{number}\tt\n" for number in range(9))
    write(tmp_path, {"CoLA/train.tsv": "".join(rows), "CoLA/dev.tsv": "".join(rows), "CoLA/test.tsv": test})
    data = folder(tmp_path, "cola", max_train_examples=4, max_eval_examples=3)
    assert data.train.first == [f"sentence {number}" for number in range(4)]
    assert data.train.origin == "folder CoLA/train.tsv, first 4"
    assert len(data.evaluations["validation"]) == 3
    assert len(data.tests["test"]) == 9


def test_the_broken_rows_of_qqp_are_passed_over_and_counted(tmp_path, caplog):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = header + "5\t1\t2\ta\tb\t1\n6\t1\t2\tlost its tab 0\n8\t3\t4\tc\t\t0\n"
    write(tmp_path, {"QQP/train.tsv": rows, "QQP/dev.tsv": rows})
    data = folder(tmp_path, "qqp")
    assert (data.train.first, data.train.second, data.train.ids) == (["a", "c"], ["b", ""], [5, 8])
    assert "train.tsv: skipped 1 rows with missing or spare fields" in caplog.text


def test_the_diagnostic_set_lies_in_either_folder(tmp_path):
    rows = "index\tsentence1\tsentence2\n0\ta\tb\n"
    for name in ("AX", "diagnostic"):
        data = folder(write(tmp_path / name, {f"{name}/diagnostic.tsv": rows}), "ax")
        assert data.train is None and data.evaluations == {} and data.tests["test"].second == ["b"]


def test_parts_that_are_not_asked_for_are_not_read(tmp_path):
    write(tmp_path, {"CoLA/test.tsv": "index\tsentence\n0\tt\n"})
    config = LabelledConfig(source="folder", path=str(tmp_path))
    data = open_labelled(config, "cola", parts=("tests",))
    assert data.train is None and len(data.tests["test"]) == 1


RTE = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"
STSB = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t3.5\n"


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("rte", {"RTE/train.tsv": RTE, "RTE/dev.tsv": RTE.replace("not_entailment", "perhaps")},
         "RTE/dev.tsv line 3: label 'perhaps' is not one of the classes 'entailment', 'not_entailment'"),
        ("rte", {"RTE/train.tsv": RTE.replace("label", "gold"), "RTE/dev.tsv": RTE},
         "RTE/train.tsv line 1: no field 'label'; fields present: gold, index, sentence1, sentence2"),
        ("rte", {"RTE/train.tsv": "", "RTE/dev.tsv": RTE}, "RTE/train.tsv: the file is empty"),
        ("rte", {"RTE/train.tsv": RTE, "RTE/dev.tsv": RTE.split("\n")[0] + "\n"},
         "RTE/dev.tsv: there are no examples, only a header"),
        ("rte", {"RTE/train.tsv": RTE + "2\tlast\n", "RTE/dev.tsv": RTE},
         "RTE/train.tsv line 4: 2 fields where there should be 4 (index, sentence1, sentence2, label); correct the "),
        ("rte", {"RTE/train.tsv": RTE.replace("not_", ""), "RTE/dev.tsv": RTE},
         "folder RTE/train.tsv (2 examples, officially 2490): all 2 labels are 'entailment'; a classifier needs "),
        ("rte", {"RTE/train.tsv": RTE.encode() + b"2\t\xe6\tb\tentailment\n", "RTE/dev.tsv": RTE},
         "RTE/train.tsv line 4: invalid UTF-8 (byte 3, 0xe6); save the file as UTF-8"),
        ("rte", {"RTE/train.tsv.gz": gzip.compress(RTE.encode())[:-9], "RTE/dev.tsv": RTE},
         "RTE/train.tsv.gz: truncated file (the archive ends before its end mark; copy it again)"),
        ("rte", {"RTE/train.tsv.gz": RTE, "RTE/dev.tsv": RTE}, "RTE/train.tsv.gz: damaged file (Error -3 "),
        ("rte", {"RTE/train.tsv": RTE}, "has no RTE/dev.tsv; files there: train.tsv"),
        ("stsb", {"STS-B/train.tsv": STSB, "STS-B/dev.tsv": STSB + "1\tc\td\tquite alike\n"},
         "STS-B/dev.tsv line 3: label 'quite alike' should be a number, for a score"),
        ("stsb", {"STS-B/train.tsv": STSB.replace("3.5", "nan"), "STS-B/dev.tsv": STSB},
         "STS-B/train.tsv line 2: label 'nan' should be a number, for a score"),
        ("cola", {"RTE/train.tsv": RTE, "WNLI/dev.tsv": RTE},
         "has no folder CoLA with files; it should be the folder that holds CoLA, MRPC, ...; folders there: RTE, WNLI"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, task, files, message):
    write(tmp_path, files)
    with pytest.raises(UserError) as raised:
        folder(tmp_path, task)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError) as raised:
        folder(tmp_path / "nowhere", "rte")
    assert "config.data.path" in str(raised.value) and "nowhere" in str(raised.value)


GLUE = Path(os.environ.get("UNMASK_GLUE", Path(__file__).parents[3] / "shared" / "data" / "glue"))
COUNTS = {
    "cola": (8551, [1043], [1063]),
    "mnli": (9999, [9815, 9832], [9796, 9847]),
    "mnli-mm": (9999, [9832], [9847]),
    "mrpc": (3668, [408], [1725]),
    "qnli": (9999, [5463], [5463]),
    "qqp": (29372, [3497], []),
    "rte": (2490, [277], [3000]),
    "sst2": (67349, [872], [1821]),
    "stsb": (5749, [1500], [1379]),
    "wnli": (635, [71], [146]),
    "ax": (0, [], [1104]),
}
CLASSES = {
    "cola": [2528, 6023], "mnli": [3408, 3313, 3278], "mrpc": [1194, 2474], "qnli": [5027, 4972],
    "qqp": [18497, 10875], "rte": [1249, 1241], "sst2": [29780, 37569], "wnli": [323, 312],
}  # fmt: skip


@pytest.mark.skipif(not GLUE.is_dir(), reason="GLUE's files are not there; set UNMASK_GLUE to their folder")
@pytest.mark.parametrize("task", TASKS)
def test_every_example_of_the_real_files_is_read(task):
    data = folder(GLUE, task)
    train, evaluations, tests = COUNTS[task]
    assert (len(data.train) if data.train else 0) == train
    assert [len(examples) for examples in data.evaluations.values()] == evaluations
    assert [len(examples) for examples in data.tests.values()] == tests
    if task in CLASSES:
        assert np.bincount(data.train.labels).tolist() == CLASSES[task]
    for split, examples in data.tests.items():
        assert examples.labels is None and examples.official, split
        assert examples.ids == list(range(TASKS[task].rows[split]))
    stands_in = task in ("mnli", "mnli-mm", "qnli", "qqp")
    assert data.train is None or data.train.official == (not stands_in)

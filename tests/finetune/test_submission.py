"""A submission has the files, rows and labels that GLUE wants, and the checker finds what it would refuse."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from data.labelled.tasks import TASKS
from finetune.submission import FILES, check_submission, main, write_predictions, write_zip


def write_all(folder: Path) -> epath.Path:
    """Predictions for every test set, each example's the next class in turn."""
    for task in TASKS.values():
        for split in task.tests:
            count = task.rows[split]
            if task.labels:
                predictions = np.arange(count, dtype=np.int32) % len(task.labels)
            else:
                predictions = np.linspace(-1, 6, count, dtype=np.float32)
            write_predictions(epath.Path(folder), task, split, list(range(count)), predictions)
    return epath.Path(folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a sound submission, by name."""
    folder = write_all(tmp_path_factory.mktemp("files"))
    assert write_zip(folder, folder / "all.zip") == []
    with zipfile.ZipFile(folder / "all.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def test_every_file_is_there_and_has_no_fault(sound, tmp_path):
    assert sorted(sound) == [
        "AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "MRPC.tsv", "QNLI.tsv",
        "QQP.tsv", "RTE.tsv", "SST-2.tsv", "STS-B.tsv", "WNLI.tsv",
    ]  # fmt: skip
    assert check_submission(pack(tmp_path / "all.zip", sound)) == []


def test_names_are_written_where_glue_wants_names_and_ids_elsewhere(sound):
    first = {name: content.decode().split("\n")[:4] for name, content in sound.items()}
    assert first["MNLI-mm.tsv"] == ["index\tprediction", "0\tentailment", "1\tneutral", "2\tcontradiction"]
    assert first["AX.tsv"] == first["MNLI-m.tsv"] == first["MNLI-mm.tsv"]
    assert first["RTE.tsv"] == first["QNLI.tsv"] == [
        "index\tprediction", "0\tentailment", "1\tnot_entailment", "2\tentailment"
    ]  # fmt: skip
    for name in ("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv"):
        assert first[name] == ["index\tprediction", "0\t0", "1\t1", "2\t0"]


def test_scores_are_clipped_and_have_three_decimals(tmp_path):
    scores = np.array([-0.3, 2.34567, 5.2], np.float32)
    path = write_predictions(epath.Path(tmp_path), TASKS["stsb"], "test", [0, 1, 2], scores)
    assert path.read_text() == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"


def test_examples_in_another_order_are_put_in_glues(tmp_path):
    path = write_predictions(epath.Path(tmp_path), TASKS["wnli"], "test", [2, 0, 1], np.array([1, 0, 0]))
    assert path.name == "WNLI.tsv" and path.read_text() == "index\tprediction\n0\t0\n1\t0\n2\t1\n"


@pytest.mark.parametrize("ids", [[1, 2, 3], [0, 0, 1], ["p1", 0, 1]])
def test_examples_without_glues_index_are_refused(tmp_path, ids):
    with pytest.raises(
        UserError, match=r"QQP\.tsv: the examples of QQP test are not numbered 0 to 2, as GLUE's are"
    ):
        write_predictions(epath.Path(tmp_path), TASKS["qqp"], "test", ids, np.array([0, 1, 0]))


def test_a_prediction_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"STS-B\.tsv: a prediction is nan; the model has diverged"):
        write_predictions(epath.Path(tmp_path), TASKS["stsb"], "test", [0, 1], np.array([1.0, np.nan]))


def test_what_is_missing_is_said_and_the_same_files_make_the_same_zip(tmp_path):
    folder = epath.Path(tmp_path)
    for task in ("wnli", "rte"):
        count = TASKS[task].rows["test"]
        write_predictions(folder, TASKS[task], "test", list(range(count)), np.zeros(count, np.int32))
    missing = [name for name in FILES if name not in ("WNLI.tsv", "RTE.tsv")]
    assert write_zip(folder, folder / "a.zip") == missing
    assert write_zip(folder, folder / "b.zip") == missing
    assert (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}, "not the time of writing"
    assert check_submission(str(folder / "a.zip")) == [f"{name}: missing" for name in missing]


def change(old: bytes, new: bytes, count: int = 1):
    return lambda content: content.replace(old, new, count)


@pytest.mark.parametrize(
    ("name", "edit", "faults"),
    [
        ("RTE.tsv", change(b"index\tprediction", b"id\tlabel"),
         ["RTE.tsv line 1: 'id\\tlabel' should be the header 'index\\tprediction'"]),
        ("RTE.tsv", change(b"1\tnot_entailment\n", b"1\t1\n"),
         ["RTE.tsv line 3: prediction '1' should be entailment or not_entailment"]),
        ("MNLI-m.tsv", change(b"\tneutral\n", b"\tunclear\n", 3),
         ["MNLI-m.tsv line 3: prediction 'unclear' should be entailment or neutral or contradiction "
          "(and 2 more such lines)"]),
        ("CoLA.tsv", change(b"\t1\n", b"\tyes\n"), ["CoLA.tsv line 3: prediction 'yes' should be 0 or 1"]),
        ("CoLA.tsv", change(b"\t1\n", b"\t1.0\n"), ["CoLA.tsv line 3: prediction '1.0' should be 0 or 1"]),
        ("STS-B.tsv", change(b"\n0\t0.000", b"\n0\tlow"),
         ["STS-B.tsv line 2: prediction 'low' should be a number from 0 to 5"]),
        ("STS-B.tsv", change(b"\n0\t0.000", b"\n0\t5.1"),
         ["STS-B.tsv line 2: prediction '5.1' should be a number from 0 to 5"]),
        ("STS-B.tsv", change(b"\n0\t0.000", b"\n0\tnan"),
         ["STS-B.tsv line 2: prediction 'nan' should be a number from 0 to 5"]),
        ("WNLI.tsv", change(b"\n5\t", b"\n50\t"), ["WNLI.tsv line 7: index '50' should be 5"]),
        ("WNLI.tsv", change(b"145\t1\n", b""), ["WNLI.tsv: 145 predictions; the test set has 146 examples"]),
        ("WNLI.tsv", change(b"\n5\t1", b"\n5,1"),
         ["WNLI.tsv line 7: 1 fields where there should be an index and a prediction"]),
        ("WNLI.tsv", lambda content: content.replace(b"\n", b"\r\n"), []),
        ("WNLI.tsv", lambda content: content.replace(b"\n", b"\r"), []),
        ("WNLI.tsv", lambda content: content.rstrip(b"\n"), []),
        ("WNLI.tsv", lambda content: b"", ["WNLI.tsv line 1: '' should be the header 'index\\tprediction'",
                                           "WNLI.tsv: 0 predictions; the test set has 146 examples"]),
        ("WNLI.tsv", lambda content: b"\xff" + content,
         ["WNLI.tsv: cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"]),
    ],
)  # fmt: skip
def test_each_fault_is_one_line(sound, tmp_path, name, edit, faults):
    files = sound | {name: edit(sound[name])}
    del files["QQP.tsv"]  # the largest by far
    assert check_submission(pack(tmp_path / "all.zip", files)) == ["QQP.tsv: missing", *faults]


def test_files_elsewhere_or_of_other_names_are_faults(sound, tmp_path):
    files = {name: content for name, content in sound.items() if name not in ("AX.tsv", "RTE.tsv")}
    files |= {"glue/RTE.tsv": sound["RTE.tsv"], "diagnostic.tsv": sound["AX.tsv"]}
    assert check_submission(pack(tmp_path / "all.zip", files)) == [
        "RTE.tsv: missing",
        "AX.tsv: missing",
        "glue/RTE.tsv: it should be RTE.tsv, in no folder",
        "diagnostic.tsv: GLUE has no such file",
    ]


def test_damage_in_a_zip_is_a_fault_of_its_file(sound, tmp_path):
    path = Path(pack(tmp_path / "all.zip", {"WNLI.tsv": sound["WNLI.tsv"]}))
    path.write_bytes(path.read_bytes().replace(b"145\t1\n", b"145\t0\n"))
    assert check_submission(str(path))[-1] == "WNLI.tsv: cannot be read: Bad CRC-32 for file 'WNLI.tsv'"


def test_the_command_says_what_is_wrong_and_exits_with_one(sound, tmp_path, capsys):
    assert main(["check", pack(tmp_path / "good.zip", sound)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/good.zip: 11 files, as GLUE wants them\n"
    assert main(["check", pack(tmp_path / "bad.zip", {**sound, "a.txt": b""})]) == 1
    said = capsys.readouterr()
    assert said.out == "a.txt: GLUE has no such file\n"
    assert said.err == f"{tmp_path}/bad.zip: 1 faults; GLUE would refuse it\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.zip", None, "no.zip: cannot be read: No such file or directory"),
        (
            "text.zip",
            b"no zip",
            "text.zip: File is not a zip file; it should be a zip of CoLA.tsv, MNLI-m.tsv, ",
        ),
    ],
)
def test_what_is_no_zip_is_one_line(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "finetune.submission", str(tmp_path / name)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_help_says_what_it_is_for(capsys):
    assert main(["submission", "--help"]) == 0
    assert "python -m finetune.submission FILE.zip" in capsys.readouterr().out

"""A benchmark: its tasks in order, each from the right model, made once; the table, GLUE's average, the submission."""

import dataclasses
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from etils import epath
from rich.console import Console

from base.command_line import parse
from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.tasks import TASKS
from finetune.config import FinetuneConfig
from finetune.glue import all_tasks
from finetune.glue.all_tasks import run_benchmark, task_configs, write_submission
from finetune.glue.benchmark_table import NINE, Row, averages, markdown, picture, row_of, table, write_reports
from finetune.results.results_file import WANTED, Summary, read_results, write_results
from finetune.submission import FILES
from tests.finetune.tiny_task import tiny_finetune

GLUE = Path(__file__).parents[2] / "configs" / "glue.py"
SENTENCES = ("the cat sees a house", "one dog finds the river", "a bird follows", "the old tree")


def write_glue(folder: Path) -> Path:
    """Write a few rows of RTE (with a test set) and MNLI in GLUE's layout; returns the folder."""
    for task, column, labels, files in (
        ("RTE", "label", TASKS["rte"].labels, {"train": 16, "dev": 8}),
        ("MNLI", "gold_label", TASKS["mnli"].labels, {"train": 24, "dev_matched": 9, "dev_mismatched": 8}),
    ):
        (folder / task).mkdir(parents=True)
        for name, count in files.items():
            rows = [
                f"{i}\t{SENTENCES[i % 4]}\t{SENTENCES[i % 3]}\t{labels[i % len(labels)]}"
                for i in range(count)
            ]
            text = "\n".join([f"index\tsentence1\tsentence2\t{column}", *rows]) + "\n"
            (folder / task / f"{name}.tsv").write_text(text)
    rows = [f"{i}\t{SENTENCES[i % 4]}\t{SENTENCES[0]}" for i in range(5)]
    (folder / "RTE" / "test.tsv").write_text("\n".join(["index\tsentence1\tsentence2", *rows]) + "\n")
    return folder


def config_of(
    folder: Path, *tasks: dict[str, Any], from_mnli: bool = False, **changes: Any
) -> FinetuneConfig:
    """A benchmark on what `write_glue` wrote below the folder."""
    own = {"tasks": tasks, "from_mnli": from_mnli}
    config = tiny_finetune(folder, epochs=1, lengths=[48], benchmark=own, **changes)
    return dataclasses.replace(config, data=LabelledConfig(source="folder", path=str(folder / "glue")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    write_glue(folder / "glue")
    return folder


def nine_tasks(**changes: Any) -> FinetuneConfig:
    config, _ = parse(
        FinetuneConfig, ["finetune", f"--config={GLUE}:all", "--config.init_from=base"], lambda values: None
    )
    return dataclasses.replace(config, **changes)


def results_of(task: str, *runs: dict[str, float], rate: float = 2e-5, **changes: Any) -> dict[str, Any]:
    """The results.json of a task whose runs have these metrics."""
    return {
        "task": task,
        "runs": [{"learning_rate": rate, "metrics": metrics} for metrics in runs],
        "summary": {
            f"{rate:g}": {name: vars(Summary.of([run[name] for run in runs], name)) for name in runs[0]}
        },
        "init_from": "base",
        "seconds": 61.0,
        "examples": {
            "train": {"count": 10, "origin": "hub", "official": True},
            **{
                name: {"count": 5, "origin": "dev_unofficial.tsv", "official": False}
                for name in TASKS[task].evaluations
            },
        },
    } | changes


def rows_of_three() -> list[Row]:
    return [
        row_of(results_of("wnli", {"accuracy": 0.25, "loss": 1.0}, {"accuracy": 0.75, "loss": 1.0})),
        row_of(
            results_of(
                "mrpc",
                {"accuracy": 0.5, "f1": 0.75, "accuracy_f1": 0.625, "loss": 1.0},
                {"accuracy": 0.75, "f1": 0.5, "accuracy_f1": 0.625, "loss": 1.0},
            )
        ),
        row_of(
            results_of(
                "mnli",
                {"matched/accuracy": 0.5, "matched/loss": 1.0, "mismatched/accuracy": 1.0, "mismatched/loss": 1.0},
                {"matched/accuracy": 0.5, "matched/loss": 1.0, "mismatched/accuracy": 0.5, "mismatched/loss": 1.0},
            )
        ),
    ]  # fmt: skip


def test_a_benchmark_makes_each_task_once_and_the_small_ones_from_mnli(folder, tmp_path, monkeypatch):
    config = config_of(folder, {"task": "rte", "learning_rate": 1e-3}, {"task": "mnli"}, from_mnli=True)
    trained: list[str] = []
    really_train = all_tasks.train

    def train(chosen, workdir):
        trained.append(chosen.task)
        if trained == ["mnli", "rte"]:
            raise KeyboardInterrupt
        return really_train(chosen, workdir)

    monkeypatch.setattr(all_tasks, "train", train)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(config, epath.Path(tmp_path), Console(file=io.StringIO()))
    assert not (tmp_path / "glue.json").exists()
    for _ in range(2):
        output = io.StringIO()
        assert run_benchmark(config, epath.Path(tmp_path), Console(file=output, width=80)) == ""
        assert trained == ["mnli", "rte", "rte"]
        assert max(map(len, output.getvalue().splitlines()[:20])) <= 80
    known = json.loads((tmp_path / "glue.json").read_text())
    assert [(row["task"], row["init_from"], row["learning_rate"]) for row in known["tasks"]] == [
        ("mnli", str(folder / "model"), 3e-3),
        ("rte", str(tmp_path / "mnli"), 1e-3),
    ]
    assert {"glue.md", "glue.json", "glue.png", "mnli", "rte"} <= {path.name for path in tmp_path.iterdir()}
    message = " ".join(output.getvalue().split())
    assert "no submission: the predictions of CoLA.tsv, MNLI-m.tsv" in message
    assert "RTE.tsv" not in message and (tmp_path / "predictions" / "RTE.tsv").exists()

    (tmp_path / "rte" / "results.json").unlink()
    monkeypatch.setattr(all_tasks, "train", lambda *given: SimpleNamespace(interrupted="SIGTERM"))
    assert run_benchmark(config, epath.Path(tmp_path), Console(file=io.StringIO())) == "SIGTERM"
    assert not (tmp_path / "glue.json").exists(), "a benchmark with a task to go passes for finished"

    changed = dataclasses.replace(config, label_smoothing=0.1)
    with pytest.raises(UserError, match=r"config\.label_smoothing was 0\.0, is 0\.1"):
        run_benchmark(changed, epath.Path(tmp_path), Console(file=io.StringIO()))


def test_a_signal_in_a_task_ends_the_benchmark(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(all_tasks, "train", lambda *given: SimpleNamespace(interrupted="SIGTERM"))
    config = config_of(folder, {"task": "rte"}, {"task": "mnli"})
    assert run_benchmark(config, epath.Path(tmp_path), Console(file=io.StringIO())) == "SIGTERM"
    assert not (tmp_path / "glue.json").exists()


def test_a_signal_in_the_last_step_of_a_task_ends_the_benchmark_after_its_results(
    folder, tmp_path, monkeypatch
):
    done = SimpleNamespace(interrupted="", requested="SIGTERM")
    monkeypatch.setattr(all_tasks, "train", lambda *given: done)
    finished = []
    monkeypatch.setattr(all_tasks, "finish", lambda outcome, workdir: finished.append(workdir.name) or {})
    config = config_of(folder, {"task": "rte"}, {"task": "mnli"})
    assert run_benchmark(config, epath.Path(tmp_path), Console(file=io.StringIO())) == "SIGTERM"
    assert finished == ["rte"]


def test_what_is_missing_of_a_late_task_is_known_before_the_first_is_trained(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(all_tasks, "train", lambda *given: pytest.fail("trained"))
    config = config_of(folder, {"task": "rte"}, {"task": "cola"})
    with pytest.raises(UserError, match="has no folder CoLA with files"):
        run_benchmark(config, epath.Path(tmp_path), Console(file=io.StringIO()))


def test_the_recipe_has_the_nine_tasks_and_five_epochs_for_the_two_small_ones():
    configs = task_configs(nine_tasks(), epath.Path("runs/glue"))
    assert sorted(configs) == sorted(NINE) and len(NINE) == 9
    assert {task for task, each in configs.items() if each.epochs == 5} == {"mrpc", "wnli"}
    assert {each.epochs for task, each in configs.items() if task not in ("mrpc", "wnli")} == {3}
    sizes = [TASKS[task].rows["train"] for task in configs]
    assert sizes == sorted(sizes)
    assert {each.benchmark.tasks for each in configs.values()} == {()}


def test_tasks_that_start_from_mnli_come_after_it_and_the_others_stay():
    config = nine_tasks()
    from_mnli = dataclasses.replace(config.benchmark, from_mnli=True)
    configs = task_configs(dataclasses.replace(config, benchmark=from_mnli), epath.Path("runs/glue"))
    assert list(configs) == ["wnli", "cola", "sst2", "qnli", "qqp", "mnli", "rte", "mrpc", "stsb"]
    starts = {task: each.init_from for task, each in configs.items()}
    assert {task for task, start in starts.items() if start == "runs/glue/mnli"} == {"mrpc", "rte", "stsb"}
    assert {start for start in starts.values() if start != "runs/glue/mnli"} == {"base"}


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        ([{"task": "ax"}], {}, "config.benchmark.tasks has 'ax', which is none of the nine tasks: cola, mnli, mrpc"),
        ([{"task": "rte"}, {"task": "rte"}], {}, "config.benchmark.tasks names a task twice: rte, rte"),
        ([{"task": "rte"}], {"task": "cola"}, "config.task='cola' and config.benchmark.tasks exclude each other"),
        ([{"task": "rte"}], {"from_mnli": True}, "config.benchmark.from_mnli=True needs mnli among"),
        ([{"task": "rte", "epochs": 0}], {}, "config.epochs=0 should be 1 or more"),
        ([{"task": "rte", "learning_rate": 1e-5}], {"learning_rates": [1e-5, 2e-5]}, "config.learning_rates=[1e-05,"),
        ([{"task": "rte"}], {"search": {"trials": 3}}, "config.search works on one task"),
        ([{"task": "rte"}], {"eval": {"metric": "f1"}}, "config.eval.metric='f1' is not a metric of RTE"),
    ],
)  # fmt: skip
def test_a_benchmark_that_cannot_be_made_is_refused(tasks, changes, message, folder):
    with pytest.raises(UserError) as error:
        task_configs(config_of(folder, *tasks, **changes), epath.Path("x"))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_average_is_of_one_score_a_task():
    rows = rows_of_three()
    assert [row.score for row in rows] == [
        Summary(0.75, 0.5, pytest.approx(0.125**0.5)),
        Summary(0.625, 0.625, 0.0),
        Summary(0.75, 0.625, pytest.approx(0.03125**0.5)),
    ]
    assert averages(rows) == {
        "all": {"tasks": 3, "best": 2.125 / 3, "mean": 1.75 / 3},
        "without_wnli": {"tasks": 2, "best": 1.375 / 2, "mean": 0.625},
    }
    assert list(averages(rows[1:])) == ["all"]


def test_a_run_that_has_diverged_leaves_no_mean_but_a_best():
    summary = Summary.of([math.nan, 0.5, 0.25], "loss")
    assert summary.best == 0.25 and math.isnan(summary.mean) and math.isnan(summary.std)
    assert math.isnan(Summary.of([math.inf, 1.0], "loss").std)


def test_scores_that_are_no_numbers_are_kept_as_json_has_them(tmp_path):
    found: dict[str, Any] = {
        name: (kind[0] if isinstance(kind, tuple) else kind)() for name, kind in WANTED.items()
    }
    found |= {"runs": [{"metrics": {"loss": math.nan}}], "steps": 3, "init_from": None}
    write_results(found, epath.Path(tmp_path))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["runs"] == [{"metrics": {"loss": None}}]
    read = read_results(epath.Path(tmp_path))
    assert math.isnan(read["runs"][0]["metrics"]["loss"]) and read["init_from"] is None and read["steps"] == 3


def test_of_several_learning_rates_the_one_with_the_best_mean_counts():
    low = results_of("rte", {"accuracy": 0.9}, {"accuracy": 0.1}, rate=1e-5)
    high = results_of("rte", {"accuracy": 0.6}, {"accuracy": 0.7}, rate=3e-5)
    row = row_of(low | {"runs": low["runs"] + high["runs"], "summary": low["summary"] | high["summary"]})
    assert (row.learning_rate, row.runs, row.score.best) == (3e-5, 2, 0.7)
    assert row.metrics["accuracy"] == row.score


@pytest.mark.parametrize("diverged_first", [True, False])
def test_a_learning_rate_that_has_diverged_is_not_chosen(diverged_first: bool):
    diverged = results_of("rte", {"accuracy": math.nan}, {"accuracy": 0.9}, rate=1e-2)
    fine = results_of("rte", {"accuracy": 0.5}, {"accuracy": 0.6}, rate=2e-5)
    one, other = (diverged, fine) if diverged_first else (fine, diverged)
    row = row_of(one | {"runs": one["runs"] + other["runs"], "summary": one["summary"] | other["summary"]})
    assert (row.learning_rate, row.score.mean) == (2e-5, pytest.approx(0.55))


def test_a_task_that_has_diverged_is_reported_as_such(tmp_path: Path):
    rows = [*rows_of_three()[:1], row_of(results_of("rte", {"accuracy": math.nan}))]
    write_reports(rows, epath.Path(tmp_path))
    known = json.loads((tmp_path / "glue.json").read_text(), parse_constant=pytest.fail)
    assert known["tasks"][1]["score"] == {"best": None, "mean": None, "std": None}
    assert known["average"]["all"]["mean"] is None
    assert "| RTE | accuracy | nan | nan | nan |" in markdown(rows)
    assert (tmp_path / "glue.png").read_bytes()[:4] == b"\x89PNG"
    assert picture(rows[1:])[:4] == b"\x89PNG"


def test_the_table_says_what_was_scored_on_which_examples():
    lines = markdown(rows_of_three()).splitlines()
    assert lines[0] == "# GLUE: 3 tasks, 2 runs each"
    assert lines[4:12] == [
        "| WNLI | accuracy | 75.00 | 50.00 | 35.36 | 1m01s | 10 | 5* |",
        "| MRPC | accuracy | 75.00 | 62.50 | 17.68 | 1m01s | 10 | 5* |",
        "|  | F1 | 75.00 | 62.50 | 17.68 |  |  |  |",
        "| MNLI | accuracy matched | 50.00 | 50.00 | 0.00 | 1m01s | 10 | 5* |",
        "|  | accuracy mismatched | 100.00 | 75.00 | 35.36 |  |  | 5* |",
        "| **average** | **of 3 tasks** | **70.83** | **58.33** |  | **3m03s** |  |  |",
        "| **average** | **without WNLI** | **68.75** | **62.50** |  |  |  |  |",
        "",
    ]
    assert lines[12:] == [
        "- scores on the evaluation sets, times 100; std over the runs",
        "- the average takes the mean of both metrics of MRPC, MNLI",
        "- GLUE has nine tasks; not here: CoLA, QNLI, QQP, RTE, SST-2, STS-B",
        "- from base",
        "- learning rate 2e-05",
        r"- \* WNLI validation: dev_unofficial.tsv",
        r"- \* MRPC validation: dev_unofficial.tsv",
        r"- \* MNLI validation_matched: dev_unofficial.tsv",
        r"- \* MNLI validation_mismatched: dev_unofficial.tsv",
    ]


def test_the_table_fits_a_terminal_of_80_columns():
    metrics = {"matched/accuracy": 1.0, "mismatched/accuracy": 1.0}
    sizes = {name: {"count": 392_702, "origin": "x", "official": False} for name in
             ("train", "validation_matched", "validation_mismatched")}  # fmt: skip
    row = row_of(results_of("mnli", metrics, metrics, examples=sizes, seconds=85_000.0))
    output = io.StringIO()
    Console(file=output, width=80).print(table([row]))
    assert "…" not in output.getvalue()
    assert max(len(line.rstrip()) for line in output.getvalue().splitlines()) <= 80


def test_the_picture_is_drawn_of_one_task_and_of_scores_below_zero():
    below = row_of(results_of("cola", {"matthews": -0.25}, {"matthews": -0.5}))
    assert picture([below])[:4] == picture([*rows_of_three(), below])[:4] == b"\x89PNG"


def test_predictions_of_all_test_sets_are_zipped_as_glue_takes_them(tmp_path):
    for task in ("mnli", "rte"):
        (tmp_path / task / "predictions").mkdir(parents=True)
    for name, wanted in FILES.items():
        answer = wanted.predictions[0] if wanted.predictions else "2.5"
        lines = ["index\tprediction", *(f"{index}\t{answer}" for index in range(wanted.rows))]
        task = "rte" if name == "RTE.tsv" else "mnli"
        (tmp_path / task / "predictions" / name).write_text("\n".join(lines) + "\n")
    workdir = epath.Path(tmp_path)
    missing = write_submission(workdir, ["mnli"])
    assert missing == "no submission: the predictions of RTE.tsv are missing, GLUE wants all"
    assert not (tmp_path / "submission.zip").exists()
    path = tmp_path / "submission.zip"
    assert write_submission(workdir, ["mnli", "rte"]) == f"submission: {path}, as GLUE takes it"
    (tmp_path / "rte" / "predictions" / "RTE.tsv").write_text("index\tprediction\n0\tperhaps\n")
    refused = write_submission(workdir, ["mnli", "rte"])
    assert refused.startswith(f"submission: {path}, but GLUE would refuse it: RTE.tsv")

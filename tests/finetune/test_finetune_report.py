"""The report of fine-tuning: results, curves of each run, confusion, examples, searches and benchmarks."""

import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict
from data.labelled.sentences import Sentences
from finetune.config import FinetuneConfig
from finetune.kinds import EMBEDDING, SIMILARITY
from finetune.report import kept, pages
from finetune.report.__main__ import main
from finetune.report.pages import report
from finetune.results import results_file
from finetune.search.trials_table import Found, Trial
from pretrain.report.pages import report as report_of_pretraining
from tests.hostile import NAMES

SVG = "{http://www.w3.org/2000/svg}"
XHTML = "{http://www.w3.org/1999/xhtml}"


def parsed(page):
    """The page as a strict parser of XML reads it."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def words(page):
    return " ".join(" ".join(parsed(page).itertext()).split())


def write_metrics(folder, offset=0.0):
    folder.mkdir(parents=True)
    lines = [{"step": step, "train/loss": 1.0 - 0.01 * step, "train/accuracy": 0.5} for step in range(1, 11)]
    lines += [{"step": step, "eval/loss": 0.9 + offset, "eval/accuracy": 0.75} for step in (5, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def results(seeds=(0, 1)):
    summary = {"best": 0.75, "mean": 0.7, "std": 0.05}
    runs = [
        {"seed": seed, "learning_rate": 2e-5, "step": 10, "metrics": {"accuracy": 0.75, "loss": 0.9}}
        for seed in seeds
    ]
    return {
        "task": "", "title": "letters", "metric": "accuracy", "best_run": 1, "runs": runs,
        "summary": {"2e-05": {"accuracy": summary}}, "tests": {"test": {"accuracy": 0.5}},
        "examples": {"train": {"count": 50, "origin": "train.csv"}}, "config": as_dict(FinetuneConfig()),
    }  # fmt: skip


@pytest.fixture
def population(tmp_path):
    """The files of a finished run of two members."""
    folder = tmp_path / "letters"
    write_metrics(folder)
    for index in (0, 1):
        write_metrics(folder / "runs" / f"seed{index}", offset=0.1 * index)
    (folder / "results.json").write_text(json.dumps(results()))
    return epath.Path(folder)


def job_of(names, first, labels, second=None):
    """What of a job is kept for a report."""
    examples = SimpleNamespace(first=first, second=second)
    chosen = SimpleNamespace(name="", encoded=SimpleNamespace(targets=np.array(labels)))
    return SimpleNamespace(
        kind=SimpleNamespace(embeds=False),
        labels=names,
        data=SimpleNamespace(evaluations={"validation": examples}),
        evaluations=[chosen],
    )


def test_each_run_has_its_curves_of_training_and_evaluation(population):
    page = report([population])
    said = words(page)
    assert "seed 1 (best) 2e-05 10 75.00 0.9000" in said
    assert "2e-05 accuracy 75.00 70.00 5.00" in said and "test accuracy 50.00" in said
    curves = {title.text.partition(":")[0] for line in parsed(page).iter(f"{SVG}polyline") for title in line}
    assert curves >= {
        f"seed{i} {part}/{name}"
        for i in (0, 1)
        for part in ("train", "eval")
        for name in ("loss", "accuracy")
    }


def test_classes_that_are_confused_and_the_largest_mistakes_are_kept(population):
    job = job_of(["no", "yes"], ["a", "b", "c", "d"], [0, 1, 1, 0], second=["e", "f", "g", "h"])
    kept.keep_answers(job, np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 0.1]]), population)
    found = json.loads((population / "report.json").read_text())
    assert found["confusion"] == [[1, 1], [1, 1]] and found["confused"] == [
        ["no", "yes", 1],
        ["yes", "no", 1],
    ]
    texts = [(each["text"], each["label"], each["predicted"]) for each in found["examples"]]
    assert texts == [("c", "yes", "no"), ("d", "no", "yes"), ("a", "no", "no"), ("b", "yes", "yes")]
    said = words(report([population]))
    assert "yes as no: 1" in said and "c g yes no 99.3%" in said


def test_mistakes_among_many_classes_are_counted_without_a_table_of_all_pairs(tmp_path):
    names = [str(number) for number in range(50_000)]  # whose pairs are more than an int32 holds
    logits = np.zeros((3, len(names)), np.float32)
    logits[:, -1] = 1.0
    job = job_of(names, ["a", "b", "c"], [49_998, 7, 7])
    job.evaluations[0].encoded.targets = job.evaluations[0].encoded.targets.astype(np.int32)
    kept.keep_answers(job, logits, epath.Path(tmp_path))
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["confused"] == [["7", "49999", 2], ["49998", "49999", 1]] and found["confusion"] is None


@pytest.mark.parametrize("metric", ["loss", "threshold", "accuracy", "test/f1", "test/threshold"])
def test_a_metric_is_shown_as_the_table_of_a_run_shows_it(metric):
    assert pages._score(metric, 0.4321) == results_file.score(metric, 0.4321)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", {"runs": [{}]}),
        ("results.json", {"runs": [1], "config": 3, "examples": [1]}),
        ("report.json", {"examples": [1]}),
        ("config.json", {"task": "", "data": [1], "global_batch": "x"}),
        ("search/trials.json", {"trials": [1, {}]}),
        ("glue.json", {"tasks": [1, {"task": "runs"}]}),
    ],
)
def test_a_file_with_odd_contents_only_leaves_out_its_part(population, name, content):
    (population / name).parent.mkdir(exist_ok=True)
    (population / name).write_text(json.dumps(content))
    (population / "runs" / "results.json").write_text('{"summary": [1]}')
    assert "letters" in words(report([population]))


def test_scores_show_the_largest_differences(population):
    kept.keep_answers(job_of([], ["a", "b"], [1.0, 4.0]), np.array([[1.5], [2.0]]), population)
    assert "b 4 2 -2 a 1 1.5 +0.5" in words(report([population]))


def test_names_and_texts_do_not_become_markup(population):
    names = [name.strip() or "?" for name in NAMES]
    kept.keep_answers(job_of(names, names, list(range(len(names)))), np.eye(len(names))[::-1], population)
    page = parsed(report([population]))
    assert not {element.tag for element in page.iter()} & {
        f"{XHTML}{name}" for name in ("script", "b", "img", "a")
    }


def test_a_search_has_parallel_coordinates(tmp_path):
    trials = tuple(
        Trial(number, {"learning_rate": 10.0**-number, "global_batch": 8}, score, 2.0, 5.0)
        for number, score in ((1, 0.5), (2, 0.75), (3, None))
    )
    folder = epath.Path(tmp_path / "run" / "search")
    write_metrics(tmp_path / "run" / "search" / "trial-1")
    kept.keep_trials(Found("accuracy", trials, trials[1], ""), folder)
    page = report([folder.parent])
    said = words(page)
    assert (
        "search of 3 trials" in said and "2 (best) 0.01 8 75.00 2 5s" in said and "3 0.001 8 - 2 5s" in said
    )
    lines = [line for line in parsed(page).iter(f"{SVG}polyline") if line[0].text.startswith("trial ")]
    places = {line[0].text: len(line.get("points").split()) for line in lines}
    assert places == {"trial 1: 50.00": 3, "trial 2: 75.00": 3, "trial 3: -": 2}
    assert "trial-1 eval/accuracy" in said


def test_a_benchmark_has_a_table_of_its_tasks(tmp_path):
    write_metrics(tmp_path / "glue" / "letters")
    (tmp_path / "glue" / "letters" / "results.json").write_text(json.dumps(results()))
    (tmp_path / "glue" / "glue.json").write_text(
        json.dumps({"tasks": [{"task": "letters"}, {"task": "gone"}]})
    )
    said = words(report([epath.Path(tmp_path / "glue")]))
    assert "glue: 2 tasks" in said and "letters 2e-05 accuracy 75.00 70.00 5.00" in said


def test_runs_of_the_other_stage_are_refused(population, tmp_path):
    (tmp_path / "p" / "checkpoints" / "1" / "run").mkdir(parents=True)
    (tmp_path / "p" / "checkpoints" / "1" / "run" / "metadata").write_text('{"config": {"data": {}}}')
    with pytest.raises(UserError, match=r"python -m pretrain\.report is for it"):
        main(["report", str(tmp_path / "p")])
    (population / "checkpoints" / "1" / "run").mkdir(parents=True)
    (population / "checkpoints" / "1" / "run" / "metadata").write_text('{"config": {"task": ""}}')
    with pytest.raises(UserError, match=r"python -m finetune\.report is for it"):
        report_of_pretraining([population])


def test_mistakes_of_words_stand_beside_their_sentences(population):
    job = job_of(["O", "B-PER"], [], [0, 1, 0])
    job.data.evaluations["validation"] = Sentences([["Ola", "Nordmann"], ["sover"]], None, [0, 1], "")
    kept.keep_answers(job, np.array([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0]]), population)
    found = json.loads((population / "report.json").read_text())
    assert found["confusion"] == [[2, 0], [1, 0]]
    assert [(each["text"], each["second"]) for each in found["examples"][:1]] == [
        ("Nordmann", "Ola Nordmann")
    ]
    assert "Nordmann Ola Nordmann B-PER O 95.3%" in words(report([population]))


def test_mistakes_of_examples_with_any_number_of_classes(population):
    job = job_of(["a", "b"], ["x", "y", "z"], np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    kept.keep_answers(job, np.array([[1.0, -1.0], [-5.0, 1.0], [-1.0, 0.2]]), population, 0.5)
    found = json.loads((population / "report.json").read_text())
    assert found["by_class"] == [["a", 1, 1, 0], ["b", 1, 0, 1]]  # right, missed, wrongly given
    assert [(each["text"], each["label"], each["predicted"]) for each in found["examples"]] == [
        ("y", "a|b", "b"),
        ("z", "", "b"),
        ("x", "a", "a"),
    ]
    said = words(report([population]))
    assert "class right missed wrongly given a 1 1 0 b 1 0 1" in said and "y a|b b 1 of 2 wrong" in said


def test_pairs_are_shown_with_their_cosines_the_worst_first(population):
    """A report of an embedder had no examples."""
    job = job_of([], ["a", "b", "c"], [0, 1, 1], second=["x", "y", "y"])
    job.kind = EMBEDDING
    vectors = np.array([[3.0, 0, 3, 0], [1.0, 0, 0, 1], [0, 2.0, 0, 2]])  # b is nearer to x than to its y
    kept.keep_answers(job, vectors, population)
    said = words(report([population]))
    assert "pair rank among 2 second texts a nearer text cosine b y 2 x 0.000" in said
    assert "b y 2 x 0.000 a x 1 1.000 c y 1 1.000" in said
    assert "Confusion" not in said

    job.kind, job.evaluations[0].encoded.targets = SIMILARITY, np.array([5.0, 1.0, 1.0])
    kept.keep_answers(job, vectors, population)
    said = words(report([population]))
    assert "pair score cosine cosine - score from 0 to 1 c y 1 1.000 +1.000 a x 5 1.000 +0.000" in said

"""The report of fine-tuning runs, searches and benchmarks."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from base import formatting
from base.errors import UserError
from finetune.config import FinetuneConfig
from pretrain.report import sections
from pretrain.report.charts import bars, heat_map, parallel
from pretrain.report.facts import Run, as_mapping, read_json, read_run
from pretrain.report.html import Markup, colour, element, folded, join, page, paragraph, section, table, text
from pretrain.report.pages import FILE
from pretrain.report.sections import Chart, part
from pretrain.runtime.workdir import write_text

RESULTS_FILE, ANSWERS_FILE, BENCHMARK_FILE = "results.json", "report.json", "glue.json"
SEARCH_FOLDER, TRIALS_FILE, MEMBERS_FOLDER = "search", "trials.json", "runs"
BEST, OTHER, ENDED = "#c44e52", "#2f6fae", "#a8b0ba"
"""Colours of trials: the best, others, those without a score."""
NO_SHARES = ("loss", "threshold")
"""Metrics that are shown as they are, as in `finetune.results.results_file.score`; others are shown times 100."""
AXES = (
    sections.STEPS,
    ("examples", lambda run, steps: [step * run.config.get("global_batch", math.nan) for step in steps]),
)


def write_report(workdir: epath.Path) -> None:
    """Write WORKDIR/report.html.

    Raises:
      UserError: it is no workdir of fine-tuning, or nothing is logged yet.
    """
    write_text(workdir / FILE, report([workdir]))


def report(workdirs: Sequence[epath.Path]) -> str:
    """The report of runs, of a search or of a benchmark, as an HTML page.

    Args:
      workdirs: their folders. Several are compared: of a run with several members, the means.

    Raises:
      UserError: one of them is no workdir of fine-tuning.
    """
    if len(workdirs) == 1 and (workdirs[0] / SEARCH_FOLDER / TRIALS_FILE).exists():
        return _of_search(workdirs[0])
    if len(workdirs) == 1 and (workdirs[0] / BENCHMARK_FILE).exists():
        return _of_benchmark(workdirs[0])
    runs = [_run(place, name) for place, name in zip(workdirs, sections.names_of(workdirs))]
    members = _members(runs[0]) if len(runs) == 1 else []
    title = f"{runs[0].name}: {sections.state_of(runs[0])}" if len(runs) == 1 else f"{len(runs)} runs"
    results = [read_json(run.workdir / RESULTS_FILE) for run in runs]
    shown = members or runs
    return page(
        title,
        section("Results", *(part(_results, run, found) for run, found in zip(runs, results))),
        _curves(shown),
        *(part(_answers, run) for run in runs),
        part(sections.config_section, runs, FinetuneConfig()),
        part(_data, runs, results),
        part(sections.time_section, runs),
        part(sections.memory_section, runs),
    )


def _run(workdir: epath.Path, name: str) -> Run:
    run = read_run(workdir, name)
    if run.config and "task" not in run.config:
        raise UserError(f"{workdir} holds a run of pretraining; python -m pretrain.report is for it")
    return dataclasses.replace(
        run, config=run.config or as_mapping(read_json(workdir / RESULTS_FILE).get("config"))
    )


def _members(run: Run) -> list[Run]:
    """The runs of a population, each with its own metrics; [] of a single run."""
    folder = run.workdir / MEMBERS_FOLDER
    found = _readable(sorted(folder.iterdir())) if folder.exists() else []
    return [
        Run(each.name, each.workdir, each.lines, run.config, {}, {}, None, run.is_finished) for each in found
    ]


def _readable(folders: Sequence[epath.Path]) -> list[Run]:
    """The runs of those folders that have logged something."""
    runs = []
    for folder in folders:
        with contextlib.suppress(UserError):
            runs.append(read_run(folder))
    return runs


def _curves(runs: Sequence[Run]) -> Markup:
    """The section of curves; nothing without runs."""
    return section("Curves", part(sections.curves, runs, _charts(runs), AXES)) if runs else Markup("")


def _charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each metric of the evaluations, beside training's where it has the same, then speeds."""
    names = dict.fromkeys(
        name for run in runs for line in run.lines for name in line if name.startswith("eval/")
    )
    names = dict.fromkeys(["eval/loss", *sorted(names, key=lambda name: name.rpartition("/")[2] != "loss")])
    charts = []
    for name in names:
        short = name.rpartition("/")[2]
        training = f"train/{short}" if name.count("/") == 1 else ""
        charts.append(Chart(name.removeprefix("eval/"), training, name, percent=short not in NO_SHARES))
    return [
        *charts,
        Chart("Learning rate", "train/learning_rate"),
        Chart("Gradient norm", "train/grad_norm"),
        Chart("Examples a second", "train/examples_per_second"),
    ]


def _results(run: Run, found: Mapping[str, Any]) -> Markup:
    """The scores of each run at its chosen evaluation, the means of each learning rate, and the test sets'."""
    runs = found.get("runs") or []
    if not runs:
        return paragraph(f"{run.name}: no results yet; the last evaluation is in the curves", note=True)
    metrics = list(runs[0]["metrics"])
    rows = [
        [
            f"seed {each['seed']}" + (" (best)" if index == found["best_run"] else ""),
            f"{each['learning_rate']:g}",
            f"{each['step']:,}",
            *(_score(metric, each["metrics"].get(metric)) for metric in metrics),
        ]
        for index, each in enumerate(runs)
    ]
    means = [
        [
            f"learning rate {rate}",
            metric,
            *(_score(metric, values.get(name)) for name in ("best", "mean", "std")),
        ]
        for rate, summary in (found.get("summary") or {}).items()
        for metric, values in summary.items()
    ]
    tests = [
        [split, metric, _score(metric, value)]
        for split, scores in (found.get("tests") or {}).items()
        for metric, value in scores.items()
    ]
    title = f"{run.name}: {found.get('title', '')}, chosen by {found.get('metric', '')}"
    return join(
        [
            element("h3", text(title)),
            table(["run", "learning rate", "step", *metrics], rows),
            table(["learning rate", "metric", "best", "mean", "standard deviation"], means)
            if len(runs) > 1
            else Markup(""),
            table(["test set", "metric", "best model"], tests),
        ]
    )


def _score(metric: str, value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return (
        f"{value:.4f}" if metric.rpartition("/")[2] in NO_SHARES or abs(value) > 1 else f"{100 * value:.2f}"
    )


def _answers(run: Run) -> Markup:
    """Which classes are taken for which, and examples."""
    kept = read_json(run.workdir / ANSWERS_FILE)
    if not kept:
        return Markup("")
    classes, counts = kept.get("classes") or [], kept.get("confusion")
    chart = heat_map(f"{run.name}: {kept.get('set')}", classes, counts, OTHER) if counts else Markup("")
    confused = table(["true class", "predicted", "number"], kept.get("confused") or [])
    by_class = table(["class", "right", "missed", "wrongly given"], kept.get("by_class") or [])
    examples = [
        [
            each["text"] + (f"\n{each['second']}" if each["second"] else ""),
            each["label"],
            each["predicted"],
            each["certainty"],
        ]
        for each in kept.get("examples") or []
    ]
    last = "mistakes" if by_class else "probability" if classes else "difference"
    columns = kept.get("columns") or ["text", "label", "predicted", last]
    return join(
        [
            section(
                "Confusion",
                element("div", chart, class_="charts") if chart else Markup(""),
                by_class,
                confused if not chart else folded("most frequent mistakes", confused),
            )
            if "columns" not in kept
            else Markup(""),
            section(
                "Examples: largest mistakes first",
                table(columns, examples, numbers=False),
            ),
        ]
    )


def _data(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        [run.name, split, f"{values.get('count', 0):,}", values.get("origin", "")]
        for run, found in zip(runs, results)
        for split, values in (found.get("examples") or {}).items()
        if isinstance(values, Mapping)
    ]
    return section("Data", table(["run", "set", "examples", "source"], rows, numbers=False))


def _of_search(workdir: epath.Path) -> str:
    kept = read_json(workdir / SEARCH_FOLDER / TRIALS_FILE)
    trials = _objects(kept.get("trials"))
    return page(
        f"{workdir.name}: search of {len(trials)} trials",
        part(_trials, trials, str(kept.get("objective", "")), kept.get("best")),
        _curves(_readable([workdir / SEARCH_FOLDER / f"trial-{trial.get('number')}" for trial in trials])),
    )


def _objects(values: Any) -> list[Mapping[str, Any]]:
    """The objects of a JSON list; none if it is no list."""
    return [each for each in values if isinstance(each, Mapping)] if isinstance(values, list) else []


def _trials(trials: Sequence[Mapping[str, Any]], objective: str, best: Any) -> Markup:
    """The trials of a search in parallel coordinates, and in a table."""
    axes = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    lines = [
        (
            f"trial {trial['number']}: {_score(objective, trial['score'])}",
            [*(trial["values"].get(axis) for axis in axes), trial["score"]],
            BEST if trial["number"] == best else OTHER if trial["score"] is not None else ENDED,
        )
        for trial in sorted(trials, key=lambda trial: (trial["number"] == best, trial["score"] is not None))
    ]
    rows = [
        [
            f"{trial['number']}" + (" (best)" if trial["number"] == best else ""),
            *(_value(trial["values"].get(axis)) for axis in axes),
            _score(objective, trial["score"]),
            f"{trial['epochs']:g}",
            formatting.duration(trial["seconds"]),
        ]
        for trial in trials
    ]
    note = (
        "red: the best trial; grey: no score, since it diverged, its objective is NaN, or it was ended early"
    )
    return join(
        [
            section(
                "Trials",
                parallel(f"Values and {objective}", [*axes, objective], lines),
                paragraph(note, note=True),
            ),
            section("All trials", table(["trial", *axes, objective, "epochs made", "time"], rows)),
        ]
    )


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _of_benchmark(workdir: epath.Path) -> str:
    tasks = _objects(read_json(workdir / BENCHMARK_FILE).get("tasks"))
    folders = [workdir / str(task.get("task")) for task in tasks]
    runs = _readable(folders)
    return page(
        f"{workdir.name}: {len(tasks)} tasks",
        part(_tasks, folders),
        _curves(runs),
        part(sections.time_section, runs),
    )


def _tasks(folders: Sequence[epath.Path]) -> Markup:
    """The scores of a benchmark's tasks, in a chart and a table."""
    rows, names, values = list[list[str]](), list[str](), list[float]()
    for folder in folders:
        found = read_json(folder / RESULTS_FILE)
        for rate, summary in (found.get("summary") or {}).items():
            for metric, each in summary.items():
                cells = [_score(metric, each.get(name)) for name in ("best", "mean", "std")]
                rows.append([found.get("title", folder.name), rate, metric, *cells])
                if metric == found.get("metric") and isinstance(each.get("mean"), int | float):
                    names.append(str(found.get("title", folder.name)))
                    values.append(max(100 * each["mean"], 0.0))
    chart = bars(
        "Mean of the metric that chooses", names, values, [f"{value:.2f}" for value in values], colour(0)
    )
    head = ["task", "learning rate", "metric", "best", "mean", "standard deviation"]
    return section("Tasks", chart, table(head, rows))

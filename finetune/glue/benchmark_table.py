"""The results of a benchmark: a table for the terminal and as Markdown, JSON, a picture, and GLUE's average.

The score of a task is defined as on GLUE's leaderboard: the mean of its metrics; for MNLI, the mean over both halves.
The average is the mean of the tasks' scores. All scores are on the evaluation sets, because GLUE hides the labels of
the test sets.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etils import epath
from rich import box
from rich.table import Table
from rich.text import Text

from base import formatting
from data.labelled.tasks import TASKS, find_task
from finetune.population.early_stopping import is_better
from finetune.results.results_file import Summary, as_json
from pretrain.publish.markdown import escape
from pretrain.publish.public_names import shown_source
from pretrain.reports.pictures import png
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.workdir import write_bytes, write_text

NINE = tuple(name for name, task in TASKS.items() if task.dataset == name and task.train)
"""The nine tasks of GLUE."""
HEADER = ("task", "metric", "best", "mean", "std", "time", "train", "eval")
TEXT = ("task", "metric")
"""Columns with text instead of numbers."""
NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
DEBATED = "wnli"
"""Many published averages exclude this task, because its evaluation set contradicts its training set."""
BAR, WHISKER, MEAN = "#2f6fae", "#222222", "#c44e52"


@dataclass(frozen=True)
class Row:
    """The results of one task."""

    task: str
    title: str
    score: Summary
    """Summary of the task's score (0 to 1) over its runs."""
    metrics: Mapping[str, Summary]
    """Summary of each metric, by its name in the results, such as 'matched/accuracy'."""
    runs: int
    learning_rate: float
    """The learning rate with the best mean score."""
    init_from: str
    seconds: float
    examples: Mapping[str, Mapping[str, Any]]
    """For each set: number of examples, origin, and whether it is GLUE's official set."""

    @property
    def unofficial(self) -> list[str]:
        """The names of the sets that differ from GLUE's published sets."""
        return [name for name, examples in self.examples.items() if not examples["official"]]


def row_of(results: Mapping[str, Any]) -> Row:
    """The row of a task, from its results.json. With several learning rates, it has the runs of the best one."""
    task = find_task(results["task"])
    names = [name for name in results["runs"][0]["metrics"] if name.rpartition("/")[2] == task.chooses]
    by_rate: dict[float, list[float]] = {}
    for run in results["runs"]:
        score = statistics.fmean(run["metrics"][name] for name in names)
        by_rate.setdefault(run["learning_rate"], []).append(score)
    rate, *others = by_rate
    for other in others:
        if is_better(task.chooses, statistics.fmean(by_rate[other]), statistics.fmean(by_rate[rate])):
            rate = other
    shown = [name for name in results["runs"][0]["metrics"] if name.rpartition("/")[2] in NAMES]
    summary = results["summary"][f"{rate:g}"]
    return Row(
        task=task.name,
        title=task.title,
        score=Summary.of(by_rate[rate], task.chooses),
        metrics={name: Summary(**summary[name]) for name in shown},
        runs=len(by_rate[rate]),
        learning_rate=rate,
        init_from=results["init_from"],
        seconds=results["seconds"],
        examples=results["examples"],
    )


def averages(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """GLUE's average over these tasks, with and without WNLI: of the best scores and of the mean scores."""
    sets = {"all": list(rows), "without_wnli": [row for row in rows if row.task != DEBATED]}
    return {
        name: {
            "tasks": len(chosen),
            "best": statistics.fmean(row.score.best for row in chosen),
            "mean": statistics.fmean(row.score.mean for row in chosen),
        }
        for name, chosen in sets.items()
        if chosen and (name == "all" or len(chosen) < len(rows))
    }


def table(rows: Sequence[Row]) -> Table:
    """The table for the terminal, 80 columns wide."""
    shown = Table(
        title=_title(rows),
        caption=Text("\n".join(_notes(rows)), style="table.caption"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in HEADER:
        shown.add_column(name, justify="left" if name in TEXT else "right", no_wrap=True)
    for row in rows:
        for cells in _cells(row):
            shown.add_row(*cells)
    shown.add_section()
    for cells in _average_cells(rows):
        shown.add_row(*cells, style="bold")
    return shown


def write_reports(rows: Sequence[Row], workdir: epath.Path) -> list[str]:
    """Write WORKDIR/glue.json, WORKDIR/glue.md and WORKDIR/glue.png.

    If the page or the picture cannot be written, the user gets a warning; the next call tries again.

    Returns:
      The names of the written files.
    """
    known = {
        "tasks": [asdict(row) for row in rows],
        "average": averages(rows),
        "seconds": sum(row.seconds for row in rows),
    }
    write_text(workdir / "glue.json", as_json(known))
    pages: dict[str, Callable[[], None]] = {
        "glue.md": lambda: write_text(workdir / "glue.md", markdown(rows)),
        "glue.png": lambda: write_bytes(workdir / "glue.png", picture(rows)),
    }
    return ["glue.json", *(name for name, write in pages.items() if attempt(name, write))]


def markdown(rows: Sequence[Row]) -> str:
    """The table as a page of Markdown."""
    aligned = [":---" if name in TEXT else "---:" for name in HEADER]
    body = [cells for row in rows for cells in _cells(row)]
    average = [[f"**{cell}**" if cell else "" for cell in cells] for cells in _average_cells(rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, aligned, *body, *average)]
    notes = [f"- {note}".replace("*", r"\*") for note in _notes(rows, escape)]
    return "\n".join([f"# {_title(rows)}", "", *lines, "", *notes, ""])


def picture(rows: Sequence[Row]) -> bytes:
    """The tasks' mean scores as bars, with their standard deviations as whiskers, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    means = [100 * _drawn(row.score.mean) for row in rows]
    stds = [100 * _drawn(row.score.std) for row in rows]
    places = range(len(rows))
    axes.bar(places, means, color=BAR, width=0.65)
    axes.errorbar(places, means, yerr=stds, fmt="none", ecolor=WHISKER, capsize=4, linewidth=1.2)
    for place, row, mean, std in zip(places, rows, means, stds, strict=True):
        axes.annotate(
            f"{100 * row.score.mean:.1f}",
            (place, max(mean, 0) + std),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    drawn = {name: each for name, each in averages(rows).items() if math.isfinite(each["mean"])}
    for name, average in drawn.items():
        label = "average" if name == "all" else "average without WNLI"
        line = "-" if name == "all" else ":"
        mean = 100 * average["mean"]
        axes.axhline(mean, color=MEAN, linewidth=1.2, linestyle=line, label=f"{label} {mean:.1f}", zorder=0)
    axes.set_xticks(places, [row.title for row in rows])
    axes.set_ylabel("Score on the evaluation set, mean and std")
    axes.set_ylim(min(0, *(mean - std for mean, std in zip(means, stds, strict=True))) * 1.1, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title(_title(rows), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9)
    return png(figure)


def _drawn(score: float) -> float:
    """The height of a bar in the picture; 0 for a task whose runs have diverged."""
    return 0.0 if math.isnan(score) else score


def _title(rows: Sequence[Row]) -> str:
    runs = sorted({row.runs for row in rows})
    count = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return f"GLUE: {len(rows)} tasks, {count} run{'s' if count != '1' else ''} each"


def _cells(row: Row) -> list[list[str]]:
    """The lines of a task, one for each metric. The first line also has the values of the whole task."""
    evaluations = {name: examples for name, examples in row.examples.items() if name != "train"}
    lines: list[list[str]] = []
    for name, summary in row.metrics.items():
        half, _, metric = name.rpartition("/")
        values = [f"{100 * value:.2f}" for value in (summary.best, summary.mean, summary.std)]
        evaluated = f"validation_{half}" if half else next(iter(evaluations))
        first = not lines
        lines.append(
            [
                row.title if first else "",
                f"{NAMES[metric]} {half}".strip(),
                *values,
                formatting.duration(row.seconds) if first else "",
                _count(row, "train") if first else "",
                _count(row, evaluated) if first or half else "",
            ]
        )
    return lines


def _count(row: Row, name: str) -> str:
    examples = row.examples[name]
    return f"{examples['count']}{'' if examples['official'] else '*'}"


def _average_cells(rows: Sequence[Row]) -> list[list[str]]:
    seconds = formatting.duration(sum(row.seconds for row in rows))
    lines = []
    for name, average in averages(rows).items():
        values = [f"{100 * average[which]:.2f}" for which in ("best", "mean")]
        label = f"of {average['tasks']:.0f} tasks" if name == "all" else "without WNLI"
        lines.append(["average", label, *values, "", seconds if name == "all" else "", "", ""])
    return lines


def _notes(rows: Sequence[Row], shown: Callable[[str], str] = str) -> list[str]:
    """Notes that a reader needs to compare these scores with others. `shown` escapes names for the page."""
    two = [row.title for row in rows if len(row.metrics) > 1]
    missing = [find_task(name).title for name in NINE if name not in {row.task for row in rows}]
    starts, rates = (
        _by(rows, lambda row: shown_source(row.init_from)),
        _by(rows, lambda row: f"{row.learning_rate:g}"),
    )
    notes = ["scores on the evaluation sets, times 100; std over the runs"]
    if two:
        notes.append(f"the average takes the mean of both metrics of {', '.join(two)}")
    if missing:
        notes.append(f"GLUE has nine tasks; not here: {', '.join(missing)}")
    notes += [f"from {shown(start)}{of}" for start, of in starts.items()]
    notes += [f"learning rate {rate}{of}" for rate, of in rates.items()]
    return notes + [
        f"* {row.title} {name}: {shown(row.examples[name]['origin'])}"
        for row in rows
        for name in row.unofficial
    ]


def _by(rows: Sequence[Row], of: Callable[[Row], str]) -> dict[str, str]:
    """For each value, ': ' and the titles of its tasks; '' if all tasks have the same value."""
    titles: dict[str, list[str]] = {}
    for row in rows:
        titles.setdefault(of(row), []).append(row.title)
    return {value: f": {', '.join(them)}" if len(titles) > 1 else "" for value, them in titles.items()}

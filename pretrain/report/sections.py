"""Parts of a report that runs of both stages have: curves, config, time and memory."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base import formatting, schema
from pretrain.report.charts import Curve, bars, line_chart
from pretrain.report.facts import Run
from pretrain.report.html import (
    Markup,
    by_axis,
    colour,
    element,
    folded,
    join,
    legend,
    paragraph,
    section,
    table,
)
from pretrain.runtime.goodput import BADPUT

logger = logging.getLogger(__name__)

Values = Callable[[Run, Sequence[int]], Sequence[float]]
"""From steps of a run to their places on an axis; [] if they are not known."""
STEPS: tuple[str, Values] = ("steps", lambda run, steps: list(steps))


@dataclass(frozen=True)
class Chart:
    """Metrics that share a chart."""

    title: str
    training: str = ""
    """The metric of training; '' has none."""
    held_out: str = ""
    """The metric of evaluations."""
    dashed: str = ""
    """A metric that is drawn dashed, to compare with."""
    percent: bool = False


def part(make: Callable[..., Markup], *arguments: Any) -> Markup:
    """A part of a report; of files that are damaged, only a note of what is wrong.

    Args:
      make: makes it.
      arguments: of `make`.
    """
    try:
        return make(*arguments)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        place = traceback.extract_tb(error.__traceback__)[-1]
        logger.warning(
            "a part of the report is left out: %s (%s line %d)", said, Path(place.filename).name, place.lineno
        )
        return paragraph(f"A part is left out, since a file that it shows is damaged ({said}).", note=True)


def curves(runs: Sequence[Run], charts: Sequence[Chart], axes: Sequence[tuple[str, Values]]) -> Markup:
    """The metrics of runs, each run in its colour, against each of the axes.

    Args:
      runs: the runs.
      charts: what is drawn together.
      axes: names of the axes, and the places of steps on them.
    """
    drawn = {
        name: join([each for chart in charts if (each := _chart(runs, chart, name, values))])
        for name, values in axes
    }
    grids = {name: element("div", content, class_="charts") for name, content in drawn.items() if content}
    if not grids:
        return paragraph("nothing is logged yet", note=True)
    dashed = "; dashed: token frequencies alone" if any(chart.dashed for chart in charts) else ""
    note = f"thin: training; with marks: held-out{dashed}. A point shows its value on hovering."
    return join([legend([run.name for run in runs]), by_axis("curves", grids), paragraph(note, note=True)])


def _chart(runs: Sequence[Run], chart: Chart, axis: str, values: Values) -> Markup:
    found = []
    for index, run in enumerate(runs):
        for metric, kind in ((chart.training, "faint"), (chart.dashed, "dashed"), (chart.held_out, "curve")):
            steps, y = run.series(metric) if metric else ([], [])
            x = values(run, steps) if steps else []
            if len(x) == len(y) > 0:
                kind = "curve" if kind == "faint" and not chart.held_out else kind
                found.append(
                    Curve(f"{run.name} {metric}", x, y, colour(index), kind, metric == chart.held_out)
                )
    return line_chart(chart.title, found, axis, percent=chart.percent)


def config_section(runs: Sequence[Run], default: Any) -> Markup:
    """The config of a run, or the differences between the configs of several.

    Args:
      runs: the runs.
      default: the config dataclass with its defaults.
    """
    flat = [schema.flatten(_completed(run.config, type(default))) for run in runs]
    names = list(dict.fromkeys(name for each in flat for name in each))
    missing = "(not set)"
    if len(runs) > 1:
        rows = [[name, *(each.get(name, missing) for each in flat)] for name in names]
        differ = [row for row in rows if any(_shown(cell) != _shown(row[1]) for cell in row[2:])]
        head = ["config.", *(run.name for run in runs)]
        shown = table(head, [[row[0], *map(_shown, row[1:])] for row in differ], numbers=False)
        same = folded(
            "fields that all runs share",
            table(
                ["config.", "value"],
                [[row[0], _shown(row[1])] for row in rows if row not in differ],
                numbers=False,
            ),
        )
        return section("Config: what differs", shown or paragraph("the configs are the same"), same)
    usual = schema.flatten(schema.as_dict(default))
    rows = [[name, _shown(flat[0][name]), _shown(usual.get(name, missing))] for name in names]
    changed = [row for row in rows if row[1] != row[2]]
    return section(
        "Config",
        table(["config.", "value", "default"], changed, numbers=False),
        folded("all fields", table(["config.", "value"], [row[:2] for row in rows], numbers=False)),
    )


def _completed(config: Mapping[str, Any], kind: type) -> Mapping[str, Any]:
    """A config with the fields that are newer than it; as it is, if it is damaged."""
    try:
        return schema.completed(config, kind)
    except (LookupError, TypeError, AttributeError, ValueError):
        return config


def _shown(value: Any) -> str:
    return "(not set)" if value is None else "()" if value in ([], ()) else str(value)


def time_section(runs: Sequence[Run]) -> Markup:
    """What the time of each run went to, over all of its calls."""
    parts = []
    for index, run in enumerate(runs):
        if run.spent is None or not run.spent.total:
            continue
        named = {"steps that count": run.spent.seconds["step"]}
        named |= {name: run.spent.seconds[category] for category, name in BADPUT.items()}
        named = {name: seconds for name, seconds in named.items() if seconds >= 0.0005 * run.spent.total}
        labels = [
            f"{formatting.duration(each)}, {formatting.percent(each / run.spent.total)}"
            for each in named.values()
        ]
        calls = f", {run.spent.calls} calls" if run.spent.calls > 1 else ""
        title = f"{run.name}: {formatting.duration(run.spent.total)}{calls}"
        parts.append(bars(title, list(named), list(named.values()), labels, colour(index)))
    return section("Time", element("div", join(parts), class_="charts") if parts else Markup(""))


def memory_section(runs: Sequence[Run]) -> Markup:
    """The devices of each run, and what it takes of their memory."""
    rows = []
    for run in runs:
        memory = run.start.get("memory")
        if not isinstance(memory, Mapping):
            continue
        sizes = [memory.get(name) for name in ("params", "optimizer", "temporary", "limit")]
        mesh = ", ".join(f"{name}={size}" for name, size in (run.start.get("mesh") or {}).items())
        rows.append(
            [
                run.name,
                run.start.get("devices", "?"),
                mesh or "one device",
                *("-" if size is None else formatting.size(size) for size in sizes),
            ]
        )
    head = ["run", "devices", "mesh", "params", "optimiser", "step", "memory of a device"]
    return section("Memory of each device", table(head, rows))


def names_of(places: Sequence[Any]) -> list[str]:
    """Names for workdirs: the folders' names, or whole paths where two have one name."""
    short = [place.name for place in places]
    return [name if short.count(name) == 1 else str(place) for name, place in zip(short, places)]


def state_of(run: Run) -> str:
    """How far a run has come."""
    return f"step {run.step:,}" + ("" if run.is_finished else ", not finished")

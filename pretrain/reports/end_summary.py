"""The summary at the end of a run: a picture of its loss, and a table of its results."""

import statistics
from collections.abc import Sequence
from typing import Any

from etils import epath
from rich.table import Table

from base import formatting
from pretrain.objective.token_frequencies import FREQUENCY_LOSS
from pretrain.reports.metric_writer import FILE_NAME, Line, read_metrics
from pretrain.reports.pictures import png
from pretrain.runtime.optional_outputs import attempt

LOSS_CURVE = "loss_curve.png"
TRAIN, HELD_OUT = "#9bb8d8", "#c44e52"
SMOOTHED = "#2f6fae"
FREQUENCIES = "#7a7a7a"
SMOOTHING_POINTS = 100
"""From this number of points on, training metrics are drawn faintly, with a running mean over a fiftieth of them."""


def series(lines: Sequence[Line], name: str) -> tuple[list[int], list[float]]:
    """The steps at which a metric is known, and its values at these steps."""
    known = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in known], [value for _, value in known]


def draw_loss_curve(workdir: epath.Path, folder: epath.Path, *, remedy: str) -> bool:
    """Draw a run's loss curve. A failure is only a warning.

    Args:
      workdir: the run's folder.
      folder: the folder for loss_curve.png.
      remedy: how the user gets the picture after a failure, for the warning.

    Returns:
      Whether the picture was drawn.
    """
    drawn: list[bool] = []
    attempt(
        LOSS_CURVE,
        lambda: drawn.append(write_loss_curve(workdir / FILE_NAME, folder / LOSS_CURVE)),
        remedy=remedy,
    )
    return any(drawn)


def write_loss_curve(metrics: epath.PathLike, out: epath.PathLike) -> bool:
    """Draw training and held-out loss and accuracy over the steps, as a PNG.

    Args:
      metrics: the run's metrics.jsonl.
      out: the path of the picture, local or gs://.

    Returns:
      Whether the picture was written; it is not if there is no training loss yet.
    """
    lines = read_metrics(metrics)
    if not series(lines, "train/loss")[0]:
        return False
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(8, 6), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    loss, accuracy = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw(loss, lines, "loss", "Loss (nats per predicted token)", scale=1.0, digits=3)
    _draw(accuracy, lines, "accuracy", "Accuracy (%)", scale=100.0, digits=1)
    accuracy.set_xlabel("Step")
    accuracy.set_ylim(bottom=0)
    epath.Path(out).write_bytes(png(figure))
    return True


def _draw(axes: Any, lines: Sequence[Line], name: str, label: str, *, scale: float, digits: int) -> None:
    """Draw the training and held-out values of one metric. The legend has the last values."""
    steps, values = series(lines, f"train/{name}")
    values = [scale * value for value in values]
    if len(values) >= SMOOTHING_POINTS:
        axes.plot(steps, values, color=TRAIN, linewidth=0.8)
        values = _running_mean(values, len(values) // 100)
    if values:
        axes.plot(
            steps, values, color=SMOOTHED, linewidth=1.6, label=f"training, last {values[-1]:.{digits}f}"
        )
    steps, values = series(lines, f"eval/{name}")
    values = [scale * value for value in values]
    if values:
        text = f"held-out, last {values[-1]:.{digits}f}"
        axes.plot(steps, values, color=HELD_OUT, linewidth=1.6, marker="o", markersize=4, label=text)
    steps, values = series(lines, FREQUENCY_LOSS)
    if name == "loss" and values:
        text = f"token frequencies alone, {values[-1]:.{digits}f}"
        axes.plot(
            [0, *steps], [values[0], *values], color=FREQUENCIES, linestyle="--", linewidth=1.2, label=text
        )
    axes.set_ylabel(label)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean over each point and `reach` points on each side. Near the ends, both sides have equally fewer points, so
    that the mean does not lag."""
    last = len(values) - 1
    reaches = [min(reach, index, last - index) for index in range(len(values))]
    return [statistics.fmean(values[index - r : index + r + 1]) for index, r in enumerate(reaches)]


def summary(lines: Sequence[Line]) -> Table:
    """The results of a run as a table for rich, from the lines of its metrics.jsonl.

    The table has the first, last and best losses, with the step of the best one. It has the medians of tokens per
    second and MFU, because a median is robust to the first interval and to pauses. And it has the mean share of time
    that steps waited for data, and the last goodput.
    """
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("metric")
    for name in ("first", "last", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, text, better in (
        ("train/loss", "training loss", min),
        ("eval/loss", "held-out loss", min),
        ("eval/average_loss", "held-out loss of the average", min),
        (FREQUENCY_LOSS, "token frequencies alone", min),
        ("eval/perplexity", "held-out perplexity", min),
        ("eval/accuracy", "held-out accuracy", max),
    ):
        steps, values = series(lines, name)
        if values:
            best = better(values)
            shown = formatting.percent if name.endswith("accuracy") else lambda value: f"{value:.4g}"
            table.add_row(
                text, shown(values[0]), shown(values[-1]), f"{shown(best)} at {steps[values.index(best)]}"
            )
    table.add_section()
    for name, text, middle, shown in (
        ("train/tokens_per_second", "tokens per second, median", statistics.median, formatting.count),
        ("train/mfu", "MFU, median", statistics.median, formatting.percent),
        ("train/data_wait", "waiting for data, mean", statistics.fmean, formatting.percent),
        ("train/goodput", "goodput, last", lambda values: values[-1], formatting.percent),
    ):
        _, values = series(lines, name)
        if values:
            table.add_row(text, "", shown(middle(values)), "")
    return table

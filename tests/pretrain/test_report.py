"""The loss curve and the table at the end of a run."""

import io
import json
import math

import pytest
from rich.console import Console

from pretrain.reports.end_summary import series, summary, write_loss_curve

LINES = [
    {
        "step": 10,
        "train/loss": 9.0,
        "train/tokens_per_second": 100.0,
        "train/mfu": 0.1,
        "train/data_wait": 0.3,
    },
    {
        "step": 20,
        "train/loss": None,
        "train/tokens_per_second": 5000.0,
        "train/mfu": 0.4,
        "train/data_wait": 0.0,
    },
    {"step": 20, "eval/loss": 8.5, "eval/accuracy": 0.1, "eval/perplexity": 4914.8},
    {
        "step": 30,
        "train/loss": 6.0,
        "train/tokens_per_second": 5200.0,
        "train/mfu": 0.42,
        "train/data_wait": 0.0,
    },
    {
        "step": 40,
        "train/loss": 6.5,
        "train/tokens_per_second": 5240.0,
        "train/mfu": 0.41,
        "train/data_wait": 0.1,
    },
    {"step": 40, "eval/loss": 8.75, "eval/accuracy": 0.125, "eval/perplexity": 6310.7},
]


def test_series_leave_out_what_is_not_known():
    assert series(LINES, "train/loss") == ([10, 30, 40], [9.0, 6.0, 6.5])


def test_summary_has_first_last_best_and_robust_rates():
    console = Console(file=io.StringIO(), width=80)
    console.print(summary(LINES))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["training", "loss", "9", "6.5", "6", "at", "30"] in rows
    assert ["held-out", "loss", "8.5", "8.75", "8.5", "at", "20"] in rows
    assert ["held-out", "accuracy", "10.0%", "12.5%", "12.5%", "at", "40"] in rows
    assert ["tokens", "per", "second,", "median", "5.1k"] in rows
    assert ["MFU,", "median", "40.5%"] in rows
    assert ["waiting", "for", "data,", "mean", "10.0%"] in rows


def test_summary_of_a_run_without_metrics_is_empty():
    assert summary([]).row_count == 0


def training_curves(losses, folder, monkeypatch):
    """What is drawn of the training loss: the curves of the upper axes, as lists of values."""
    figures = []
    monkeypatch.setattr("pretrain.reports.end_summary.png", lambda figure: figures.append(figure) or b"")
    lines = [json.dumps({"step": step, "train/loss": loss}) for step, loss in enumerate(losses, 1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    write_loss_curve(folder / "metrics.jsonl", folder / "loss.png")
    return [list(line.get_ydata()) for line in figures[0].axes[0].lines]


def test_a_long_curve_has_a_running_mean_that_looks_to_both_sides_evenly(tmp_path, monkeypatch):
    """Of 200 points, two to each side count; fewer near the ends, so that it begins and ends where the curve does."""
    losses = [float(step) for step in range(200)]
    assert training_curves(losses, tmp_path, monkeypatch) == [losses, losses]
    losses[100], losses[1], losses[-1] = 105.0, 4.0, 197.0
    faint, mean = training_curves(losses, tmp_path, monkeypatch)
    assert faint == losses
    assert mean[97:104] == [97.0, 99.0, 100.0, 101.0, 102.0, 103.0, 103.0]
    assert mean[:4] == [0.0, 2.0, 2.6, 3.6]
    assert mean[-3:] == [196.6, 592 / 3, 197.0]


def test_a_short_curve_is_drawn_as_it_is(tmp_path, monkeypatch):
    losses = [9.0, 3.0] * 49
    assert training_curves(losses, tmp_path, monkeypatch) == [losses]


@pytest.mark.parametrize("points", [3, 400])
def test_loss_curve_is_a_picture(tmp_path, points):
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for index in range(1, points):
            values = {"train/loss": 10 * math.exp(-index / points), "train/accuracy": index / points}
            file.write(json.dumps({"step": index, **values}) + "\n")
        file.write(json.dumps({"step": points, "eval/loss": 5.0, "eval/accuracy": 0.5}) + "\n")
    assert write_loss_curve(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    from matplotlib.image import imread

    picture = imread(tmp_path / "loss.png")
    assert picture.shape[:2] == (720, 960)
    assert picture[..., :3].min() < 0.5 < picture[..., :3].mean(), "dark marks on a light ground"


def test_without_a_training_loss_there_is_no_picture(tmp_path):
    assert not write_loss_curve(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()

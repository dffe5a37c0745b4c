"""A picture of what the best model gets right and wrong: a confusion matrix of classes, a scatter of scores."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

CELLS = 20
"""Matrices of more classes than this show no numbers."""


def write_picture(
    predictions: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str, out: epath.Path
) -> None:
    """Draw predictions against labels as a PNG.

    Args:
      predictions: class ids or scores [n].
      labels: the true ones [n].
      names: of the classes by id; empty for scores.
      title: over the picture.
      out: the file, local or gs://.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    if names:
        _confusion_matrix(figure, axes, predictions, labels, names)
    else:
        _scatter(axes, predictions, labels)
    axes.set_title(title, fontsize=10)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    out.write_bytes(buffer.getvalue())


def _confusion_matrix(
    figure: Any, axes: Any, predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    count = len(names)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    ticks = range(count)
    axes.set_xticks(ticks, names, rotation=30 if max(map(len, names)) > 8 else 0, ha="center")
    axes.set_yticks(ticks, names)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    if count <= CELLS:
        for (row, column), value in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(value), ha="center", va="center", color=color, fontsize=9)


def _scatter(axes: Any, predictions: np.ndarray, labels: np.ndarray) -> None:
    low = float(min(predictions.min(), labels.min()))
    high = float(max(predictions.max(), labels.max()))
    axes.plot([low, high], [low, high], color="#bbbbbb", linewidth=1)
    axes.scatter(labels, predictions, s=6, alpha=0.4, color="#2f6fae", edgecolors="none")
    axes.set_xlabel("True score")
    axes.set_ylabel("Predicted score")
    axes.spines[["top", "right"]].set_visible(False)

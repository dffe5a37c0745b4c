"""A picture of the best model's predictions: a confusion matrix, F1 of classes or answers, ranks, or a scatter plot."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.results.exact_match import f1
from pretrain.reports.pictures import MISSING, literal, png

CELLS = 20
"""With more classes than this, the matrix shows no numbers."""
MOST_NAMES = 60
"""With more classes than this, the names of some classes are left out."""
MOST_CLASSES = 500
"""With more classes than this, the matrix shows only the most frequent classes."""
RANKS = (1, 3, 10, 100)
"""The last ranks of the groups in which ranks are counted."""
NAME_LENGTH, TITLE_LENGTH = 24, 60


def picture(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """Draw predictions against labels, and return the contents of a PNG file.

    Args:
      predictions: predicted class ids or scores [n], or whether each example has each class [n, C].
      labels: true class ids or scores [n], or 1 for each class of an example [n, C].
      names: names of the classes, by id; empty for scores.
      title: title of the picture.
    """
    from matplotlib.figure import Figure

    sets = labels.ndim > 1
    if sets and len(names) > MOST_NAMES:
        kept = np.sort(np.argsort(-labels.sum(axis=0), kind="stable")[:MOST_NAMES])
        title = f"{title}, {MOST_NAMES} of {len(names)} classes"
        predictions, labels, names = predictions[:, kept], labels[:, kept], [names[index] for index in kept]
    if len(names) > MOST_CLASSES:
        predictions, labels, names, title = _most_frequent(predictions, labels, names, title)
    side = 5 + 0.11 * max(min(len(names), MOST_NAMES) - CELLS, 0)  # inches
    figure = Figure(figsize=(side + 1, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    if sets:
        _bars(axes, predictions, labels > 0, names)
    elif names:
        _confusion_matrix(figure, axes, predictions, labels, names)
    else:
        _scatter(axes, predictions, labels)
    over = literal([title], longest=TITLE_LENGTH)
    figure.suptitle(over.texts[0], fontsize=10, **over.style)
    return png(figure)


def picture_of_ranks(ranks: np.ndarray, title: str) -> bytes:
    """Draw the ranks of right answers, and return the contents of a PNG file.

    Args:
      ranks: from 1, [n].
      title: title of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    names = ["1", *(f"{low + 1} to {high}" for low, high in itertools.pairwise(RANKS)), f"over {RANKS[-1]}"]
    groups = np.searchsorted(RANKS, ranks)
    axes.bar(names, 100 * np.bincount(groups, minlength=len(names)) / len(ranks), color="#2f6fae")
    axes.set_xlabel("Rank of the right text")
    axes.set_ylabel("Share, %")
    axes.spines[["top", "right"]].set_visible(False)
    over = literal([title], longest=TITLE_LENGTH)
    figure.suptitle(over.texts[0], fontsize=10, **over.style)
    return png(figure)


def picture_of_answers(answers: Sequence[str], references: np.ndarray, title: str) -> bytes:
    """Draw how near answers are to the right ones, and return the contents of a PNG file.

    Args:
      answers: the texts of the answers, [n].
      references: the right answers, `data.labelled.questions.Reference` [n].
      title: title of the picture.
    """
    from matplotlib.figure import Figure

    names = ("wrong", "F1 below 50%", "F1 50% or more", "right")
    nearness = [f1(answer, each.texts) for answer, each in zip(answers, references, strict=True)]
    groups = np.searchsorted((1e-9, 0.5, 1.0), nearness, side="right")
    lacking = np.array([not each.answers for each in references])
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    below = np.zeros(len(names))
    for name, chosen, color in (("has an answer", ~lacking, "#2f6fae"), ("has none", lacking, "#a8b0ba")):
        if chosen.any():
            shares = 100 * np.bincount(groups[chosen], minlength=len(names)) / len(groups)
            axes.bar(names, shares, bottom=below, color=color, label=name)
            below += shares
    if lacking.any():
        axes.legend(frameon=False)
    axes.set_ylabel("Share of questions, %")
    axes.spines[["top", "right"]].set_visible(False)
    over = literal([title], longest=TITLE_LENGTH)
    figure.suptitle(over.texts[0], fontsize=10, **over.style)
    return png(figure)


def _most_frequent(
    predictions: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str
) -> tuple[np.ndarray, np.ndarray, Sequence[str], str]:
    """The examples whose label and prediction are among the most frequent classes. These classes get new ids."""
    counts = np.bincount(labels, minlength=len(names))
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES])
    inside = np.isin(labels, kept) & np.isin(predictions, kept)
    return (
        np.searchsorted(kept, predictions[inside]),
        np.searchsorted(kept, labels[inside]),
        [names[index] for index in kept],
        f"{title}, {MOST_CLASSES} of {len(names)} classes",
    )


def _confusion_matrix(
    figure: Any, axes: Any, predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    count = len(names)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    _name_classes(axes, names)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True")
    if count <= CELLS:
        for (row, column), value in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(value), ha="center", va="center", color=color, fontsize=9)


def _name_classes(axes: Any, names: Sequence[str]) -> None:
    """Write the names at the rows and columns, and rotate them if they would overlap.

    If the fonts lack a character of a name, the class's id stands before the name.
    """
    ticks = range(0, len(names), -(-len(names) // MOST_NAMES))
    shown = literal([names[tick] for tick in ticks], longest=NAME_LENGTH)
    texts = [f"{tick} {text}" if MISSING in text else text for tick, text in zip(ticks, shown.texts)]
    size = 10 if len(names) <= CELLS // 2 else 8 if len(names) <= CELLS else 6
    level = sum(map(len, texts)) <= 40 and max(map(len, texts)) <= 8
    turned: dict[str, Any] = {"rotation": 0 if level else 45 if len(names) <= CELLS else 90}
    if not level:
        turned |= {"ha": "right", "va": "center" if len(names) > CELLS else "top", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, texts, fontsize=size, **turned, **shown.style)
    axes.set_yticks(ticks, texts, fontsize=size, **shown.style)


def _bars(axes: Any, predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """The F1 of each class, where an example may have several."""
    both = (predictions & labels).sum(axis=0)
    either = predictions.sum(axis=0) + labels.sum(axis=0)
    shown = literal(list(names), longest=NAME_LENGTH)
    axes.barh(range(len(names)), 2 * both / np.maximum(either, 1), color="#2f6fae")
    axes.set_yticks(range(len(names)), shown.texts, fontsize=8, **shown.style)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1")
    axes.spines[["top", "right"]].set_visible(False)


def _scatter(axes: Any, predictions: np.ndarray, labels: np.ndarray) -> None:
    known = np.isfinite(predictions)  # a model that has diverged has no finite predictions
    predictions, labels = predictions[known], labels[known]
    if known.any():
        low = float(min(predictions.min(), labels.min()))
        high = float(max(predictions.max(), labels.max()))
        axes.plot([low, high], [low, high], color="#bbbbbb", linewidth=1)
    axes.scatter(labels, predictions, s=6, alpha=0.4, color="#2f6fae", edgecolors="none")
    axes.set_xlabel("True score")
    axes.set_ylabel("Predicted score")
    axes.spines[["top", "right"]].set_visible(False)

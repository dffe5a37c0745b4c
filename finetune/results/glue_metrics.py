"""Scores of predictions, as GLUE defines them (Wang et al. 2019), computed by scikit-learn and scipy.

Where a score is not defined it is 0.0, as scikit-learn has it: the predictions tell nothing about the labels. That is
F1 where the positive class is neither there nor predicted, Matthews where predictions or labels are all the same, and
the correlations there or with fewer than two examples. Predictions that are no numbers have the score NaN.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int, Num

POSITIVE = 1
"""The class whose F1 GLUE reports."""

Classes = Int[np.ndarray, "n"]
Values = Float[np.ndarray, "n"]


def accuracy(predictions: Classes, labels: Classes) -> float:
    """The share of the examples whose class is predicted."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(predictions: Classes, labels: Classes) -> float:
    """F1 of class 1."""
    return _f1(predictions, labels, [POSITIVE])


def f1_macro(predictions: Classes, labels: Classes) -> float:
    """The mean of every class's F1, over the classes that are there or predicted."""
    return _f1(predictions, labels, None)


def matthews(predictions: Classes, labels: Classes) -> float:
    """Matthews' correlation coefficient, of any number of classes."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(predictions) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: Values, labels: Values) -> float:
    """Pearson's correlation coefficient, of values as they are."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Values, labels: Values) -> float:
    """Spearman's correlation coefficient, of their ranks."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {metric.__name__: metric for metric in (accuracy, f1, f1_macro, matthews, pearson, spearman)}
)
COMBINED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"accuracy_f1": ("accuracy", "f1"), "pearson_spearman": ("pearson", "spearman")}
)
"""Means of two, by which GLUE ranks MRPC, QQP and STS-B."""


def scores(
    names: Sequence[str], predictions: Num[np.ndarray, "n"], labels: Num[np.ndarray, "n"]
) -> dict[str, float]:
    """Each named metric, single or combined, in the order of the names.

    Args:
      names: of METRICS or COMBINED.
      predictions: ids of classes, or scores.
      labels: the same of the truth.

    Raises:
      ValueError: no examples, or not as many predictions as labels.
    """
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(
            f"{predictions.shape} predictions of {labels.shape} labels; both should be [n], n > 0"
        )
    singles = dict.fromkeys(part for name in names for part in COMBINED.get(name, (name,)))
    values = {name: METRICS[name](predictions, labels) for name in singles}
    return {
        name: sum(values[part] for part in parts) / len(parts)
        for name, parts in ((name, COMBINED.get(name, (name,))) for name in names)
    }


def _f1(predictions: Classes, labels: Classes, classes: list[int] | None) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, labels=classes, average="macro", zero_division=0.0))


def _correlation(of: Callable, predictions: Values, labels: Values) -> float:
    predictions, labels = predictions.astype(np.float64), labels.astype(np.float64)
    if not np.isfinite(predictions).all():
        return float("nan")
    if _constant(predictions) or _constant(labels):
        return 0.0
    from scipy.stats import NearConstantInputWarning

    with warnings.catch_warnings():
        # Of predictions that differ in their last digits only; the coefficient is then that of these digits.
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return float(of(predictions, labels).statistic)


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))

"""Scores of predictions, as GLUE defines them (Wang et al. 2019), computed by scikit-learn and scipy.

An undefined score is 0.0, as in scikit-learn, because the predictions tell nothing about the labels. F1 is undefined if
the positive class occurs neither in the labels nor in the predictions. Matthews' and the other correlations are
undefined if all predictions or all labels are equal; a single example is such a case. The correlations of predictions
that are not finite are NaN.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int, Num

POSITIVE = 1
"""Id of the class whose F1 GLUE reports."""

Classes = Int[np.ndarray, "n"]
Values = Float[np.ndarray, "n"]


def accuracy(predictions: Classes, labels: Classes) -> float:
    """The share of the examples with the right prediction."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(predictions: Classes, labels: Classes) -> float:
    """F1 of class 1."""
    return _f1(predictions, labels, [POSITIVE])


def f1_macro(predictions: Classes, labels: Classes) -> float:
    """The mean F1 over the classes that occur in the labels or the predictions."""
    return _f1(predictions, labels, None)


def matthews(predictions: Classes, labels: Classes) -> float:
    """Matthews' correlation coefficient, for any number of classes."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(predictions) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: Values, labels: Values) -> float:
    """Pearson's correlation coefficient: the correlation of the values."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Values, labels: Values) -> float:
    """Spearman's correlation coefficient: the correlation of the ranks."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {metric.__name__: metric for metric in (accuracy, f1, f1_macro, matthews, pearson, spearman)}
)
COMBINED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"accuracy_f1": ("accuracy", "f1"), "pearson_spearman": ("pearson", "spearman")}
)
"""Means of two metrics. GLUE ranks MRPC, QQP and STS-B by them."""


def scores(
    names: Sequence[str], predictions: Num[np.ndarray, "n"], labels: Num[np.ndarray, "n"]
) -> dict[str, float]:
    """Compute metrics, single or combined, in the order of the names.

    Args:
      names: names from METRICS or COMBINED.
      predictions: predicted class ids or scores [n].
      labels: true class ids or scores [n].

    Raises:
      ValueError: there are no examples, or the numbers of predictions and labels differ.
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
        # scipy warns of predictions that differ only in their last digits. The coefficient measures these digits then.
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return float(of(predictions, labels).statistic)


def _constant(values: np.ndarray) -> bool:
    return bool(np.all(values == values[0]))

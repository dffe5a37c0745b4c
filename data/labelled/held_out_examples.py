"""Training examples that are held out for evaluation if there is no validation file.

The choice depends on the examples and on config.data.validation_share alone, not on the run's seed. So runs that are
compared with each other, and finetune.evaluate, hold out the same examples.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.random_orders import permutation

logger = logging.getLogger(__name__)

SHARE = "config.data.validation_share"
FILE = "config.data.validation"


def check_share(config: LabelledConfig) -> None:
    """Refuse a validation_share outside [0, 1).

    Raises:
      UserError: the share is outside that range.
    """
    share = config.validation_share
    if not 0 <= share < 1:
        raise UserError(f"{SHARE}={share:g} should be 0 or more and below 1")


def held_out(
    config: LabelledConfig,
    texts: Sequence[Sequence[Any]],
    labels: Sequence[Any],
    *,
    by_class: bool | None = None,
) -> Bool[np.ndarray, "n"]:
    """Choose the training examples to hold out: a share of each class, or of all examples if labels are scores.

    Examples with the same texts stay together; they count for the class of the first. If a class has at least two
    distinct examples, at least one of them is held out and at least one is kept.

    Args:
      config: the run's config.data.
      texts: first texts [n], and second texts [n] if examples are pairs.
      labels: ids of classes, or scores [n].
      by_class: whether to draw the same share of each class; None does so unless config.regression is set.

    Returns:
      Whether each example is held out.

    Raises:
      UserError: no example would be held out.
    """
    share = config.validation_share
    by_class = not config.regression if by_class is None else by_class
    if not share:
        raise UserError(
            f"{FILE} is empty and {SHARE}=0, so there is nothing to evaluate on; set {FILE} to files, or the share of "
            f"the training file to hold out, such as {LabelledConfig.validation_share:g}"
        )
    alike: dict[tuple[Any, ...], list[int]] = {}
    for row, each in enumerate(zip(*texts, strict=True)):
        alike.setdefault(each, []).append(row)
    strata: dict[Any, list[list[int]]] = {}
    for rows in alike.values():
        strata.setdefault(labels[rows[0]] if by_class else 0, []).append(rows)
    held = np.zeros(len(labels), bool)
    for stratum, parts in sorted(strata.items()):
        for rows in _drawn(parts, share, stratum):
            held[rows] = True
    if not held.any():
        raise UserError(
            f"{FILE} is empty, and of {len(labels)} training examples none can be held out; set {FILE} to files"
        )
    logger.info(
        "%s is empty: %d of %d training examples are held out to evaluate on, %s (%s=%g)",
        *(
            FILE,
            held.sum(),
            held.size,
            "the same share of each class" if by_class else "drawn from all",
        ),
        *(SHARE, share),
    )
    return held


def _drawn(parts: list[list[int]], share: float, stratum: int) -> list[list[int]]:
    """Random parts of a class that make up a share of its examples: at least one of several parts, never all."""
    due = max(1, round(share * sum(map(len, parts))))
    drawn: list[list[int]] = []
    for index in permutation(len(parts), "held out", stratum)[: len(parts) - 1]:
        if len(parts[index]) <= due:
            drawn.append(parts[index])
            due -= len(parts[index])
    return drawn or [min(parts, key=len)][: len(parts) - 1]

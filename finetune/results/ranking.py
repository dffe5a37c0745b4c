"""How well the second text of each pair is found among all second texts: ranks, and the usual scores of ranks.

The nearest text by cosine has rank 1. Each first text has one right answer, so the ideal gain of nDCG is 1. Equal
second texts are one candidate. A candidate that is as near as the right one counts as nearer, so a model that gives all
texts the same vector scores worst. Memory is bounded: similarities are computed for a block of first texts at a time.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

MOST_SIMILARITIES = 1 << 24
"""Of a block."""
DEPTH = 10
"""Ranks beyond it do not count for nDCG and the second recall."""


def ranks(vectors: Float[np.ndarray, "n 2 D"], numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The rank, from 1, of the second text of each pair.

    Args:
      vectors: of both texts, of equal norm.
      numbers: of the second texts; equal texts have the same number.
    """
    found = [
        np.sum(similar >= similar[np.arange(len(own)), own][:, None], axis=1)
        for similar, own in _blocks(vectors, numbers)
    ]
    return np.concatenate(found)


def ranking_scores(places: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Recall at 1 and 10, mean reciprocal rank, and nDCG at 10 (Järvelin and Kekäläinen 2002)."""
    return {
        "recall_at_1": float(np.mean(places == 1)),
        "recall_at_10": float(np.mean(places <= DEPTH)),
        "mrr": float(np.mean(1 / places)),
        "ndcg_at_10": float(np.mean(np.where(places <= DEPTH, 1 / np.log2(1 + places), 0.0))),
    }


def ranking_loss(vectors: Float[np.ndarray, "n 2 D"], numbers: Int[np.ndarray, "n"]) -> float:
    """The mean cross-entropy of the right second text among all second texts, by their dot products."""
    total = 0.0
    for similar, own in _blocks(vectors, numbers):
        highest = similar.max(axis=1)
        normaliser = np.log(np.exp(similar - highest[:, None]).sum(axis=1, dtype=np.float64)) + highest
        total += float(np.sum(normaliser - similar[np.arange(len(own)), own]))
    return total / len(vectors)


def _blocks(
    vectors: Float[np.ndarray, "n 2 D"], numbers: Int[np.ndarray, "n"]
) -> Iterator[tuple[Float[np.ndarray, "Q C"], Int[np.ndarray, "Q"]]]:
    """Yield the dot products of some first texts with all m second texts, and the place of the right one of each."""
    _, first, own = np.unique(numbers, return_index=True, return_inverse=True)
    candidates = np.ascontiguousarray(vectors[first, 1]).T
    size = max(MOST_SIMILARITIES // len(first), 1)
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size, 0] @ candidates, own[start : start + size]

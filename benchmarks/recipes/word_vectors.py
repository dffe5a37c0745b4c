"""Vectors of tokens from counts of their neighbours in the training text, as the start of the word embedding.

Tokens with similar neighbours have similar vectors: a factorisation of pointwise mutual information (Levy and Goldberg
2014; Levy, Goldberg and Dagan 2015 for the weights). A network learns such vectors in any case, and slowly, since most
tokens are rare. The counts take seconds.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

WINDOW = 5
"""Tokens to each side that are counted; one at a distance of d counts 1 / d."""
SMOOTHING = 0.75
"""Power of a neighbour's frequency, so that rare neighbours say less."""
POWER = 0.5
"""Power of the singular values that weigh the axes."""
SPARE, ROUNDS = 32, 6
"""Columns beyond the width, and products, of the randomised factorisation (Halko et al. 2011)."""
COUNTED_TOGETHER = 2_000_000


def word_vectors(
    ids: Int[np.ndarray, "..."], *, size: int, width: int, special: int
) -> Float[np.ndarray, "V D"]:
    """Vectors of all tokens with a root mean square of 1; zeros for special tokens and those that never occur.

    Args:
      ids: the text, documents joined, [T].
      size: tokens of the vocabulary, V.
      width: D.
      special: so many first ids are special tokens, which are not counted.
    """
    information = _positive_information(_counts(ids, size, special))
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(size, min(width + SPARE, size))).astype(np.float32)
    for _ in range(ROUNDS):
        basis = np.linalg.qr(information @ (information.T @ basis))[0]
    left, values, _ = np.linalg.svd((information.T @ basis).T, full_matrices=False)
    vectors = np.zeros((size, width), np.float32)
    found = ((basis @ left) * values**POWER)[:, :width]
    vectors[:, : found.shape[1]] = found
    # No axis of the embedding should differ from the others: norms and initial weights treat them alike.
    vectors = vectors @ np.linalg.qr(generator.normal(size=(width, width)))[0].astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    occurs = (np.asarray(information.sum(axis=1)).reshape(-1, 1) > 0) & (norms > 0)
    return np.where(occurs, vectors / np.where(occurs, norms, 1) * np.sqrt(width), 0).astype(np.float32)


def _counts(ids: np.ndarray, size: int, special: int) -> sparse.csr_matrix:
    """Weighted counts of pairs of neighbours, symmetric, [V, V]."""
    total = sparse.csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        for start in range(0, len(ids) - distance, COUNTED_TOGETHER):
            stop = min(start + COUNTED_TOGETHER, len(ids) - distance)
            left, right = ids[start:stop], ids[start + distance : stop + distance]
            words = (left >= special) & (right >= special)
            weights = np.full(words.sum(), 1 / distance, np.float32)
            total += sparse.coo_matrix((weights, (left[words], right[words])), shape=(size, size)).tocsr()
    return total + total.T


def _positive_information(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """The positive part of pointwise mutual information, [V, V]."""
    words = np.asarray(counts.sum(axis=1)).ravel().astype(np.float64)
    neighbours = words**SMOOTHING
    pairs = counts.tocoo()
    expected = words[pairs.row] * neighbours[pairs.col] / neighbours.sum()
    information = np.log(pairs.data / expected).astype(np.float32)
    kept = information > 0
    places = (pairs.row[kept], pairs.col[kept])
    return sparse.csr_matrix((information[kept], places), shape=counts.shape)


def started(word: Float[np.ndarray, "R D"], vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "R D"]:
    """A fresh word embedding of R >= V rows with these vectors in place of its random part.

    Rows keep their size and what all have in common (`position_init=neighbours` has them share a direction). Rows
    without a vector stay as they are.
    """
    used = word[: len(vectors)]
    common = used.mean(axis=0)
    size = (used - common).std()
    direction = common / max(float(np.linalg.norm(common)), np.finfo(np.float32).tiny)
    apart = vectors - np.outer(vectors @ direction, direction)
    has_vector = np.any(vectors != 0, axis=1, keepdims=True)
    return np.concatenate([np.where(has_vector, common + size * apart, used), word[len(vectors) :]]).astype(
        word.dtype
    )

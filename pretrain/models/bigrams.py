"""A first layer that predicts a token from those beside it by counts, where `word_init=bigrams` starts a network.

For each of the tokens one and two before and after, counts of pairs in text give pointwise mutual information with the
token. Added up, and to the logarithm of its frequency, they predict it (naive Bayes). A factorisation of low rank is a
network: vectors e of the tokens, and a map A for each offset, with e A e' near the information of a pair. Pairs weigh
as much as the frequencies of both tokens together. `count_bigrams` computes them; a family's start puts them into
its embedding, its first layer and its head.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Int
from scipy import sparse

from pretrain.models.word_vectors import SPARE, counted_pairs, positive_information, product, towards_random

OFFSETS = (-1, 1, -2, 2)
"""Where the heads of the first layer look, in turn: before and after the token."""
ROUNDS = 3
"""Products of the randomised factorisation; more change no digit of the start's loss that counts."""
RIDGE = 1e-6
"""Added to the moments of the vectors, as a share of their mean."""


class Bigrams(NamedTuple):
    """What counts of pairs say."""

    vectors: Float[np.ndarray | Array, "V D"]
    """Of length 1, without the direction that all tokens have in common; zeros for tokens that have none."""
    read: Float[np.ndarray | Array, "O D1 H"]
    """For each of `OFFSETS`, what a head reads of a neighbour's vector and a constant, each divided by √2."""
    written: Float[np.ndarray | Array, "O H D"]
    """What it makes of that for the vector of the token."""
    log_frequencies: Float[np.ndarray | Array, " V"]
    """Logarithms of the shares of tokens among pairs, each counted once more."""

    @staticmethod
    def empty(size: int, width: int, rank: int) -> "Bigrams":
        """Zeros of the same shapes, for a process that does not count."""
        shapes = (size, width), (len(OFFSETS), width + 1, rank), (len(OFFSETS), rank, width), (size,)
        return Bigrams(*(np.zeros(shape, np.float32) for shape in shapes))


def common_direction(width: int) -> Float[np.ndarray, " D"]:
    """The direction of length 1 that all words have in common where heads start at neighbours."""
    return (np.where(np.arange(width) % 2, -1.0, 1.0) / np.sqrt(width)).astype(np.float32)


def count_bigrams(
    documents: Iterable[Int[np.ndarray, " length"]],
    *,
    size: int,
    width: int,
    rank: int,
    special: Collection[int],
) -> Bigrams:
    """Count pairs in documents and factorise them.

    Args:
      documents: token ids of the text. The documents' ends are no neighbours of each other.
      size: tokens of the vocabulary, V.
      width: D.
      rank: of a head's map, H.
      special: ids that are not counted.
    """
    counts = counted_pairs(documents, size, special, window=2)
    frequencies = np.asarray(counts[0].sum(axis=1)).ravel() + np.asarray(counts[0].sum(axis=0)).ravel() + 1
    shares = (frequencies / frequencies.sum()).astype(np.float32)
    by_offset = {}
    for distance, pairs in enumerate(counts, 1):  # rows: the token; columns: the one so far after it
        by_offset[distance] = positive_information(pairs, smoothing=1.0)
        by_offset[-distance] = by_offset[distance].T.tocsr()
    vectors = _vectors(list(by_offset.values()), shares, width)
    read, written = zip(*(_factors(_map(by_offset[offset], vectors, shares), rank) for offset in OFFSETS))
    return Bigrams(vectors, np.stack(read), np.stack(written), np.log(shares))


def _vectors(
    information: list[sparse.csr_matrix], shares: Float[np.ndarray, " V"], width: int
) -> Float[np.ndarray, "V D"]:
    """The left factor of all the matrices side by side, whose rows and columns are weighed by frequency."""
    size = len(shares)
    weights = sparse.diags(np.sqrt(shares))
    weighed = [(weights @ matrix @ weights).tocsr() for matrix in information]
    transposed = [matrix.T.tocsr() for matrix in weighed]
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(size, min(width + SPARE, size))).astype(np.float32)
    for _ in range(ROUNDS):
        basis = np.linalg.qr(sum(product(a, product(b, basis)) for a, b in zip(weighed, transposed)))[0]
    columns = [product(b, basis) for b in transposed]
    _, axes = np.linalg.eigh(sum(part.T @ part for part in columns))
    found = (basis @ axes)[:, ::-1][:, :width] / np.sqrt(shares)[:, None]
    occurs = np.asarray(sum(matrix.sum(axis=1) for matrix in information)).reshape(-1, 1) > 0
    vectors = np.zeros((size, width), np.float32)
    vectors[:, : found.shape[1]] = np.where(occurs, found, 0)
    vectors = towards_random(_unit(vectors), generator)
    common = common_direction(width)
    return _unit(vectors - np.outer(vectors @ common, common))


def _unit(vectors: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V D"]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 0, vectors / np.where(norms > 0, norms, 1), 0).astype(np.float32)


def _map(
    information: sparse.csr_matrix, vectors: Float[np.ndarray, "V D"], shares: Float[np.ndarray, " V"]
) -> Float[np.ndarray, "D D1"]:
    """The map with which vectors of neighbours come nearest to the information, by least weighed squares."""
    inputs = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1) / np.float32(
        np.sqrt(2)
    )
    left, right = _solved(vectors, shares), _solved(inputs, shares)
    found = left @ (information @ right.T)
    common = common_direction(vectors.shape[1])
    found -= np.outer(common, common @ found)
    found[:, :-1] -= np.outer(found[:, :-1] @ common, common)
    return found.astype(np.float32)


def _solved(vectors: Float[np.ndarray, "V D"], shares: Float[np.ndarray, " V"]) -> Float[np.ndarray, "D V"]:
    """The matrix that gives the coefficients of the vectors nearest to a column."""
    weighed = (vectors * shares[:, None]).astype(np.float64)
    moments = weighed.T @ vectors
    ridge = RIDGE * max(np.trace(moments) / len(moments), np.finfo(np.float32).tiny)
    return np.linalg.solve(moments + ridge * np.eye(len(moments)), weighed.T)


def _factors(
    given: Float[np.ndarray, "D D1"], rank: int
) -> tuple[Float[np.ndarray, "D1 H"], Float[np.ndarray, "H D"]]:
    """Two factors of equal size, whose product is the transposed map as far as their rank goes."""
    left, sizes, right = np.linalg.svd(given, full_matrices=False)
    root = np.sqrt(sizes[:rank])
    # The sign of a singular vector is free, and differs between processors.
    signs = np.where(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])] < 0, -1, 1)[:rank]
    return (right[:rank].T * root * signs).astype(np.float32), (left[:, :rank] * root * signs).T.astype(
        np.float32
    )

"""Vectors of tokens from counts of their neighbours in text, where `word_init=cooccurrence` starts the word embedding.

Tokens with similar neighbours get similar vectors: a factorisation of pointwise mutual information (Levy and Goldberg
2014; Levy, Goldberg and Dagan 2015 for the weights). A network learns such vectors in any case, and slowly, since most
tokens are rare. The counts take seconds.
"""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
from jax import Array
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
COLUMNS = 64
"""Columns of a matrix that a thread multiplies with at a time."""


def word_vectors(
    documents: Iterable[Int[np.ndarray, " length"]], *, size: int, width: int, special: Collection[int]
) -> Float[np.ndarray, "V D"]:
    """Vectors of all tokens with a root mean square of 1; zeros for special tokens and those that have no neighbour.

    Args:
      documents: token ids of the text. The documents' ends are no neighbours of each other.
      size: tokens of the vocabulary, V.
      width: D.
      special: ids that are not counted.
    """
    information = positive_information(_counts(documents, size, special), SMOOTHING)
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(size, min(width + SPARE, size))).astype(np.float32)
    transposed = information.T.tocsr()
    for _ in range(ROUNDS):
        basis = np.linalg.qr(product(information, product(transposed, basis)))[0]
    columns = product(transposed, basis)
    squares, left = np.linalg.eigh(columns.T @ columns)  # of singular values, the smallest first
    vectors = np.zeros((size, width), np.float32)
    found = ((basis @ left) * np.maximum(squares, 0) ** (POWER / 2))[:, ::-1][:, :width]
    vectors[:, : found.shape[1]] = found
    vectors = towards_random(vectors, generator)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    occurs = (np.asarray(information.sum(axis=1)).reshape(-1, 1) > 0) & (norms > 0)
    return np.where(occurs, vectors / np.where(occurs, norms, 1) * np.sqrt(width), 0).astype(np.float32)


def towards_random(
    vectors: Float[np.ndarray, "V D"], generator: np.random.Generator
) -> Float[np.ndarray, "V D"]:
    """Vectors whose axes are turned as near as can be to random vectors (orthogonal Procrustes).

    The axes of a factorisation have an order, and signs that differ between processors. After the turn no axis differs
    from the others, nor a run from its like.
    """
    axes, _, turned = np.linalg.svd(vectors.T @ generator.normal(size=vectors.shape).astype(np.float32))
    return vectors @ (axes @ turned)


def _counts(documents: Iterable[np.ndarray], size: int, special: Collection[int]) -> sparse.csr_matrix:
    """Counts of pairs of neighbours, by 1 / distance, symmetric, [V, V]."""
    pairs = counted_pairs(documents, size, special, WINDOW)
    counts = sum(
        (found / distance for distance, found in enumerate(pairs, 1)), sparse.csr_matrix((size, size))
    )
    return (counts + counts.T).tocsr().astype(np.float32)


def counted_pairs(
    documents: Iterable[np.ndarray], size: int, special: Collection[int], window: int
) -> list[sparse.csr_matrix]:
    """For each distance up to the window, how often a token (row) stands so far before another (column), [V, V]."""
    between = np.full(window, size, np.int32)  # an id beyond the vocabulary, which is not counted
    ids = np.concatenate([part for document in documents for part in (document, between)] or [between])
    counted = np.ones(size + 1, bool)
    counted[[size, *special]] = False
    result = []
    for distance in range(1, window + 1):
        counts = sparse.csr_matrix((size, size), dtype=np.float32)
        for start in range(0, len(ids) - distance, COUNTED_TOGETHER):
            stop = min(start + COUNTED_TOGETHER, len(ids) - distance)
            left, right = ids[start:stop], ids[start + distance : stop + distance]
            words = counted[left] & counted[right]
            ones = np.ones(words.sum(), np.float32)
            counts += sparse.coo_matrix((ones, (left[words], right[words])), shape=(size, size)).tocsr()
        result.append(counts.tocsr())
    return result


def positive_information(counts: sparse.csr_matrix, smoothing: float) -> sparse.csr_matrix:
    """The positive part of pointwise mutual information, [V, V], with a power of the columns' frequencies."""
    words = np.asarray(counts.sum(axis=1)).ravel().astype(np.float64)
    neighbours = np.asarray(counts.sum(axis=0)).ravel().astype(np.float64) ** smoothing
    pairs = counts.tocoo()
    expected = words[pairs.row] * neighbours[pairs.col] / neighbours.sum()
    information = np.log(pairs.data / expected).astype(np.float32)
    kept = information > 0
    places = (pairs.row[kept], pairs.col[kept])
    return sparse.csr_matrix((information[kept], places), shape=counts.shape)


def product(matrix: sparse.csr_matrix, columns: Float[np.ndarray, "V K"]) -> Float[np.ndarray, "V K"]:
    """A sparse matrix times a dense one, on all cores: scipy's product has one thread, and releases Python's lock."""
    parts = np.array_split(columns, max(1, columns.shape[1] // COLUMNS), axis=1)
    with ThreadPoolExecutor() as threads:
        return np.concatenate(
            list(threads.map(lambda part: matrix @ np.ascontiguousarray(part), parts)), axis=1
        )


def with_word_vectors(
    word: Float[Array, "R D"], vectors: Float[Array, "R D"], size: int
) -> Float[Array, "R D"]:
    """A fresh word embedding with these vectors in place of its random part.

    Rows keep their size, and what all have in common (`position_init=neighbours` has them share a direction). Rows
    whose vector is zero stay as they are.

    Args:
      word: the fresh embedding; its first `size` rows are tokens.
      vectors: of root mean square 1, or zero.
      size: V.
    """
    used = (jnp.arange(len(word)) < size)[:, None]
    common = jnp.sum(word * used, axis=0) / size
    spread = jnp.sqrt(jnp.sum(jnp.square(word - common) * used) / (size * word.shape[1]))
    direction = common / jnp.maximum(jnp.linalg.norm(common), jnp.finfo(word.dtype).tiny)
    apart = vectors - (vectors @ direction)[:, None] * direction
    has_vector = jnp.any(vectors != 0, axis=1, keepdims=True)
    return jnp.where(has_vector, common + spread * apart, word)

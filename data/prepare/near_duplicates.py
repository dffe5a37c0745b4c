"""Duplicates among all documents: equal texts by digest, similar texts by MinHash."""

from collections.abc import Iterable, Iterator

import numpy as np
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.prepare.config import NearConfig
from data.prepare.words import FACTOR, compared_words, hashes, sequences
from data.random_orders import random_bits

KEPT, EXACT_WITHIN, EXACT_ACROSS, NEAR_WITHIN, NEAR_ACROSS = range(5)
REASONS = {
    EXACT_WITHIN: ("exact", "within a source"),
    EXACT_ACROSS: ("exact", "across sources"),
    NEAR_WITHIN: ("near", "within a source"),
    NEAR_ACROSS: ("near", "across sources"),
}
"""Code of a dropped document -> the step and the reason: whether the copy that is kept is of the same source."""
AT_ONCE = 1 << 12
"""Sequences of words that are hashed together, which bounds the memory of a long document."""


class MinHash:
    """The band hashes of texts: two texts share a band with probability J^rows, if J is their Jaccard similarity."""

    def __init__(self, config: NearConfig):
        """Draw the hash functions; they are the same in every run."""
        self._ngram, self._bands, self._rows = config.ngram, config.bands, config.rows
        bits = random_bits(2 * config.bands * config.rows, "minhash").reshape(2, -1, 1)
        self._factors, self._offsets = bits[0] | np.uint64(1), bits[1]

    def __call__(self, text: str) -> np.ndarray:
        """The hash of each band, uint64 [bands]."""
        words = hashes(compared_words(text))
        codes = sequences(words, min(self._ngram, len(words))) if len(words) else None
        if codes is None:
            codes = np.array([xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))], np.uint64)
        minima = np.full(len(self._factors), np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(codes), AT_ONCE):
            hashed = codes[start : start + AT_ONCE] * self._factors
            hashed += self._offsets
            np.minimum(minima, hashed.min(axis=1), out=minima)
        combined = np.arange(self._bands, dtype=np.uint64)
        for column in minima.reshape(self._bands, self._rows).T:
            combined = (combined ^ column) * FACTOR
            combined ^= combined >> np.uint64(29)
        return combined


def find_duplicates(
    digests: np.ndarray | None, bands: Iterable[np.ndarray], sources: np.ndarray
) -> np.ndarray:
    """Tell which documents to drop; of each group of duplicates the first is kept.

    Memory is about 75 bytes a document, and 90 where a document has an equal band with two others (measured).

    Args:
      digests: uint64 [n], for exact duplicates; None to leave them in.
      bands: for each band, uint64 [n]; empty to leave near-duplicates in.
      sources: number of each document's source, [n].

    Returns:
      KEPT or a key of REASONS for each document, uint8 [n].
    """
    reasons = np.zeros(len(sources), np.uint8)
    if digests is not None:
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        _mark(reasons, first[group], sources, EXACT_WITHIN, EXACT_ACROSS)
    count = len(sources)
    pairs = [_neighbours(band) for band in bands]
    if pairs:
        left, right = np.concatenate(pairs, axis=1)
        del pairs
        graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
        groups, labels = connected_components(graph, directed=False)
        del graph, left, right
        first = np.zeros(groups, np.int64)
        first[labels[::-1]] = np.arange(
            count - 1, -1, -1
        )  # of the documents of a group, the last that is assigned
        _mark(reasons, first[labels], sources, NEAR_WITHIN, NEAR_ACROSS)
    return reasons


def _neighbours(band: np.ndarray) -> np.ndarray:
    """Pairs of documents with an equal hash: each with the next one that has it, [2, pairs]."""
    order = np.argsort(band, kind="stable")
    ordered = band[order]
    equal = np.flatnonzero(ordered[1:] == ordered[:-1])
    kind = np.int32 if len(band) < 1 << 31 else np.int64
    return np.stack([order[equal], order[equal + 1]]).astype(kind)


def _mark(reasons: np.ndarray, kept: np.ndarray, sources: np.ndarray, within: int, across: int) -> None:
    """Mark each document whose kept copy is another one, unless it is marked already."""
    dropped = (kept != np.arange(len(kept))) & (reasons == KEPT)
    reasons[dropped] = np.where(sources[kept[dropped]] == sources[dropped], within, across)


def split(values: np.ndarray, sizes: Iterable[int]) -> Iterator[np.ndarray]:
    """Cut an array into parts of these sizes."""
    start = 0
    for size in sizes:
        yield values[start : start + size]
        start += size

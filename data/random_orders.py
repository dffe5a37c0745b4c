"""Random choices as pure functions of a key: there is no generator state to save.

A key is a sequence of integers and strings (seed, stream, window number, ...). Its hash is the key of a Philox counter
generator. The algorithm specifies Philox's raw bits, so they are the same in every version of numpy. The methods of a
numpy Generator may change between versions.
"""

import hashlib

import numpy as np

DRAWS_PER_BLOCK = 1024


def random_bits(size: int, *key: int | str) -> np.ndarray:
    """`size` uniform 64-bit integers, uint64 [size], a function of the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(size)


def permutation(size: int, *key: int | str) -> np.ndarray:
    """A uniform permutation of range(size), int64 [size], a function of the key alone."""
    return np.argsort(random_bits(size, *key), kind="stable")


class WeightedDraws:
    """An endless sequence of draws from range(len(weights)); draw n depends on the key and n alone."""

    def __init__(self, weights: list[float], *key: int | str):
        """Draw index i with probability weights[i] / sum(weights)."""
        self._bounds = np.cumsum(weights) / np.sum(weights)
        self._key = key
        self._block = -1
        self._draws = np.zeros(0, np.int64)

    def __getitem__(self, number: int) -> int:
        """Draw number `number`, from 0."""
        block, offset = divmod(number, DRAWS_PER_BLOCK)
        if block != self._block:
            uniform = random_bits(DRAWS_PER_BLOCK, *self._key, block) * 2.0**-64
            self._draws = np.minimum(np.searchsorted(self._bounds, uniform, "right"), len(self._bounds) - 1)
            self._block = block
        return int(self._draws[offset])


ROUNDS = 8
"""Rounds of the Feistel network; four already make it a pseudo-random permutation (Luby and Rackoff 1988)."""


class Shuffle:
    """A permutation of range(size) in constant memory, a function of the key alone.

    A Feistel network permutes the smallest range of 4^b numbers that is large enough. A number that leaves range(size)
    is permuted again, until it is back (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    """

    def __init__(self, size: int, *key: int | str):
        """Permute range(size), size >= 1."""
        self._size = np.uint64(size)
        half = max(1, -(-(size - 1).bit_length() // 2))
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        self._keys = random_bits(ROUNDS, *key)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers at these places of the permutation, int64 like `places`, both in range(size)."""
        numbers = self._permuted(places.astype(np.uint64))
        while (outside := numbers >= self._size).any():
            numbers[outside] = self._permuted(numbers[outside])
        return numbers.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """Hashes of 64-bit integers: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

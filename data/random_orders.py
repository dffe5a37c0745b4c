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

"""Words of a text as numbers, and sequences of words as hashes: what the rules and near-duplicates compare."""

import re

import numpy as np
import xxhash

WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)


def compared_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def hashes(words: list[str]) -> np.ndarray:
    """A 64-bit hash of each word, uint64 [n]."""
    one = xxhash.xxh3_64_intdigest
    return np.fromiter((one(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))


def sequences(words: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of each sequence of `length` words, uint64 [n - length + 1]; empty if there are fewer words."""
    if len(words) < length:
        return np.zeros(0, np.uint64)
    stop = len(words) - length + 1
    combined = np.zeros(stop, np.uint64)
    for offset in range(length):
        combined = (combined ^ words[offset : offset + stop]) * FACTOR
        combined ^= combined >> np.uint64(29)
    return combined

"""A corpus in memory: documents are numbers in words, so that every token can be told from every other."""

import hashlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from data.source_protocol import Record
from data.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
FIRST_TOKEN = 5


class MemorySource:
    """Shards given as lists of texts; a text that begins with '!' is dropped for that reason."""

    def __init__(self, shards: Sequence[Sequence[str]]):
        self._shards = shards
        self.reads: list[tuple[int, int]] = []
        self.records_read = 0

    @property
    def shards(self) -> list[str]:
        return [f"shard-{index}" for index in range(len(self._shards))]

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        self.reads.append((shard, start))
        for number, text in enumerate(self._shards[shard][start:], start):
            self.records_read += 1
            if text.startswith("!"):
                yield Record(number, "", text[1:])
            else:
                yield Record(number, text, "")

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self._shards).encode()).hexdigest()


class Encoder:
    """Encodes numbers in words, and notes what it was asked to encode."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        with self._lock:
            self.texts.extend(texts)
        return [np.array([int(word) for word in text.split()], np.int32) for text in texts]


def make_corpus(shards: int, documents: int, *, longest: int = 40, seed: int = 0) -> list[list[str]]:
    """`documents` documents in `shards` shards, of 1 to `longest` tokens, no token of which occurs twice."""
    generator = np.random.default_rng(seed)
    corpus: list[list[str]] = [[] for _ in range(shards)]
    token = FIRST_TOKEN
    for number in range(documents):
        length = int(generator.integers(1, longest + 1))
        corpus[number % shards].append(" ".join(map(str, range(token, token + length))))
        token += length
    return corpus


def documents_of(corpus: Sequence[Sequence[str]]) -> list[str]:
    """All kept documents, sorted."""
    return sorted(text for shard in corpus for text in shard if not text.startswith("!"))

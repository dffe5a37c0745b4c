"""A random sample of documents, in bounded memory."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator

KEY = b"sample of a tokenizer"
PER_DOCUMENT = 200
"""Bytes of memory that a document of the sample takes beside its text: Python's objects."""


def size_of(text: bytes | str) -> int:
    """Bytes that `bytes_at_most` counts for a document: its text in UTF-8, and PER_DOCUMENT."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return len(content) + PER_DOCUMENT


class Sample(Iterable[str]):
    """The documents whose numbers have the smallest hashes, as many as fit; all have the same chance.

    Copies of one text are documents as others are: a text that is a tenth of the corpus is a tenth of the sample. The
    documents are read once. Memory holds the sample alone. It is yielded in the order of the documents.
    """

    def __init__(
        self,
        documents: Iterable[str],
        *,
        documents_at_most: int = 0,
        bytes_at_most: int = 0,
        looked_at: Callable[[], None] = lambda: None,
    ):
        """Draw from `documents`.

        Args:
          documents: the documents to draw from.
          documents_at_most: largest number of documents; 0 for no limit.
          bytes_at_most: largest size of the sample in bytes of memory (see `size_of`); 0 for no limit.
          looked_at: function that is called for each document, before the sample is yielded.
        """
        self._documents, self._most, self._size = documents, documents_at_most, bytes_at_most
        self._looked_at = looked_at
        self.left_out = 0
        """Documents that were read and are not in the sample."""

    def __iter__(self) -> Iterator[str]:
        """Yield the sample; without a limit, the documents as they are read."""
        if not self._most and not self._size:
            yield from self._documents
            return
        largest: list[tuple[int, int, bytes]] = []  # (- hash, - number, text), a heap: the largest hash first
        held, below = 0, 1 << 64
        for number, text in enumerate(self._documents):
            self._looked_at()
            one = _hash(number)
            if one >= below:  # a smaller hash has been left out
                self.left_out += 1
                continue
            content = text.encode("utf-8", "surrogatepass")
            heapq.heappush(largest, (-one, -number, content))
            held += size_of(content)
            while (self._most and len(largest) > self._most) or (
                self._size and held > self._size and len(largest) > 1
            ):
                below = -largest[0][0]
                held -= size_of(heapq.heappop(largest)[2])
                self.left_out += 1
        largest.sort(key=lambda item: item[1])
        while largest:  # the last is the first of the corpus; texts are freed as they are used
            yield largest.pop()[2].decode("utf-8", "surrogatepass")


def _hash(number: int) -> int:
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8, key=KEY).digest()
    return int.from_bytes(digest, "big")

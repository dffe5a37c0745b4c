"""A sample of documents from the whole of a corpus, in bounded memory."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator

KEY = b"sample of a tokenizer"


class Sample(Iterable[str]):
    """The documents whose hashes are the smallest, as many as fit; all documents have the same chance.

    The corpus is read once. Memory holds the sample alone. The sample depends on the texts, and not on their order.
    It is yielded in the order of the corpus.
    """

    def __init__(self, documents: Iterable[str], *, documents_at_most: int = 0, bytes_at_most: int = 0):
        """Draw from `documents`.

        Args:
          documents: the corpus.
          documents_at_most: largest number of documents; 0 for no limit.
          bytes_at_most: largest size of the sample in bytes of UTF-8; 0 for no limit.
        """
        self._documents, self._most, self._size = documents, documents_at_most, bytes_at_most
        self.left_out = 0
        """Documents that were read and are not in the sample."""

    def __iter__(self) -> Iterator[str]:
        """Yield the sample; without a limit, the documents as they are read."""
        if not self._most and not self._size:
            yield from self._documents
            return
        largest: list[tuple[int, int, bytes]] = []  # (- hash, - number, text), a heap: the largest hash first
        held = 0
        for number, text in enumerate(self._documents):
            content = text.encode("utf-8", "surrogatepass")
            one = int.from_bytes(hashlib.blake2b(content, digest_size=8, key=KEY).digest(), "big")
            heapq.heappush(largest, (-one, -number, content))
            held += len(content)
            while (self._most and len(largest) > self._most) or (
                self._size and held > self._size and len(largest) > 1
            ):
                held -= len(heapq.heappop(largest)[2])
                self.left_out += 1
        largest.sort(key=lambda item: item[1])
        while largest:  # the last is the first of the corpus; texts are freed as they are used
            yield largest.pop()[2].decode("utf-8", "surrogatepass")

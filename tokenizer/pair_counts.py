"""A guard of the trainer's counts of pairs, which are integers of 32 bits and would overflow silently."""

import numpy as np

from base.errors import UserError

MOST = 2**31 - 1
"""The largest count of a pair (tokenizers' issue 1681)."""
AT_ONCE = 1 << 20
"""Bytes that are counted together."""


def _in_words() -> np.ndarray:
    """Of each pair of bytes, first x 256 + second, whether a word of byte-level BPE may have it, bool [65536].

    The bytes of white space outside of ASCII are taken for letters.
    """
    white = np.isin(np.arange(256), list(b"\t\n\v\f\r "))
    blank = np.arange(256) == ord(" ")
    ends, begins = ~white[:, None] & white[None, :], (white & ~blank)[:, None] & ~white[None, :]
    return np.asarray(~(ends | begins)).ravel()


IN_WORDS = _in_words()


class PairCounts:
    """Counts the pairs of adjacent bytes of a text.

    A pair of tokens cannot occur more often than the pair of bytes where they meet. So these counts bound all counts of
    the trainer. Pairs of bytes that no word has are left out: white space ends a word, and only a blank begins one.
    """

    def __init__(self) -> None:
        """Begin with no text."""
        self._counts = np.zeros(1 << 16, np.int64)
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, content: bytes) -> None:
        """Count the pairs of a text.

        Raises:
          UserError: a pair occurs more often than the trainer can count.
        """
        self._waiting.append(content)
        self._size += len(content)
        if self._size >= AT_ONCE:
            self.check()

    def check(self) -> None:
        """Count what has been added since the last count; call it after the last text.

        Raises:
          UserError: as for `add`.
        """
        text = np.frombuffer(b"\n".join(self._waiting), np.uint8).astype(np.uint16)
        self._counts += np.bincount((text[:-1] << 8) | text[1:], minlength=1 << 16)
        self._waiting, self._size = [], 0
        counts = np.where(IN_WORDS, self._counts, 0)
        most = int(counts.argmax())
        if counts[most] > MOST:
            raise UserError(
                f"the pair of bytes {bytes(divmod(most, 256))!r} occurs more than {MOST:,} times, which the "
                "trainer of tokenizers cannot count; set config.tokenizer.sample_bytes, such as 20000000000"
            )

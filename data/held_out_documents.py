"""The choice of documents held out for evaluation. It depends on the text: equal texts are on the same side."""

import hashlib


def digest(text: str) -> int:
    """A hash of a text, 0 <= digest < 2^64; equal texts have equal digests."""
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def threshold(fraction: float) -> int:
    """The digest below which texts are held out, if this share of all distinct texts is."""
    return int(fraction * 2**64)


class HeldOut:
    """Chooses about `fraction` of all distinct texts, by hash."""

    def __init__(self, fraction: float):
        """Hold out this share of the texts, 0 <= fraction < 1."""
        self._threshold = threshold(fraction)

    def __call__(self, text: str) -> bool:
        """Whether this text is held out."""
        if not self._threshold:
            return False
        return digest(text) < self._threshold

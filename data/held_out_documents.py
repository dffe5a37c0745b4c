"""The choice of documents held out for evaluation. It depends on the text: equal texts are on the same side."""

import hashlib


class HeldOut:
    """Chooses about `fraction` of all distinct texts, by hash."""

    def __init__(self, fraction: float):
        """Hold out this share of the texts, 0 <= fraction < 1."""
        self._threshold = int(fraction * 2**64)

    def __call__(self, text: str) -> bool:
        """Whether this text is held out."""
        if not self._threshold:
            return False
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._threshold

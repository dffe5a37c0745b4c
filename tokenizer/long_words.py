"""Cuts long words of a tokenizer's training text, because the search for merges in them would take too long."""

from tokenizers.pre_tokenizers import PreTokenizer

LONGEST_WORD = 2000
"""Length in characters above which a word is cut. The time to merge pairs grows with the square of a word's length:
words of 100,000 characters take minutes for each MB."""

_BLOCK = LONGEST_WORD // 2


class WordCutter:
    """Cuts long words, and counts them."""

    def __init__(self, splitter: PreTokenizer):
        """Use `splitter` to split a text into words."""
        self._splitter = splitter
        self.words = 0
        """Number of words that were cut."""
        self.longest = 0
        """Length of the longest of these words, in characters."""

    def cut(self, text: str) -> list[str]:
        """The text as it is, or in parts where a word of it is longer than LONGEST_WORD."""
        if not _may_have_long_word(text):
            return [text]
        places = [0]
        for _, (start, stop) in self._splitter.pre_tokenize_str(text):
            if stop - start > LONGEST_WORD:
                self.words += 1
                self.longest = max(self.longest, stop - start)
                places += range(start + LONGEST_WORD, stop, LONGEST_WORD)
        return [text[start:stop] for start, stop in zip(places, [*places[1:], None])]


def _may_have_long_word(text: str) -> bool:
    """A fast check that is False for nearly every text.

    A long word contains at least one whole block. Such a block has no white space inside, or is all white space.
    """
    return any(
        len(text[start : start + _BLOCK].split(None, 1)) < 2
        for start in range(0, len(text) - _BLOCK + 1, _BLOCK)
    )

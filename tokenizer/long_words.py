"""Words of a text that a tokenizer is trained on, cut where they are too long to learn merges from in bearable time."""

from tokenizers.pre_tokenizers import PreTokenizer

LONGEST_WORD = 2000
"""Characters. The time to merge pairs grows with the square of a word's length: at 100,000, minutes for each MB."""

_BLOCK = LONGEST_WORD // 2


class WordCutter:
    """Cuts long words, and counts them."""

    def __init__(self, splitter: PreTokenizer):
        """Words are what `splitter` makes of a text."""
        self._splitter = splitter
        self.words = 0
        """Words that were cut."""
        self.longest = 0
        """Characters of the longest."""

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
    """False for nearly every text, and cheap: a long word leaves some whole block without white space or all of it."""
    return any(
        len(text[start : start + _BLOCK].split(None, 1)) < 2
        for start in range(0, len(text) - _BLOCK + 1, _BLOCK)
    )

"""The steps that look at one document: each returns the text, perhaps changed, and a reason if it is dropped."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from base.errors import UserError
from data.prepare.config import (
    LengthConfig,
    PrepareConfig,
    QualityConfig,
    RepetitionConfig,
    UnicodeConfig,
)
from data.prepare.languages import Languages
from data.prepare.overlap import Overlap
from data.prepare.words import compared_words, hashes, sequences

Verdict = tuple[str, str]
"""(the text, '') to keep it, or ('', reason) to drop it."""
Rule = Callable[[str], Verdict]


CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb]"
)
"""Characters that are not shown: controls but tab and line break, and marks of direction and of no width."""
LINE_BREAKS = re.compile("\r\n?|\u2028|\u2029|\x85")
BULLETS = ("•", "‣", "▪", "●", "-", "*", "\u2013", "·")
ELLIPSES = ("...", "…")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
IP = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]?\d)")
NUMBER = re.compile(
    r"(?<![\w.,])(?:(?P<kept>(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?:(?:19|20)\d\d(?:[ -](?:19|20)\d\d)+|\d{1,3}(?: 000){2,})(?![ -]?\d))"
    r"|\+?\d(?:[ -]?\d){6,19}(?!\w))"
)
"""Numbers of seven digits or more; `kept` are dates (2026-11-30), years in a row, and round numbers (1 000 000)."""
PATTERNS = {
    "email": (EMAIL, "email@example.com"),
    "ip": (IP, "192.0.2.1"),
    "number": (NUMBER, "0000000"),
}
"""Patterns of personal data, and what replaces them: names that are reserved for examples."""


def document_rules(config: PrepareConfig) -> list[tuple[str, Rule]]:
    """The steps of a config that look at one document, by name, in their order."""
    made: dict[str, Callable[[], Rule]] = {
        "unicode": lambda: _unicode(config.unicode),
        "language": lambda: Languages(config.language),
        "length": lambda: partial(check_length, config.length),
        "repetition": lambda: partial(check_repetition, config.repetition),
        "quality": lambda: partial(check_quality, config.quality),
        "overlap": lambda: Overlap(config.overlap),
        "masks": lambda: partial(masked, config.masks),
    }
    return [(name, make()) for name, make in made.items() if name in config.steps]


def _unicode(config: UnicodeConfig) -> Rule:
    if config.mojibake:
        try:
            import ftfy
        except ImportError:
            raise UserError(
                "config.prepare.unicode.mojibake needs ftfy; install it: pip install 'unmask[prepare]'"
            ) from None
        return partial(repaired, config.form, ftfy.fix_encoding)
    return partial(repaired, config.form, None)


def repaired(form: str, repair: Callable[[str], str] | None, text: str) -> Verdict:
    """Repair encoding and line breaks, remove control characters, and normalise."""
    if repair is not None:
        text = repair(text)
    text = LINE_BREAKS.sub("\n", text)
    text = CONTROL.sub("", text)
    if form and not unicodedata.is_normalized(form, text):  # type: ignore[arg-type]
        text = unicodedata.normalize(form, text)  # type: ignore[arg-type]
    text = text.strip()
    return (text, "") if text else ("", "empty")


def check_length(config: LengthConfig, text: str) -> Verdict:
    """Drop a document with too few or too many words, or too short or too long ones."""
    words = text.split()
    if len(words) < config.min_words:
        return "", "min_words"
    if len(words) > config.max_words:
        return "", "max_words"
    mean = sum(map(len, words)) / max(len(words), 1)
    if mean < config.min_mean_word:
        return "", "min_mean_word"
    return ("", "max_mean_word") if mean > config.max_mean_word else (text, "")


def check_repetition(config: RepetitionConfig, text: str) -> Verdict:
    """Drop a document with too many repeated lines or sequences of words."""
    lines = [line for each in text.split("\n") if (line := each.strip())]
    counts = Counter(lines)
    if len(counts) < len(lines):
        if 1 - len(counts) / len(lines) > config.duplicate_lines:
            return "", "duplicate_lines"
        repeated = sum((count - 1) * len(line) for line, count in counts.items())
        if repeated / sum(map(len, lines)) > config.duplicate_line_chars:
            return "", "duplicate_line_chars"
    words = compared_words(text)
    ids = hashes(words)
    sizes = np.fromiter(map(len, words), np.int64, len(words))
    for length in (2, 3, 4):
        limit = getattr(config, f"top_{length}gram")
        if limit < 1 and _top_share(ids, sizes, length) > limit:
            return "", f"top_{length}gram"
    for length in (5, 10):
        limit = getattr(config, f"duplicate_{length}gram")
        if limit < 1 and _duplicate_share(ids, length) > limit:
            return "", f"duplicate_{length}gram"
    return text, ""


def _top_share(ids: np.ndarray, sizes: np.ndarray, length: int) -> float:
    """The share of characters in the most frequent sequence of words, if it occurs more than once."""
    found, first, counts = np.unique(sequences(ids, length), return_index=True, return_counts=True)
    if not len(found) or (top := int(counts.max())) < 2:
        return 0.0
    at = int(first[int(counts.argmax())])
    return float(min(1.0, top * sizes[at : at + length].sum() / sizes.sum()))


def _duplicate_share(ids: np.ndarray, length: int) -> float:
    """The share of words in sequences that occurred before in the document."""
    codes = sequences(ids, length)
    if not len(codes):
        return 0.0
    _, first = np.unique(codes, return_index=True)
    if len(first) == len(codes):
        return 0.0
    again = np.ones(len(codes), bool)
    again[first] = False
    covered = np.zeros(len(ids) + 1, np.int64)
    np.add.at(covered, np.flatnonzero(again), 1)
    np.add.at(covered, np.flatnonzero(again) + length, -1)
    return float((np.cumsum(covered[:-1]) > 0).mean())


def check_quality(config: QualityConfig, text: str) -> Verdict:
    """Drop a document that has the signs of a list, of a menu or of code."""
    words = text.split()
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    if symbols > config.max_symbols * len(words):
        return "", "max_symbols"
    lines = [line for each in text.split("\n") if (line := each.strip())]
    if sum(line.startswith(BULLETS) for line in lines) > config.max_bullet_lines * len(lines):
        return "", "max_bullet_lines"
    if sum(line.endswith(ELLIPSES) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "", "max_ellipsis_lines"
    with_letters = sum(word.isalpha() or any(map(str.isalpha, word)) for word in words)
    if with_letters < config.min_alphabetic_words * len(words):
        return "", "min_alphabetic_words"
    if config.stop_words:
        found = {word.lower() for word in words}.intersection(config.stop_words)
        if len(found) < config.min_stop_words:
            return "", "min_stop_words"
    return text, ""


def masked(kinds: tuple[str, ...], text: str) -> Verdict:
    """Replace personal data by masks."""
    for kind in kinds:
        pattern, mask = PATTERNS[kind]
        text = pattern.sub(partial(_mask, mask), text)
    return text, ""


def _mask(mask: str, found: re.Match[str]) -> str:
    return found[0] if found.lastgroup == "kept" else mask


@dataclass
class StepCounts:
    """What one step did in one task."""

    documents: int = 0
    """Documents that came in."""
    characters: int = 0
    """Their characters."""
    changed: int = 0
    """Documents that were changed."""
    seconds: float = 0.0

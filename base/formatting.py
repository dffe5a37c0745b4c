"""Numbers and texts in a form that people read: 1.2M, 3.4 GiB, 2h05m."""

import math
import unicodedata

UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, surrogates and line breaks."""
REORDERING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Unicode's bidirectional classes of characters that put the text around them in another order."""


def count(number: float) -> str:
    """A count with three or four digits: 950, 1.2k, 123.4M, 3.0B, 1.5T."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.99995 * limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def flops(number: float) -> str:
    """FLOPs in SI units: 950 MFLOP, 2.5 TFLOP."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= 0.99995 * limit:
            return f"{number / limit:.1f} {unit}FLOP"
    return f"{number:.0f} FLOP"


def size(number: float) -> str:
    """Bytes in binary units: 512 B, 3.4 GiB."""
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """A duration in its two largest units: 45s, 3m20s, 2h05m, 12d03h; '?' if it is not a finite number."""
    if not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if total >= unit:
            return f"{total // unit}{name}{total % unit // smaller:02d}{smaller_name}"
    return f"{total}s"


def percent(share: float, digits: int = 1) -> str:
    """A share of 1, in percent: 12.3%."""
    return f"{100 * share:.{digits}f}%"


def visible(text: str) -> str:
    """A text of any number of lines, for a terminal: other control characters become Python's escapes."""
    return _escaped(text, kept="\n\t")


def one_line(text: str) -> str:
    """Put a text on one line: control characters and line breaks become Python's escapes."""
    return _escaped(text, kept="")


def _escaped(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if _is_unseen(character) and character not in kept
        else character
        for character in text
    )


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN or unicodedata.bidirectional(character) in REORDERING

"""Figures of matplotlib as PNG files. Names from users (classes, files) are drawn exactly as written."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from base import formatting

MISSING = "□"
"""Replacement for a character that no installed font has."""
LAST_RESORT = "Last Resort"
"""A font in matplotlib that has a box for every character."""


@dataclass(frozen=True)
class Literal:
    """Texts that matplotlib can draw literally: not as mathematics, and only with characters that the fonts have."""

    texts: tuple[str, ...]
    style: dict[str, Any]
    """Arguments of matplotlib's Text for these texts."""


def literal(texts: Sequence[str], *, longest: int) -> Literal:
    """Prepare texts from users for labels or titles.

    Args:
      texts: the texts.
      longest: most characters of a text; the middle of a longer text is left out.
    """
    lines = [_shortened(formatting.one_line(text), longest) for text in texts]
    families, missing = _families(frozenset("".join(lines)))
    boxes = str.maketrans(dict.fromkeys(missing, MISSING))
    return Literal(
        tuple(line.translate(boxes) for line in lines), {"parse_math": False, "fontfamily": list(families)}
    )


def png(figure: Any) -> bytes:
    """A figure as the contents of a PNG file. It needs no window and changes no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[-end:]}"


@lru_cache(maxsize=64)
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Few installed fonts that have these characters, matplotlib's default first, and the characters without a font."""
    from matplotlib import font_manager

    default = font_manager.FontProperties()
    families = [font_manager.get_font(font_manager.findfont(default)).family_name]
    missing = set(characters) - _characters(font_manager.findfont(default))
    if missing:
        others = {
            entry.name: covered
            for entry in font_manager.fontManager.ttflist
            if not entry.name.startswith(LAST_RESORT) and (covered := missing & _characters(entry.fname))
        }
        while missing and others:
            best = max(sorted(others), key=lambda name: len(others[name] & missing))
            families.append(best)
            missing -= others[best]
            others = {name: covered for name, covered in others.items() if covered & missing}
    return tuple(families), frozenset(missing)


@lru_cache(maxsize=4096)
def _characters(file: str) -> frozenset[str]:
    """The characters of a font; none for an unreadable font or a font without outlines (coloured emoji)."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()

"""Figures of matplotlib as PNG files, with the names that users give (classes, files) drawn as they are written."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from base import formatting

MISSING = "□"
"""Drawn for a character that no installed font has."""
LAST_RESORT = "Last Resort"
"""A font of matplotlib's own that has a box for every character."""


@dataclass(frozen=True)
class Literal:
    """Texts ready to be drawn, neither as mathematics nor with characters that the fonts do not have."""

    texts: tuple[str, ...]
    style: dict[str, Any]
    """Arguments of matplotlib's Text that belong to them."""


def literal(texts: Sequence[str], *, longest: int) -> Literal:
    """Texts of users as labels or titles.

    Args:
      texts: the texts.
      longest: characters of a text at most; the middle of a longer one is left out.
    """
    lines = [_shortened(formatting.one_line(text), longest) for text in texts]
    families, missing = _families(frozenset("".join(lines)))
    boxes = str.maketrans(dict.fromkeys(missing, MISSING))
    return Literal(
        tuple(line.translate(boxes) for line in lines), {"parse_math": False, "fontfamily": list(families)}
    )


def png(figure: Any) -> bytes:
    """A figure as the contents of a PNG file; no window and no global state take part."""
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
    """The fewest installed fonts that have these characters, matplotlib's own first, and the characters none has."""
    from matplotlib import font_manager

    default = font_manager.FontProperties()
    families = [font_manager.get_font(font_manager.findfont(default)).family_name]
    missing = set(characters) - _characters(font_manager.findfont(default))
    if missing:
        others = {
            entry.name: found
            for entry in font_manager.fontManager.ttflist
            if not entry.name.startswith(LAST_RESORT) and (found := missing & _characters(entry.fname))
        }
        while missing and others:
            best = max(sorted(others), key=lambda name: len(others[name] & missing))
            families.append(best)
            missing -= others[best]
            others = {name: found for name, found in others.items() if found & missing}
    return tuple(families), frozenset(missing)


@lru_cache(maxsize=4096)
def _characters(file: str) -> frozenset[str]:
    """The characters of a font; none of one that has no outlines (coloured emoji), or cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()

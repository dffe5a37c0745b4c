"""Names in pictures are drawn as they are written, whatever they are."""

import pytest
from matplotlib.figure import Figure

from pretrain.reports.pictures import MISSING, literal, png
from tests.hostile import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn(name: str):
    """matplotlib raises or warns where a text is mathematics to it, or has a character without a glyph."""
    figure = Figure(figsize=(2, 2))
    shown = literal([name], longest=24)
    text = figure.subplots().set_title(shown.texts[0], **shown.style)
    assert png(figure).startswith(b"\x89PNG")
    assert not text.get_parse_math() and len(text.get_text()) <= 24


def test_a_character_that_no_font_has_is_a_box_and_the_others_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    assert literal(["猫 cat", "$é"], longest=24).texts == (f"{MISSING} cat", "$é")


def test_another_installed_font_is_taken_for_what_the_usual_one_does_not_have():
    """U+E000 is in a font of matplotlib's own for mathematics."""
    shown = literal(["a\ue000"], longest=24)
    assert shown.texts == ("a\ue000",) and shown.style["fontfamily"][0] == "DejaVu Sans"
    assert len(shown.style["fontfamily"]) == 2


def test_of_a_long_name_both_ends_are_kept():
    assert literal(["beginning" + "x" * 90 + "end"], longest=12).texts == ("beginni…xend",)

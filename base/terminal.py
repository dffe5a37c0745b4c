"""The terminal: texts of users are printed as they are written."""

from rich.console import Console


def console() -> Console:
    """Stdout by rich, which takes no text for its markup, nor for the name of an emoji."""
    return Console(markup=False, emoji=False, highlight=False)

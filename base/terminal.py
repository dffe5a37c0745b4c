"""The terminal: users' texts are printed exactly as they are."""

from rich.console import Console


def console() -> Console:
    """A rich console on stdout that never reads a text as markup or as an emoji's name."""
    return Console(markup=False, emoji=False, highlight=False)

"""Guesses whether the documents of a .txt file are lines or paragraphs, and warns if the config says otherwise."""

import functools
import itertools
import logging
from collections.abc import Sequence

from data.sources.lines import numbered_lines

log = logging.getLogger(__name__)

LOOKED_AT = 1000
"""Number of lines of a file that the guess uses."""
FEWEST_RUNS = 3
LINES_OF_A_RUN = 2.0
"""Mean number of lines in a run; with at least so many, the lines of a run belong together."""
FEWEST_LINES = 20


@functools.cache
def look(path: str, chosen: str, where: str) -> None:
    """Log one warning, once in a process, if a file's first lines contradict the value `chosen` of the setting `where`.

    It has no other effect: the setting is followed.
    """
    lines = itertools.islice(numbered_lines(path), LOOKED_AT)
    blank = [not line.strip() for _, line in lines if isinstance(line, bytes)]
    if doubt := doubtful(blank, chosen):
        log.warning("%s: %s", path, doubt.format(where=where))


def doubtful(blank: Sequence[bool], chosen: str) -> str:
    """The evidence against the choice, and the other choice at `{where}`; '' if there is none.

    Args:
      blank: of each of the first lines, whether it is blank.
      chosen: the config's `txt_documents`.
    """
    runs = [len(list(run)) for is_blank, run in itertools.groupby(blank) if not is_blank]
    if chosen == "lines" and len(runs) >= FEWEST_RUNS and sum(runs) >= LINES_OF_A_RUN * len(runs):
        return (
            f"its first {len(blank)} lines are {len(runs)} paragraphs of {sum(runs) / len(runs):.1f} lines with blank "
            "lines between them, but each line is taken for a document; if a paragraph is one, set {where}=blank_line"
        )
    if chosen == "blank_line" and len(blank) >= FEWEST_LINES and not any(blank):
        return (
            f"its first {len(blank)} lines have no blank line between them, so that all are one document; if each line "
            "is one, set {where}=lines"
        )
    return ""

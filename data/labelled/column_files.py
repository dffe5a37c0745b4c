"""Sentences of files in columns, as those of CoNLL's shared tasks: a word a line, a blank line after each sentence."""

import itertools
from collections.abc import Iterable, Iterator

from base.errors import UserError
from data.labelled.tables import Row

COLUMN_FORMATS = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".bioes", ".tsv", ".txt")
"""Files that are read so where each word has a label."""
DOCUMENT = "-DOCSTART-"
"""The only word of the lines with which CoNLL-2003 begins its documents; they are no sentences."""
COMMENT, TREEBANK = "#", ".conllu"


def column_rows(lines: Iterable[str], place: str, kind: str = "") -> Iterator[Row]:
    """Yield sentences as rows, whose fields '0', '1', ... are lists of the values of a column.

    Columns are separated by tabs, or in a line without a tab by blanks. A line that begins with # is a comment, unless
    it has as many columns as the lines with words before it, or is the first and has a tab.

    Args:
      lines: those of a file.
      place: its name, for messages.
      kind: its suffix; .conllu leaves out ranges of words (1-2) and empty nodes (1.1).

    Raises:
      UserError: lines of different numbers of columns, or no sentence.
    """
    width, first, columns = 0, 0, list[list[str]]()
    found = False
    for number, line in enumerate(itertools.chain(lines, [""]), 1):
        line = line.strip("\r\n\ufeff")
        if not line.strip():
            if columns and columns[0] != [DOCUMENT]:
                found = True
                yield Row(f"{place} line {first}", {str(index): each for index, each in enumerate(columns)})
            columns = []
            continue
        values = line.split("\t") if "\t" in line else line.split()
        is_first = not width and "\t" in line
        if line.startswith(COMMENT) and len(values) != width and not is_first:
            continue
        if width and len(values) != width:
            raise UserError(
                f"{place} line {number}: {len(values)} columns where the lines before have {width}; correct the line"
            )
        width = len(values)
        if kind == TREEBANK and not values[0].isdecimal():
            continue
        if not columns:
            first, columns = number, [[] for _ in values]
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    if not found:
        raise UserError(f"{place}: there are no sentences")

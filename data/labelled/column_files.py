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
KNOWN_COMMENTS = ("newdoc", "newpar", "sent_id", "text", "global.columns", "meta")
"""What follows # and a blank in the comments of treebanks; such a line is never a word's."""


def column_rows(lines: Iterable[str], place: str, kind: str = "") -> Iterator[Row]:
    """Yield sentences as rows, whose fields '0', '1', ... are lists of the values of a column.

    Columns are separated by tabs, or in a line without a tab by blanks. A line that begins with # is a comment, unless
    it has as many columns as the first word's line, by the same separator, and no blank in the first; one of
    KNOWN_COMMENTS always is. In a .conllu file every such line is.

    Args:
      lines: those of a file.
      place: its name, for messages.
      kind: its suffix; .conllu leaves out ranges of words (1-2) and empty nodes (1.1).

    Raises:
      UserError: lines of different numbers of columns, or no sentence.
    """
    form, lines = _form(line.strip("\r\n\ufeff") for line in itertools.chain(lines, [""]))
    width, first, columns = 0, 0, list[list[str]]()
    found = False
    for number, line in enumerate(lines, 1):
        if line.startswith(COMMENT) and (kind == TREEBANK or _is_comment(line, form)):
            continue
        if not line.strip():
            if columns and columns[0] != [DOCUMENT]:
                found = True
                yield Row(f"{place} line {first}", {str(index): each for index, each in enumerate(columns)})
            columns = []
            continue
        values = _values(line)
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


def _values(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _form(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first line that is surely a word's, '' where there is none; and all lines again."""
    head: list[str] = []
    for line in lines:
        head.append(line)
        if line.strip() and not line.startswith((COMMENT, DOCUMENT)):
            return line, itertools.chain(head, lines)
    return "", iter(head)


def _is_comment(line: str, form: str) -> bool:
    """Whether a line with # is a comment beside words' lines like `form`."""
    if (first := line[len(COMMENT) :].split(maxsplit=1)) and line[1:2] == " " and first[0] in KNOWN_COMMENTS:
        return True
    values = line.split("\t") if "\t" in form else line.split()
    return len(values) != len(_values(form)) or " " in values[0]

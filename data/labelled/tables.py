"""Rows of csv, tsv, JSON and JSON-lines files; each row knows its place, for messages."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from base.errors import UserError
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, column_of, decode, json_object, missing_field

logger = logging.getLogger(__name__)

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
LONGEST_FIELD = 2**30
ARRAY_START = b"["


class Row(NamedTuple):
    """One row of a file."""

    place: str
    """File and line, or file and item."""
    fields: Mapping[str, Any]


def delimited_rows(
    path: str,
    columns: Mapping[str, str],
    *,
    quoted: bool,
    header: Sequence[str] | None = None,
    skip_ragged: bool = False,
) -> Iterator[Row]:
    """Yield the rows of a csv or tsv file.

    A csv file has quotes as in RFC 4180. A tsv file has no quotes, because GLUE's texts have unbalanced ones. A blank
    line is skipped if there are several columns. If there is one column, a blank line is an empty text.

    Args:
      path: a plain, .gz or .zst file in UTF-8, with or without a byte order mark.
      columns: the columns that must be present, each with the setting that names it ('' for none).
      quoted: whether the file is csv.
      header: names of the columns, for a file without a header line.
      skip_ragged: whether to skip rows with missing or spare fields, and count them in the log, instead of refusing
        them.

    Raises:
      UserError: a missing or repeated column, a row with missing or spare fields, broken quotes or UTF-8, a damaged
        archive, or an empty file.
    """
    skipped = number = 0
    for number, fields in _split(path, quoted):
        if header is None:
            header = fields
            _check_header(f"{path} line {number}", header, columns)
            continue
        if len(header) > 1 and not any(fields):
            continue
        if len(fields) != len(header):
            if skip_ragged:
                skipped += 1
                continue
            raise UserError(
                f"{path} line {number}: {len(fields)} fields where there should be {len(header)} "
                f"({', '.join(header)}); correct the line"
            )
        yield Row(f"{path} line {number}", dict(zip(header, fields)))
    if not number:
        raise UserError(f"{path}: the file is empty")
    if skipped:
        logger.warning("%s: skipped %d rows with missing or spare fields", path, skipped)


def json_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a file of JSON objects: one object a line, or all in one array.

    Raises:
      UserError: broken JSON or UTF-8, a value that is not an object, a damaged archive, or an empty file.
    """
    lines = _numbered(path)
    number, first = next(((number, line) for number, line in lines if line.strip()), (0, b""))
    if not number:
        raise UserError(f"{path}: the file is empty")
    if first.lstrip().startswith(ARRAY_START):
        yield from _array(path, first + b"".join(line for _, line in lines))
        return
    yield Row(f"{path} line {number}", _object(path, number, first))
    for number, line in lines:
        if line.strip():
            yield Row(f"{path} line {number}", _object(path, number, line))


def _object(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        return json_object(line)
    except FlawError as flaw:
        raise UserError(f"{path} line {number}: {flaw}") from None


def _array(path: str, content: bytes) -> Iterator[Row]:
    try:
        items = json.loads(decode(content))
    except (ValueError, RecursionError, FlawError) as error:
        raise UserError(
            f"{path}: broken JSON ({error}); the file should be one array of objects, or one object a line"
        ) from None
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise UserError(
                f"{path} item {number}: a {type(item).__name__} where there should be a JSON object"
            )
        yield Row(f"{path} item {number}", item)


def _numbered(path: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a file; damage to the archive becomes a UserError."""
    try:
        yield from enumerate(read_lines(path), 1)
    except FlawError as flaw:
        raise UserError(f"{path}: {flaw}") from None


def text_lines(path: str) -> Iterator[str]:
    """Yield the lines of a file in UTF-8.

    Raises:
      UserError: broken UTF-8, or a damaged archive.
    """
    for number, line in _numbered(path):
        try:
            yield decode(line)
        except FlawError as flaw:
            raise UserError(f"{path} line {number}: {flaw}; save the file as UTF-8") from None


def _split(path: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row."""
    if not quoted:
        for number, line in enumerate(text_lines(path), 1):
            yield number, line.rstrip("\r\n").split("\t")
        return
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(text_lines(path), strict=True)
    number = 1
    try:
        for fields in reader:
            yield number, fields or [""]
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} line {number}: {error}; put a field with commas, quotes or line breaks in double quotes, and "
            "write each quote in it twice"
        ) from None


def _check_header(place: str, header: Sequence[str], columns: Mapping[str, str]) -> None:
    for name, setting in columns.items():
        if column_of(name, header) not in header:
            raise UserError(f"{place}: {missing_field(name, header, setting)}")
        if header.count(name) > 1:
            raise UserError(f"{place}: {header.count(name)} columns are called {name!r}; rename all but one")

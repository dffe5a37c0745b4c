"""Documents of text, JSON-lines and Parquet files."""

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from base.errors import UserError
from data.config import SourceConfig
from data.source_protocol import BLANK, Record, Source
from data.sources.documents import (
    FlawError,
    Gate,
    column_of,
    digest,
    json_object,
    missing_field,
    refuse_metadata_filters,
    text_of,
)
from data.sources.file_parts import Part, divide, divided_source, footer
from data.sources.file_versions import FileVersions
from data.sources.lines import NumberedLines, blank_line_documents, numbered_lines, or_empty, sound
from data.sources.part_lines import lines_of_documents, lines_of_part, place_of
from data.sources.paths import FORMATS, File, find_files, open_file, open_part, suffixes
from data.sources.table_rows import row_records
from data.sources.txt_documents import look

log = logging.getLogger(__name__)

PARQUET_BATCH = 256
PEEKED = 100


class FilesSource:
    """Documents of the files in `path`: .txt, .jsonl or .json (plain, .gz or .zst), and .parquet. A file is a shard.

    Records have the numbers of lines (.txt by line, .jsonl), documents (.txt by blank lines) or rows (.parquet). A
    setting that no file's format reads causes one warning in a process.

    Raises:
      UserError: a file is missing or has an unknown format, all files are empty, or the files lack the text field.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Open the files of `config`; `where` is the path of `config` in messages."""
        refuse_metadata_filters(config, where)
        self._config = config
        self._where = where
        self._files = find_files(config.path, f"{where}.path")
        self._gate = Gate(config, where)
        self._versions = FileVersions()
        for file in self._files:
            _check_format(file.path, f"{where}.path")
        self._check_content()
        self._check_read()
        if first := next((f.path for f in self._files if f.size and suffixes(f.path)[0] == ".txt"), None):
            look(first, config.txt_documents, _setting(where, "txt_documents"))

    @property
    def shards(self) -> Sequence[str]:
        """Names of the files below their common folder, in natural order."""
        return [file.name for file in self._files]

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Records of one file from `start` on (see `data.source_protocol.Source.read`)."""
        file = self._files[shard]
        return self._versions.unchanged(read_file(file, self._config, self._gate, start), file)

    @functools.lru_cache  # noqa: B019 - a run has few sources, which live as long as the run
    def divided(self, count: int, streams: int) -> Source | str:
        """See `data.source_protocol.Divisible`."""
        parts = divide(self._files, (), count, streams)
        if isinstance(parts, str):
            return parts
        return divided_source(self, parts, self._part)

    def _part(self, part: Part, start: int) -> Iterator[Record]:
        file = self._files[part.file]
        return self._versions.unchanged(read_part(file, part, self._config, self._gate, start), file)

    def fingerprint(self) -> str:
        """Hex digest of the files' names and sizes, the settings for reading them, and the filters."""
        return digest(
            self._config,
            [
                self._config.text_field,
                self._config.txt_documents,
                *((file.name, file.size) for file in self._files),
            ],
        )

    def _check_read(self) -> None:
        """Warn of a setting for a format that no file has. Only the files' names can tell, so the config cannot."""
        config = self._config
        formats = {suffixes(file.path)[0] for file in self._files}
        if ".txt" not in formats and config.txt_documents != SourceConfig.txt_documents:
            _say_unread(
                _setting(self._where, "txt_documents"),
                config.txt_documents,
                f"no file of {config.path} is .txt",
            )
        if formats == {".txt"} and config.text_field != SourceConfig.text_field:
            _say_unread(
                _setting(self._where, "text_field"), config.text_field, f"all files of {config.path} are .txt"
            )

    def _check_content(self) -> None:
        if not any(file.size for file in self._files):
            raise UserError(
                f"{self._where}.path={self._config.path!r}: all files are empty ({len(self._files)} of them)"
            )
        empty = next((file.path for file in self._files if not file.size), None)
        if empty and self._config.bad_documents == "strict":
            self._gate.unreadable(0, empty, FlawError("empty file"))
        for file in self._files:
            flaws: list[FlawError] = []
            records = read_file(file, self._config, _Peek(self._config, self._where, flaws))
            read = sum(1 for _ in itertools.islice(records, PEEKED))  # their texts are not kept
            if flaws and len(flaws) == read and all(flaw.reason == "missing field" for flaw in flaws):
                raise UserError(f"{file.path}: {flaws[0].detail}")
            if [flaw.reason for flaw in flaws] != ["empty file"]:
                return
        raise UserError(
            f"{self._where}.path={self._config.path!r}: all files are empty ({len(self._files)} of them)"
        )


def _setting(where: str, name: str) -> str:
    """The field, or the flag of a command that has no config, which sets a value; for messages."""
    return f"--{name}" if where.startswith("--") else f"{where}.{name}"


@functools.cache
def _say_unread(field: str, value: str, because: str) -> None:
    log.warning("%s=%r has no effect: %s; unset it", field, value, because)


class _Peek(Gate):
    """Accepts the first documents in any state, and collects their flaws."""

    def __init__(self, config: SourceConfig, where: str, flaws: list[FlawError]):
        super().__init__(config, where)
        self._flaws = flaws

    def unreadable(self, number: int, place: str, flaw: FlawError) -> Record:
        self._flaws.append(flaw)
        return Record(number, "", f"unreadable: {flaw.reason}")


def read_file(file: File, config: SourceConfig, gate: Gate, start: int = 0) -> Iterator[Record]:
    """Records of one file from number `start` on; a file without records yields one, dropped as an empty file."""
    path = file.path
    match suffixes(path)[0]:
        case ".parquet":
            records = _parquet_rows(path, config.text_field, gate, start)
        case ".txt" if config.txt_documents == "blank_line":
            records = blank_line_documents(numbered_lines(path), path, gate, start)
        case ".txt":
            records = _text_lines(numbered_lines(path), path, gate, start)
        case _:
            records = _json_lines(numbered_lines(path), path, config.text_field, gate, start)
    return or_empty(records, path, gate, start)


def read_part(file: File, part: Part, config: SourceConfig, gate: Gate, start: int = 0) -> Iterator[Record]:
    """Records of a part of a file from number `start` on, numbered from 0 in the part; a part may have none."""
    path, place = file.path, place_of(file.path, part)
    match suffixes(path)[0]:
        case ".parquet":
            return _parquet_rows(path, config.text_field, gate, start, range(part.start, part.stop))
        case ".txt" if config.txt_documents == "blank_line":
            return blank_line_documents(lines_of_documents(path, part), place, gate, start)
        case ".txt":
            return _text_lines(lines_of_part(path, part), place, gate, start)
        case _:
            return _json_lines(lines_of_part(path, part), place, config.text_field, gate, start)


def _text_lines(lines: NumberedLines, place: str, gate: Gate, start: int) -> Iterator[Record]:
    for number, line in lines:
        if number < start:
            continue
        try:
            yield gate.line(number, sound(line))
        except FlawError as flaw:
            yield gate.unreadable(number, f"{place} line {number + 1}", flaw)


def _json_lines(lines: NumberedLines, place: str, field: str, gate: Gate, start: int) -> Iterator[Record]:
    for number, line in lines:
        if number < start:
            continue
        try:
            if not sound(line).strip():
                yield Record(number, "", BLANK)
                continue
            yield gate.document(number, text_of(json_object(sound(line)), field, f"{gate.where}.text_field"))
        except FlawError as flaw:
            yield gate.unreadable(number, f"{place} line {number + 1}", flaw)


def _parquet_rows(
    path: str, field: str, gate: Gate, start: int, groups: range | None = None
) -> Iterator[Record]:
    """Rows of the row groups, numbered from 0 in them; of all without `groups`."""
    import pyarrow
    import pyarrow.parquet

    with open_file(path) if groups is None else open_part(path) as opened:
        try:
            known = None if groups is None else footer(path)
            table = pyarrow.parquet.ParquetFile(opened, metadata=known)
        except (pyarrow.ArrowException, OSError) as error:  # open_file raises UserError for the file itself
            if start == 0:
                yield gate.unreadable(0, path, FlawError("damaged file", " ".join(str(error).split())))
            return
        column = _column(table.schema_arrow, field)
        place = path if not groups else f"{path} (from row group {groups.start})"
        first = 0
        for group in range(table.num_row_groups) if groups is None else groups:
            rows = table.metadata.row_group(group).num_rows
            if column is None and first + rows > start:
                flaw = FlawError(
                    "missing field",
                    missing_field(field, table.schema_arrow.names, f"{gate.where}.text_field"),
                )
                for number in range(max(first, start), first + rows):
                    yield gate.unreadable(number, f"{place} row {number + 1}", flaw)
            elif first + rows > start:
                yield from _row_group(table, group, column, place, field, gate, first, max(first, start))
            first += rows


def _row_group(
    table: Any, group: int, column: str | None, place: str, field: str, gate: Gate, first: int, start: int
) -> Iterator[Record]:
    """Rows of a row group whose first row has number `first`; rows lost to damage become dropped records."""
    import pyarrow

    number = first
    end = first + table.metadata.row_group(group).num_rows
    try:
        for batch in table.iter_batches(PARQUET_BATCH, row_groups=[group], columns=[column]):
            yield from row_records(batch, number, start, place, field, gate)
            number += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        damage = FlawError("damaged file", " ".join(str(error).split()))
        for lost in range(max(number, start), end):
            yield gate.unreadable(lost, f"{place} row {lost + 1}", damage)


def _column(schema: Any, field: str) -> str | None:
    """Parquet's name of the field: a column, or a path into nested columns; None if neither exists."""
    import pyarrow

    if field in schema.names:
        return field
    fields = {name: schema.field(name) for name in schema.names}
    for name in field.split("."):
        if name not in fields:
            return None
        kind = fields[name].type
        if pyarrow.types.is_null(kind):
            return column_of(field, schema.names)
        fields = {kind.field(i).name: kind.field(i) for i in range(kind.num_fields)}
    return field


def _check_format(path: str, where: str) -> None:
    format_, compression = suffixes(path)
    if format_ not in FORMATS:
        raise UserError(
            f"{where}: {path!r} is none of {', '.join(FORMATS)}; all but Parquet may also end in .gz or .zst"
        )
    if format_ == ".parquet" and compression:
        raise UserError(
            f"{where}: {path!r}: Parquet files are compressed inside; unpack the file and drop {compression!r}"
        )

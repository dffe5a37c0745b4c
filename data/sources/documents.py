"""Decides about each document of a source: it is kept, dropped for a stated reason, or refused as unreadable."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Container, Iterable, Mapping
from typing import Any

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.source_protocol import BLANK, Record

log = logging.getLogger(__name__)

SHOWN_WARNINGS = 20
METADATA_FILTERS = ("quality_warnings", "min_language_probability", "min_harmful_pp")


OF_FILES = ("truncated file", "damaged file")
"""Reasons that are no single document's."""
EMPTY = "empty"
"""Reason to drop a document without text (a line of jsonl, a row or a record)."""


class FlawError(Exception):
    """A document cannot be read: a short `reason`, for counts, and a `detail` for the person who corrects it."""

    def __init__(self, reason: str, detail: str = "", size: int = 0):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.size = size
        """Bytes of the line that the flaw stands for, if it was read past; else 0."""


class Gate:
    """Turns texts of a reader into records. It has the filters of every source and the policy for bad documents."""

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Use the policy and the filters of `config`; `where` is the path of `config` in messages."""
        self.where = where
        self._min_chars = config.filters.min_chars
        self._strict = config.bad_documents == "strict"
        self._warnings = 0

    def document(self, number: int, text: str) -> Record:
        """A record of `text` without its last line break; it is dropped if it is blank or too short."""
        text = text.rstrip("\r\n")
        if not text or text.isspace():
            return Record(number, "", EMPTY)
        if len(text) < self._min_chars:
            return Record(number, "", "min_chars")
        return Record(number, text, "")

    def line(self, number: int, line: bytes) -> Record:
        """A record of a line of text; a blank line is not a document.

        Raises:
          FlawError: invalid UTF-8.
        """
        record = self.document(number, decode(line))
        return record._replace(dropped=BLANK) if record.dropped == EMPTY else record

    def unreadable(self, number: int, place: str, flaw: FlawError) -> Record:
        """A dropped record for a document that cannot be read; `place` is its file and line.

        Raises:
          UserError: the policy is strict.
        """
        if self._strict:
            raise UserError(
                f"{place}: {flaw}; {'replace the file' if flaw.reason in OF_FILES else 'correct the document'}, or set "
                f"{self.where}.bad_documents=skip to count and skip such documents"
            )
        self._warnings += 1
        if self._warnings <= SHOWN_WARNINGS:
            log.warning("skipped %s: %s", place, flaw)
        if self._warnings == SHOWN_WARNINGS:
            log.warning("further unreadable documents are counted but not shown")
        return Record(number, "", f"unreadable: {flaw.reason}")


def decode(line: bytes) -> str:
    """Decode UTF-8.

    Raises:
      FlawError: invalid UTF-8; the detail gives the first invalid byte, counted from 1.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FlawError("invalid UTF-8", f"byte {error.start + 1}, 0x{line[error.start]:02x}") from None


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object in one line of a JSON-lines file.

    Raises:
      FlawError: invalid UTF-8, broken JSON, or JSON that is not an object.
    """
    text = decode(line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        match error:
            case json.JSONDecodeError():
                what = f"{error.msg}, column {error.colno}"
            case RecursionError():
                what = "nested too deeply"
            case _:
                what = "a number with too many digits"
        raise FlawError("broken JSON", f"{what}; each line should be one whole JSON object") from None
    if not isinstance(value, dict):
        raise FlawError("broken JSON", f"a {type(value).__name__} where each line should be one JSON object")
    return value


def column_of(field: str, columns: Container[str]) -> str:
    """The column that holds a field: the column with its name, else the column named before its first dot."""
    return field if field in columns else field.split(".", 1)[0]


def value_of(record: Mapping[str, Any], field: str, setting: str) -> Any:
    """The value of a field. If a record on the way to a nested field is null, the value is null.

    Args:
      record: the record.
      field: a name, or names joined by dots for nested records.
      setting: the setting that names the field, for messages; '' if the user does not name it.

    Raises:
      FlawError: there is no such field; the detail lists the fields that exist.
    """
    value: Any = record
    column = column_of(field, record)
    for name in [column, *field.removeprefix(column).split(".")[1:]]:
        if value is None:
            return None
        if not isinstance(value, Mapping) or name not in value:
            raise FlawError("missing field", missing_field(field, record, setting))
        value = value[name]
    return value


def text_of(record: Mapping[str, Any], field: str, setting: str) -> str:
    """The text of a field (see `value_of`). Bytes are decoded as UTF-8; null becomes ''.

    Raises:
      FlawError: there is no such field, or it does not hold text.
    """
    value = value_of(record, field, setting)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return decode(value)
    if not isinstance(value, str):
        raise FlawError(
            "not text",
            f"field {field!r} holds {type(value).__name__}"
            + (f"; set {setting} to another field" if setting else ""),
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise FlawError("invalid Unicode", f"a lone surrogate at character {error.start + 1}") from None
    return value


def missing_field(field: str, present: Iterable[str], setting: str) -> str:
    """The message for a missing field: the fields that exist, and the setting that names it ('' for none)."""
    names = ", ".join(sorted(present)[:20]) or "none"
    return f"no field {field!r}; fields present: {names}" + (f"; set {setting}" if setting else "")


def refuse_metadata_filters(config: SourceConfig, where: str) -> None:
    """Refuse filters on metadata if the source's documents have no metadata; otherwise they would filter nothing.

    Raises:
      UserError: one of the filters on metadata is set.
    """
    for name in METADATA_FILTERS:
        if getattr(config.filters, name):
            raise UserError(
                f"{where}.filters.{name}={getattr(config.filters, name)!r} but {where}.source={config.source} has "
                f"no such metadata; only {where}.source=oscar has it (22.01: annotations and language; 23.01: "
                "harmful_pp too); unset it"
            )


def check_filters(filters: FilterConfig, where: str) -> None:
    """Refuse filter values that must be a mistake.

    Raises:
      UserError: a minimum is negative, or a probability is above 1.
    """
    for name in ("min_chars", "min_language_probability", "min_harmful_pp"):
        if getattr(filters, name) < 0:
            raise UserError(f"{where}.filters.{name}={getattr(filters, name)} should be 0 (off) or more")
    if filters.min_language_probability > 1:
        raise UserError(
            f"{where}.filters.min_language_probability={filters.min_language_probability} should be between 0 and 1"
        )


def digest(config: SourceConfig, parts: Iterable[Any]) -> str:
    """Fingerprint of a corpus: the kind of source, its content (`parts`, JSON-able), and the filters.

    It leaves out what does not change the documents' numbers: the location of the corpus, and `bad_documents`. So a run
    that met a bad document can continue with `skip`.
    """
    identity = [config.source, list(parts), dataclasses.asdict(config.filters)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

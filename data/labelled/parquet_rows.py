"""Rows of Parquet files; the ids of classes become their names where the file has names, as those of `datasets` do."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from base.errors import UserError
from data.labelled.tables import Row
from data.sources.paths import open_file

SCHEMA_KEY = b"huggingface"
"""The key of a Parquet schema's metadata under which `datasets` keeps the features of a data set."""
CLASSES, LISTS = "ClassLabel", ("List", "LargeList", "Sequence")


def parquet_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file.

    Raises:
      UserError: a damaged file, or text that is not UTF-8.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            names = declared_names(file.schema_arrow.metadata)
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", named(fields, names))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # open_file has its own UserError
        detail = " ".join(str(error).split())
        raise UserError(f"{path} is damaged, or no Parquet file: {detail[:200]}") from None


def parquet_names(path: str, column: str) -> tuple[str, ...]:
    """The classes that a Parquet file declares for a column, in the order of their ids; () where it declares none."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as opened:
            metadata = pyarrow.parquet.read_schema(opened).metadata
    except (pyarrow.ArrowException, OSError):
        return ()  # reading its rows says what is wrong
    return tuple(declared_names(metadata).get(column, ()))


def declared_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of classes by column, of a Parquet schema's metadata."""
    try:
        features = json.loads((metadata or {})[SCHEMA_KEY])["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names(feature))}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _names(feature: Any) -> list[str]:
    """The names of a feature's classes, in its JSON form; a list of classes has those of its members."""
    while isinstance(feature, Mapping) and feature.get("_type") in LISTS:
        feature = feature.get("feature")
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if isinstance(feature, Mapping) and feature.get("_type") == CLASSES:
        return [str(name) for name in feature.get("names") or ()]
    return []


def named(fields: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with the names of classes in place of their ids, in the columns of `names`."""
    return {
        name: _with_names(value, names[name]) if name in names else value for name, value in fields.items()
    }


def _with_names(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_with_names(each, names) for each in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

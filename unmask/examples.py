"""Examples in memory: lists of dicts and data sets of `datasets`, kept as Parquet files that a run reads."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from base import formatting
from base.errors import UserError
from pretrain.runtime.workdir import write_bytes

Rows = Sequence[Mapping[str, Any]] | Any
"""Examples: dicts with the same fields, or a `datasets.Dataset`. Classes are texts or
numbers, or those of its ClassLabel."""
FOLDER = "examples"
"""Folder in a workdir with the files."""
BATCH = 1000


def kept(rows: Mapping[str, Rows | None], workdir: epath.Path) -> dict[str, str]:
    """Keep examples in files of a workdir, so that a run can go on with them.

    The name of a file has a digest of its examples. So a run that goes on with other examples is refused.

    Args:
      rows: the examples by the name of their set (train, validation, test); None of those that are not given.
      workdir: the folder.

    Returns:
      The files by set.

    Raises:
      UserError: examples that are none, or whose fields have several types.
    """
    return {name: _kept(name, each, workdir) for name, each in rows.items() if each is not None}


def with_files(overrides: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """What is set on top of a config, with files of examples in place of other data."""
    given: dict[str, Any] = dict(overrides)
    if files:
        given |= {"data.source": "files"} | {f"data.{name}": file for name, file in files.items()}
    return given


def _kept(name: str, rows: Rows, workdir: epath.Path) -> str:
    import pyarrow.parquet

    dataset = _dataset(name, rows)
    digest = hashlib.sha256(repr(dataset.features).encode())
    for batch in dataset.with_format(None).iter(BATCH):
        digest.update(json.dumps(batch, default=str).encode())
    file = workdir / FOLDER / f"{name}-{digest.hexdigest()[:12]}.parquet"
    if not file.exists():
        content = io.BytesIO()
        table = dataset.with_format("arrow")[:].cast(
            dataset.features.arrow_schema
        )  # with the names of classes
        pyarrow.parquet.write_table(table, content)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content.getvalue())
    return str(file).replace(",", "\\,")


def _dataset(name: str, rows: Rows) -> Any:
    """The examples as a data set."""
    import datasets
    import pyarrow

    if isinstance(rows, datasets.Dataset):
        if not len(rows):
            raise UserError(f"{name} is a data set without rows")
        return rows
    if isinstance(rows, datasets.DatasetDict):
        raise UserError(f"{name} is a DatasetDict; give one of its splits: {', '.join(rows)}")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        raise UserError(
            f"{name} is {type(rows).__name__}; it should be a list of dicts or a datasets.Dataset. Files and data sets "
            f"of the hub are named by config.data.{name}"
        )
    if not rows:
        raise UserError(f"{name} is an empty list")
    fields = tuple(rows[0]) if isinstance(rows[0], Mapping) else ()
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or set(row) != set(fields):
            what = f"the fields {', '.join(row)}" if isinstance(row, Mapping) else type(row).__name__
            due = f"the fields {', '.join(fields)} of the first" if fields else "a dict"
            raise UserError(f"{name} row {number} is {what}; it should have {due}")
    try:
        return datasets.Dataset.from_list([dict(row) for row in rows])
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the values of a field have several types: {formatting.one_line(str(error))}"
        ) from None

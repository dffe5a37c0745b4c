"""Examples in memory: lists of dicts and data sets of `datasets`, kept as Parquet files that a run reads."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from base import formatting
from base.errors import UserError
from finetune.config import FinetuneConfig
from pretrain.runtime.workdir import write_bytes

Rows = Sequence[Mapping[str, Any]] | Any
"""Examples: dicts with the same fields, or a `datasets.Dataset`. Classes are texts or
numbers, or those of its ClassLabel."""
FOLDER = "examples"
"""Folder in a workdir with the files."""
BATCH = 1000


@dataclass(frozen=True)
class Kept:
    """Examples that are to be kept in files of a workdir, so that a run can go on with them."""

    files: Mapping[str, str]
    """The path of each set's file, as config.data names it."""
    _datasets: Mapping[epath.Path, Any]
    """The examples of each file."""

    @classmethod
    def of(cls, rows: Mapping[str, Rows | None], workdir: epath.Path) -> "Kept":
        """Name the files of examples; nothing is written yet.

        The name of a file has a digest of its examples. So a run that goes on with other examples is refused.

        Args:
          rows: the examples by the name of their set (train, validation, test); None of those that are not given.
          workdir: the folder.

        Raises:
          UserError: examples that are none, or whose fields have several types.
        """
        datasets = {name: _dataset(name, each) for name, each in rows.items() if each is not None}
        places = {name: workdir / FOLDER / _file_name(name, each) for name, each in datasets.items()}
        return cls(
            {name: str(place).replace(",", "\\,") for name, place in places.items()},
            {places[name]: each for name, each in datasets.items()},
        )

    def write(self) -> None:
        """Write the files that are not there."""
        import pyarrow.parquet

        for file, dataset in self._datasets.items():
            if not file.exists():
                content = io.BytesIO()
                table = dataset.with_format("arrow")[:].cast(
                    dataset.features.arrow_schema
                )  # with the names of classes
                pyarrow.parquet.write_table(table, content)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(file, content.getvalue())


def with_files(overrides: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """What is set on top of a config, with files of examples in place of its whole source.

    Sets that are not among the files are read only if the config names files of them.
    """
    given: dict[str, Any] = dict(overrides)
    if files:
        given |= {"data.source": "files"} | {f"data.{name}": file for name, file in files.items()}
    return given


def check_train(files: Mapping[str, str], config: FinetuneConfig) -> None:
    """Refuse rows to evaluate on or to predict, without anything to train on.

    Args:
      files: the files of the rows that are given.
      config: the run's, with these files.

    Raises:
      UserError: there is nothing to train on.
    """
    if files and not config.data.train:
        raise UserError(
            f"{' and '.join(files)} are rows, and train is not given: rows stand in place of a whole data set. Give "
            "train too (unmask.load_examples reads the rows of a data set), or set config.data.train to files"
        )


def _file_name(name: str, dataset: Any) -> str:
    digest = hashlib.sha256(repr(dataset.features).encode())
    for batch in dataset.with_format(None).iter(BATCH):
        digest.update(json.dumps(batch, default=str).encode())
    return f"{name}-{digest.hexdigest()[:12]}.parquet"


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
            what = (
                f"has the fields {', '.join(row)}" if isinstance(row, Mapping) else f"is {type(row).__name__}"
            )
            due = f"have the fields {', '.join(fields)} of the first" if fields else "be a dict"
            raise UserError(f"{name} row {number} {what}; it should {due}")
    try:
        return datasets.Dataset.from_list([dict(row) for row in rows])
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the values of a field have several types: {formatting.one_line(str(error))}"
        ) from None

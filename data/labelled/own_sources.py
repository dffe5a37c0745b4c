"""Where the examples of a task that is not GLUE's come from: files of the user's own, or any data set of the hub."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from base.errors import UserError
from base.hub_errors import one_line
from base.hub_patience import patiently
from data.config import SourceConfig
from data.labelled.column_files import COLUMN_FORMATS, column_rows
from data.labelled.config import LabelledConfig
from data.labelled.parquet_rows import named, parquet_names, parquet_rows
from data.labelled.tables import FORMATS, Row, delimited_rows, json_rows, text_lines
from data.sources.hub_errors import explain
from data.sources.paths import File, find_files, split_paths, suffixes

SPLITS = ("train", "validation", "test")
JSON = (".json", ".jsonl")


class OwnSource(Protocol):
    """A source of rows in up to three splits: train, validation and test."""

    @property
    def title(self) -> str:
        """The usual name of the task."""

    def has(self, split: str) -> bool:
        """Whether there is such a split."""

    def rows(self, split: str, columns: Mapping[str, str]) -> Iterator[Row]:
        """The rows of a split. Columns that must be there come with the settings that name them."""

    def names(self, split: str, column: str) -> tuple[str, ...]:
        """The classes that a split declares for a column, in the order of their ids; () where it declares none."""

    def origin(self, split: str) -> str:
        """The name of a split, for messages and results."""

    def setting(self, split: str) -> str:
        """The setting that names a split, with its value, for messages."""


def own_source(
    config: LabelledConfig, *, per_word: bool = False, formats: Sequence[str] = FORMATS
) -> OwnSource:
    """The source that config.data names.

    Args:
      config: the run's config.data.
      per_word: whether files of columns hold a word a line.
      formats: the formats of files, where none holds a word a line.

    Raises:
      UserError: no files, or a data set that cannot be read.
    """
    return HubTable(config) if config.source == "hub" else Files(config, per_word=per_word, formats=formats)


def check_names(config: LabelledConfig) -> None:
    """Refuse config.data.label_names that are no names of classes.

    Raises:
      UserError: scores have no classes, or there are fewer than two names, or one is empty or there twice.
    """
    names = list(config.label_names)
    if names and config.regression:
        raise UserError(
            f"config.data.label_names={names} are names of classes, but config.data.regression=True learns scores; "
            "unset one of them"
        )
    if names and (len(set(names)) < max(len(names), 2) or not all(map(str.strip, names))):
        raise UserError(f"config.data.label_names={names} should be two or more names, each once")


class Files:
    """The files in config.data.train, validation and test."""

    def __init__(self, config: LabelledConfig, *, per_word: bool, formats: Sequence[str] = FORMATS):
        if not any((config.train, config.validation, config.test)):
            *others, last = ("columns", ".jsonl", ".parquet") if per_word else formats
            kinds = f"{', '.join(others)} or {last} files".replace(".", "")
            raise UserError(
                f"config.data.train, validation and test are empty; set those that you need to {kinds}"
            )
        self._config = config
        self._formats = (*COLUMN_FORMATS, *JSON, ".parquet") if per_word else formats
        self._per_word = per_word

    @property
    def title(self) -> str:
        """The name of the first file."""
        named = next(path for split in SPLITS if (path := getattr(self._config, split)))
        return PurePosixPath(split_paths(named)[0]).name

    def has(self, split: str) -> bool:
        """Whether the config names files for it."""
        return bool(getattr(self._config, split))

    def rows(self, split: str, columns: Mapping[str, str]) -> Iterator[Row]:
        """The rows of all files of a split, one file after another."""
        for file in self.files(split):
            kind = suffixes(file.path)[0]
            if self._per_word and kind in COLUMN_FORMATS:
                yield from column_rows(text_lines(file.path), file.path, kind)
            else:
                yield from rows_of_file(file.path, columns)

    def names(self, split: str, column: str) -> tuple[str, ...]:
        """Those of the first file, if it is Parquet."""
        first = self.files(split)[0].path
        return parquet_names(first, column) if suffixes(first)[0] == ".parquet" else ()

    def origin(self, split: str) -> str:
        """The names of its files."""
        names = ", ".join(PurePosixPath(path).name for path in split_paths(getattr(self._config, split)))
        return f"files {names}"

    def setting(self, split: str) -> str:
        """The field with its files."""
        return f"config.data.{split}={getattr(self._config, split)!r}"

    def files(self, split: str) -> Sequence[File]:
        """The files of a split.

        Raises:
          UserError: a file is missing, or has a format that is not read.
        """
        where = f"config.data.{split}"
        files = find_files(getattr(self._config, split), where)
        for file in files:
            kind, packed = suffixes(file.path)
            if kind not in self._formats or (kind == ".parquet" and packed):
                raise UserError(
                    f"{where}: {file.path!r} is none of {', '.join(self._formats)}; all but .parquet may also end "
                    "in .gz or .zst"
                )
        return files


def rows_of_file(path: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a table: csv, tsv, json, jsonl or parquet.

    Args:
      path: the file.
      columns: columns that must be there, with the settings that name them.
    """
    kind = suffixes(path)[0]
    if kind == ".parquet":
        return parquet_rows(path)
    return json_rows(path) if kind in JSON else delimited_rows(path, columns, quoted=kind == ".csv")


class HubTable:
    """A data set of the hub, or a folder in its layout. No code of a data set is run."""

    def __init__(self, config: LabelledConfig):
        from datasets import load_dataset

        self._config, name = config, config.name
        if not name:
            raise UserError(
                "config.data.name is empty; set it to a data set's id on the hub, or config.task to a GLUE task"
            )
        if config.revision and Path(name).expanduser().exists():
            raise UserError(
                f"config.data.revision={config.revision!r} is of a data set on the hub, but config.data.name={name!r} "
                "is a folder; unset it"
            )
        asked = SourceConfig(source="hub", name=name, subset=config.subset, revision=config.revision)
        where = str(Path(name).expanduser()) if Path(name).expanduser().exists() else name
        try:
            self._dataset: Any = patiently(
                lambda: load_dataset(where, config.subset or None, revision=config.revision or None)
            )
        except Exception as error:  # datasets, huggingface_hub and pyarrow raise many types
            if type(error).__name__ == "DatasetGenerationError":
                raise UserError(
                    f"config.data.name={name!r}: a data file is empty or cannot be read: "
                    f"{one_line(error.__cause__ or error)}"
                ) from error
            raise explain(error, asked, "config.data") from error
        for split in SPLITS:
            if (given := getattr(config, split)) and given not in self._dataset:
                raise UserError(
                    f"config.data.{split}={given!r} is not a split of {name!r}; choose one of "
                    f"{', '.join(self._dataset)}"
                )

    @property
    def title(self) -> str:
        """The last part of its id, and its configuration."""
        return " ".join(filter(None, (PurePosixPath(self._config.name).name, self._config.subset)))

    def has(self, split: str) -> bool:
        """Whether the config names it, or the data set has a split of this name."""
        return self._split(split) in self._dataset

    def rows(self, split: str, columns: Mapping[str, str]) -> Iterator[Row]:
        """The rows, with the names of classes in place of their ids."""
        dataset = self._dataset[self._split(split)]
        names = {column: of for column in dataset.column_names if (of := _class_names(dataset, column))}
        for number, fields in enumerate(dataset, 1):
            yield Row(f"{self.origin(split)} row {number}", named(fields, names))

    def names(self, split: str, column: str) -> tuple[str, ...]:
        """Those of its ClassLabel."""
        return tuple(_class_names(self._dataset[self._split(split)], column))

    def origin(self, split: str) -> str:
        """Where it is, and the split."""
        config, local = self._config, Path(self._config.name).expanduser().exists()
        where = ("folder", self.title) if local else ("hub", config.name, config.subset)
        return " ".join(filter(None, (*where, self._split(split))))

    def setting(self, split: str) -> str:
        """The data set."""
        return f"config.data.name={self._config.name!r}"

    def _split(self, split: str) -> str:
        return getattr(self._config, split) or split


def _class_names(dataset: Any, column: str) -> list[str]:
    """The names of a column's classes, or of the members of its lists; [] where it has none."""
    feature = dataset.features.get(column)
    while (inside := getattr(feature, "feature", None)) is not None:
        feature = inside
    names = getattr(feature, "names", None)
    return [str(name) for name in names] if names else []  # YAML reads a card's `no` and `yes` as booleans

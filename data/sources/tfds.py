"""Documents of a data set prepared by TensorFlow Datasets; they are read by number, without TensorFlow."""

from collections.abc import Iterator, Sequence
from typing import Any

from base.errors import UserError
from data.config import SourceConfig
from data.source_protocol import Record
from data.sources.documents import (
    FlawError,
    Gate,
    column_of,
    digest,
    missing_field,
    refuse_metadata_filters,
    text_of,
)

BATCH = 256


class TfdsSource:
    """A split of a data set in ArrayRecord format; its shards are the split's files.

    Raises:
      UserError: the data set, split or text field does not exist, or the data set's format has no random access.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Open the data set of `config`; `where` is the path of `config` in messages."""
        refuse_metadata_filters(config, where)
        self._config = config
        self._gate = Gate(config, where)
        builder = prepared_builder(config.name, config.data_dir, where)
        _check(builder.info, config, where)
        self._info = builder.info
        self._column = column_of(config.text_field, self._info.features)
        self._data = random_access(builder, config.split, config.name, where)
        lengths = self._info.splits[config.split].shard_lengths
        self._starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
        if not self._starts[-1]:
            raise UserError(f"{where}.split={config.split!r} of {config.name!r} has no documents")

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards: the split's files."""
        return [str(name) for name in self._info.splits[self._config.split].filenames]

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Records of one shard from `start` on (see `data.source_protocol.Source.read`)."""
        first, end = self._starts[shard], self._starts[shard + 1]
        place = f"{self._config.name}: {self.shards[shard]}"
        for low in range(first + start, end, BATCH):
            keys = range(low, min(low + BATCH, end))
            for number, example in zip(keys, self._data.__getitems__(list(keys))):
                yield self._record(number - first, example, place)

    def fingerprint(self) -> str:
        """Hex digest of the data set's full name, split, text field, shard sizes, and the filters."""
        lengths = [end - start for start, end in zip(self._starts, self._starts[1:])]
        return digest(
            self._config, [self._info.full_name, self._config.split, self._config.text_field, *lengths]
        )

    def _record(self, number: int, example: Any, place: str) -> Record:
        try:
            fields = {self._column: decoded(example[self._column])}
            return self._gate.document(
                number, text_of(fields, self._config.text_field, f"{self._gate.where}.text_field")
            )
        except UnicodeDecodeError as error:
            flaw = FlawError("invalid UTF-8", f"byte {error.start + 1} of the text")
        except FlawError as other:
            flaw = other
        return self._gate.unreadable(number, f"{place} record {number + 1}", flaw)


def prepared_builder(name: str, data_dir: str, where: str) -> Any:
    """The builder of a data set that is prepared on disk. It never prepares one: that takes TensorFlow and hours.

    Raises:
      UserError: the data set is not prepared.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    folder = data_dir or "~/tensorflow_datasets"
    try:
        return builder_from_files(name, **({"data_dir": data_dir} if data_dir else {}))
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"{where}.name={name!r} is not prepared in {folder!r}; run `tfds build {name} --file_format=array_record`, "
            f"or set {where}.data_dir to the folder that holds it"
        ) from error


def random_access(builder: Any, split: str, name: str, where: str) -> Any:
    """The examples of a split, with access by number.

    Raises:
      UserError: the data set is prepared in a format without random access.
    """
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError:
        raise UserError(
            f"{where}.name={name!r} is prepared as {builder.info.file_format.value}, "
            "which has no random access; prepare it again with `tfds build --file_format=array_record`"
        ) from None


def decoded(value: Any) -> Any:
    """The value of a TFDS feature, with text in place of bytes, also in nested features."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {name: decoded(part) for name, part in value.items()}
    return value


def _check(info: Any, config: SourceConfig, where: str) -> None:
    if config.split not in info.splits:
        known = ", ".join(map(repr, info.splits))
        raise UserError(
            f"{where}.split={config.split!r} is not a split of {config.name!r}; choose one of {known}"
        )
    if column_of(config.text_field, info.features) not in info.features:
        missing = missing_field(config.text_field, info.features, f"{where}.text_field")
        raise UserError(f"{where}.name={config.name!r}: {missing}")

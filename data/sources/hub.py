"""Documents of a data set on the Hugging Face hub, streamed through `datasets`.

The token comes from huggingface_hub (HF_TOKEN, or a login); this module never reads or shows it.
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from base.errors import UserError
from base.hub_errors import may_pass, one_line
from base.hub_patience import ATTEMPTS, patiently, pause
from base.hub_requests import REQUESTS
from data.config import SourceConfig
from data.source_protocol import Record, RecordsOfShards, Source
from data.sources.documents import FlawError, Gate, column_of, digest, missing_field, refuse_metadata_filters
from data.sources.file_parts import READERS, has_equal_shares
from data.sources.hub_errors import explain
from data.sources.table_rows import row_records

BATCH = 256
CLIENT_LIMITS = {
    "STREAMING_OPEN_MAX_RETRIES": 1,
    "STREAMING_READ_MAX_RETRIES": 1,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 20,
}
"""Largest number of tries, and seconds after a try, within `datasets` for each of our tries. huggingface_hub, which
`datasets` uses, has further tries of its own."""


class HubSource:
    """A streamed configuration and split of a data set. Its shards are the data set's own, usually its files.

    A broken connection is tried again from the last record, a few times with growing pauses. So is a hub that is busy,
    after the time that it asks for. If a file is damaged, one
    dropped record stands for the rest of its shard.

    Raises:
      UserError: the data set is unknown or gated; the configuration, split or text field is unknown; or there is no
        connection.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Open the data set of `config`; `where` is the path of `config` in messages."""
        refuse_metadata_filters(config, where)
        if not config.name:
            raise UserError(
                f"{where}.name is empty; set it to a data set's id on the hub, such as 'HPLT/HPLT2.0_cleaned'"
            )
        self._config = config
        self._where = where
        self._gate = Gate(config, where)
        _bound_retries()
        REQUESTS.watch()
        try:
            patiently(self._open)
        except UserError:
            raise
        except Exception as error:  # datasets, huggingface_hub and pyarrow raise many types
            raise explain(error, config, where) from error

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards: paths of files in the repository if each file is one shard."""
        return self._shards

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Records of one shard from `start` on: see `data.source_protocol.Source.read`.

        Earlier records are downloaded too.

        Raises:
          UserError: also if the connection stays broken.
        """
        return self._read(self._dataset, self._shards, shard, start)

    def _read(self, dataset: Any, names: Sequence[str], shard: int, start: int) -> Iterator[Record]:
        """Records of one of a dataset's shards, or of its groups of shards, with these names."""
        part = dataset.shard(len(names), shard).select_columns([self._column])
        place = f"{self._config.name}: {names[shard]}"
        reached = start
        failures = 0
        while True:
            REQUESTS.watch()
            try:
                for record in self._records(part, place, reached):
                    yield record
                    reached = record.number + 1
                    failures = 0
                REQUESTS.tell()
                return
            except UserError:
                raise
            except Exception as error:  # the same as above
                failures += 1
                if failures == ATTEMPTS or not may_pass(error):
                    raise explain(error, self._config, self._where) from error
                pause(error, failures)

    @functools.lru_cache  # noqa: B019 - a run has few sources, which live as long as the run
    def divided(self, count: int, streams: int) -> Source | str:
        """See `data.source_protocol.Divisible`: row groups of Parquet files; `datasets` divides no other format."""
        try:
            dataset = patiently(self._dataset.reshard)
            if (groups := dataset.num_shards) < count:
                return f"{self._config.name} on the hub has {groups} files or row groups, fewer than {count}"
            sizes = self._group_sizes()
        except Exception as error:  # the same as above
            raise explain(error, self._config, self._where) from error
        # Parts are contiguous shards, of which the first parts have one more.
        if not has_equal_shares([float(part.sum()) for part in np.array_split(sizes, count)], streams):
            return f"{self._config.name} on the hub has row groups of unequal sizes"
        names = [f"{self._config.split} {part}/{count}" for part in range(count)]
        return RecordsOfShards(names, lambda *place: self._read(dataset, names, *place), self.fingerprint())

    def _group_sizes(self) -> list[int]:
        """Bytes of text in each row group of the Parquet files."""
        with ThreadPoolExecutor(READERS) as readers:
            sizes = readers.map(lambda file: patiently(lambda: _text_bytes(file, self._column)), self._files)
            return [size for of_file in sizes for size in of_file]

    def fingerprint(self) -> str:
        """Hex digest of id, revision, configuration, split, text field, shards, filters, and the card's count."""
        config = self._config
        return digest(
            config,
            [
                config.name,
                config.revision,
                config.subset,
                config.split,
                config.text_field,
                self._counted,
                *self._shards,
            ],
        )

    def _open(self) -> None:
        from datasets import load_dataset_builder

        config = self._config
        builder = load_dataset_builder(config.name, config.subset or None, revision=config.revision or None)
        self._dataset = builder.as_streaming_dataset(split=config.split)
        known = (builder.info.splits or {}).get(config.split)
        self._counted = known.num_examples if known else None
        columns = self._dataset.column_names or next(iter(_tables(self._dataset, BATCH))).column_names
        self._column = column_of(config.text_field, columns)
        if self._column not in columns:
            setting = f"{self._where}.text_field"
            raise UserError(f"{config.name}: {missing_field(config.text_field, columns, setting)}")
        count = self._dataset.num_shards
        self._files = [str(file) for file in (builder.config.data_files or {}).get(config.split, [])]
        if len(self._files) == count:
            self._shards = [file.split("@", 1)[-1].split("/", 1)[-1] for file in self._files]
        else:
            self._shards = [f"{config.split}-{index:05d}-of-{count:05d}" for index in range(count)]

    def _records(self, part: Any, place: str, start: int) -> Iterator[Record]:
        reached = start
        # At damage `datasets` discards the rows of the incomplete batch. A second pass reads rows one by one.
        for batch in (BATCH, 1):
            number = 0
            try:
                for table in _tables(part, batch):
                    yield from row_records(table, number, reached, place, self._config.text_field, self._gate)
                    number += len(table)
                    reached = max(reached, number)
                return
            except UserError:
                raise
            except Exception as error:  # the same as above
                if may_pass(error):
                    raise
                damage = error
        if number >= start:
            flaw = FlawError("damaged file", one_line(damage))
            yield self._gate.unreadable(number, f"{place} after row {number}", flaw)


def _tables(dataset: Any, batch: int) -> Iterator[Any]:
    yield from dataset.with_format("arrow").iter(batch_size=batch)


def _text_bytes(url: str, column: str) -> list[int]:
    """Unpacked bytes of a column, nested ones too, in each row group of a Parquet file."""
    import fsspec
    import pyarrow.parquet

    with fsspec.open(url, "rb") as opened:
        facts = pyarrow.parquet.ParquetFile(opened).metadata
    names = [facts.schema.column(index).path for index in range(facts.num_columns)]
    chosen = [index for index, name in enumerate(names) if f"{name}.".startswith(f"{column}.")]
    groups = map(facts.row_group, range(facts.num_row_groups))
    return [sum(group.column(index).total_uncompressed_size for index in chosen) for group in groups]


def _bound_retries() -> None:
    """Limit the retries of `datasets` itself: with its defaults one of our tries can take ten minutes."""
    import datasets.config

    for name, most in CLIENT_LIMITS.items():
        setattr(datasets.config, name, min(getattr(datasets.config, name), most))

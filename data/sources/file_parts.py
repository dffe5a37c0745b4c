"""Divides few large files into parts, so that each stream reads parts of its own and no process reads everything.

A part of a .txt or .jsonl file is a range of bytes, of a .zst file the frames that begin in a range of bytes, and of a
.parquet file a range of row groups. A file of one part is read as a whole, so it may have any form. Parts depend on
names, sizes, row groups and the number of parts alone: they are the same on every machine.
"""

import functools
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from base.storage import is_remote
from data.source_protocol import Record, RecordsOfShards, Source
from data.sources.paths import File, open_part, suffixes
from data.sources.zstandard_blocks import frame_end

LEAST_PART = 2**20
"""Mean size of a part in bytes, at least; smaller corpora are not divided."""
MOST_UNEVEN = 0.25
"""Largest difference of a stream's share from the mean, as a part of the mean; files that give a larger one are not
divided."""
FRAMES_OF_A_PART = 4
"""A .zst file is divided if its first frame is so many times smaller than a part."""
NOT_DIVIDED = ("http", "https", "ftp")
"""Stores that may give a file from its beginning only."""
KEPT_FOOTERS = 64
READERS = 16
"""Footers of Parquet files that are read at a time."""


class Part(NamedTuple):
    """A part of a file; if it is the only one, it is the whole file, and `start` and `stop` are not used."""

    file: int
    """Number of the file."""
    start: int
    """First byte, or first row group of a .parquet file."""
    stop: int
    """Byte or row group after the last."""
    size: float
    """Size in bytes, for comparison."""


class Units(NamedTuple):
    """Into how many parts a file can be divided."""

    most: int
    ends: int
    """Bytes, or row groups, of the file."""
    why: str = ""
    """Why it is only one."""
    groups: Sequence[int] = ()
    """Sizes of the row groups of a .parquet file that is larger than a part."""


def divide(files: Sequence[File], whole: Sequence[int], count: int, streams: int) -> list[Part] | str:
    """Divide files into `count` parts of similar size.

    Args:
      files: the files, fewer than `count`.
      whole: numbers of files that cannot be divided for a reason of their own.
      count: number of parts; a multiple of `streams`.
      streams: part p is of stream p modulo `streams`.

    Returns:
      The parts in the order of the files; or the reason why not, empty if the files are small.
    """
    total = sum(file.size for file in files)
    if total < count * LEAST_PART:
        return ""
    target = total // count
    footer.cache_clear()  # a file may have been written anew since another source was opened

    def units(number: int) -> Units:
        file = files[number]
        if file.size <= target:
            return Units(1, file.size)
        return Units(1, file.size, "is a text and its metadata") if number in whole else _units(file, target)

    with ThreadPoolExecutor(READERS) as readers:
        known = list(readers.map(units, range(len(files))))
    counts = _shared_out([file.size for file in files], [each.most for each in known], count)
    divided = [
        part
        for number, (n, each) in enumerate(zip(counts, known, strict=True))
        for part in _parts(number, files[number].size, each, n)
    ]
    if len(divided) == count and has_equal_shares([part.size for part in divided], streams):
        return divided
    largest = max(divided, key=lambda part: part.size).file
    return f"{files[largest].name} {_why_unequal(known[largest], counts[largest])}"


def has_equal_shares(sizes: Sequence[float], streams: int) -> bool:
    """Whether streams get similar amounts of text from parts of these sizes; part p is of stream p modulo `streams`."""
    mean = sum(sizes) / streams
    shares = [sum(sizes[stream::streams]) for stream in range(streams)]
    return all(abs(share - mean) <= MOST_UNEVEN * mean for share in shares)


def _parts(number: int, size: int, units: Units, count: int) -> Iterator[Part]:
    """The parts of one file. The first ones have one row group more: parts in turn are of different streams."""
    least, more = divmod(units.ends, count)
    for index in range(count):
        if units.groups:
            start, stop = (least * place + min(place, more) for place in (index, index + 1))
        else:
            start, stop = (place * units.ends // count for place in (index, index + 1))
        share = sum(units.groups[start:stop]) / sum(units.groups) if sum(units.groups) else 1 / count
        yield Part(number, start, stop, size * share)


def _why_unequal(units: Units, count: int) -> str:
    """Why files have no parts of equal shares, of which the largest is of a file in `count` parts."""
    if units.why:
        return units.why
    if not units.groups:
        return "and the other files have too different sizes for equal shares"
    return f"has only {units.most} row groups" if count == units.most else "has row groups of unequal sizes"


def _shared_out(sizes: Sequence[int], most: Sequence[int], count: int) -> list[int]:
    """The number of parts of each file: one, and one more as long as its parts are the largest and it can have more."""
    parts = [1] * len(sizes)
    largest: list[tuple[float, int]] = [
        (-size, number) for number, size in enumerate(sizes) if most[number] > 1
    ]
    heapq.heapify(largest)
    for _ in range(count - len(sizes)):
        if not largest:
            break
        _, number = heapq.heappop(largest)
        parts[number] += 1
        if parts[number] < most[number]:
            heapq.heappush(largest, (-sizes[number] / parts[number], number))
    return parts


def _units(file: File, target: int) -> Units:
    format_, compression = suffixes(file.path)
    if is_remote(file.path) and file.path.split("://", 1)[0] in NOT_DIVIDED:
        return Units(1, file.size, "is in a store that may give files from their beginning only")
    if format_ == ".parquet":
        groups = _row_groups(file.path)
        return Units(max(len(groups), 1), len(groups), "" if groups else "has no row group", groups)
    if compression == ".gz":
        return Units(1, file.size, "is a .gz file, which can be read from its beginning only")
    if compression == ".zst":
        limit = target // FRAMES_OF_A_PART
        with open_part(file.path, limit) as opened:
            if frame_end(opened, 0, limit) is None:
                return Units(1, file.size, "is a .zst file of one frame or of few")
    return Units(file.size, file.size)


def _row_groups(path: str) -> list[int]:
    """Sizes of the row groups of a .parquet file, unpacked."""
    import pyarrow

    try:
        facts = footer(path)
    except (pyarrow.ArrowException, OSError):
        return [1]  # it is reported when it is read
    return [facts.row_group(group).total_byte_size for group in range(facts.num_row_groups)]


@functools.lru_cache(maxsize=KEPT_FOOTERS)
def footer(path: str) -> Any:
    """The footer of a Parquet file (pyarrow's FileMetaData), which lists its row groups; each part needs it.

    Raises:
      pyarrow.ArrowException: the file is damaged; or OSError.
    """
    import pyarrow.parquet

    with open_part(path) as opened:
        return pyarrow.parquet.read_metadata(opened)


def divided_source(
    source: Source, parts: Sequence[Part], read_part: Callable[[Part, int], Iterator[Record]]
) -> Source:
    """The source whose shards are parts of the files of `source`.

    A file of one part is read by `source` itself, the others by `read_part(part, number of the first record)`.
    """
    counts, names = Counter(part.file for part in parts), source.shards
    shards = [
        names[part.file] if counts[part.file] == 1 else f"{names[part.file]} [{part.start}:{part.stop}]"
        for part in parts
    ]

    def read(shard: int, start: int) -> Iterator[Record]:
        part = parts[shard]
        return source.read(part.file, start) if counts[part.file] == 1 else read_part(part, start)

    return RecordsOfShards(shards, read, source.fingerprint())

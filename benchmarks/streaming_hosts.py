"""Many simulated hosts stream a corpus of few large files from a stub of a bucket: bytes that are read, and memory.

    python -m benchmarks.streaming_hosts --path big.txt --hosts 256

Each host has one stream and reads one epoch, one host after another. The bucket counts the bytes of each request. It is
checked that every document is read once. With `--text`, the file is written first, from the lines of that text: .txt,
.txt.zst in frames, or .parquet.
"""

import argparse
import hashlib
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from data.config import DataConfig, SourceConfig
from data.document_counts import Counts
from data.sources.files import FilesSource
from data.streams import division, open_documents

GROUP, ROW_GROUP = 2**17, 2**20
"""Bytes of text in a frame, and in a row group."""


class Bucket(AbstractFileSystem):
    """Local files behind the reading of fsspec's stores; bytes and requests are counted."""

    protocol = "stub"
    served = requests = 0

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size of a file."""
        path = "/" + self._strip_protocol(path).lstrip("/")
        return {"name": path, "size": Path(path).stat().st_size, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AbstractBufferedFile:
        options = {name: options[name] for name in ("block_size", "cache_type") if options.get(name)}
        return _Object(self, path, mode, **options)


class _Object(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        with Path("/" + self.path.lstrip("/")).open("rb") as file:
            file.seek(start)
            content = file.read(end - start)
        Bucket.served += len(content)
        Bucket.requests += 1
        return content


def write(text: Path, out: Path, megabytes: int) -> None:
    """Write numbered lines of a text until they have this size; .txt, .txt.zst in frames, or .parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    lines = [line for line in text.read_text().splitlines() if line.strip()]
    numbered = (f"{number} {line}" for number, line in enumerate(itertools.cycle(lines)))
    schema = pa.schema([("text", pa.string())])
    with out.open("wb") as file:
        table = pq.ParquetWriter(file, schema) if out.suffix == ".parquet" else None
        while file.tell() < megabytes * 10**6:
            group, size = [], 0
            while size < (GROUP if table is None else ROW_GROUP):
                group.append(next(numbered))
                size += len(group[-1])
            if table is not None:
                table.write_table(pa.table({"text": group}, schema))
            else:
                content = ("\n".join(group) + "\n").encode()
                file.write(zstandard.compress(content) if out.suffix == ".zst" else content)
        if table is not None:
            table.close()


def measure(path: str, hosts: int) -> None:
    """Read an epoch on each host, and print what it took."""
    fsspec.register_implementation("stub", Bucket, clobber=True)
    config = DataConfig(source="files", path=f"stub://{path}", streams=hosts, eval_fraction=0.0)
    whole = FilesSource(SourceConfig(source="files", path=path))
    size = Path(path).stat().st_size
    documents = total = 0
    for record in whole.read(0):
        if not record.dropped:
            documents, total = documents + 1, total ^ _hash(record.text)
    served, peaks, startup = [], [], []
    for host in range(hosts):
        source = FilesSource(SourceConfig(source="files", path=config.path))
        Bucket.served = Bucket.requests = 0
        assert not isinstance(why := division(config, source), str), why
        startup.append(Bucket.served)
        if traced := host == hosts // 2:
            tracemalloc.start()
        stream, counts = open_documents(config, [source], 0, {host: None})[host], Counts()
        while (text := stream.read(counts)) is not None:
            total ^= _hash(str(text))
            documents -= 1
        if traced:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        served.append((Bucket.served - startup[-1], Bucket.requests))
    read = [each for each, _ in served]
    print(
        f"{path}: {size / 1e6:.0f} MB, {hosts} hosts: {sum(read) / size:.3f} of the corpus in one epoch; a host "
        f"{min(read) * hosts / size:.2f} to {max(read) * hosts / size:.2f} of its share, {max(n for _, n in served)} "
        f"requests at most, and {max(startup) / 1e3:.0f} kB before; Python's memory {peaks[0] / 1e6:.1f} MB; "
        f"every document once: {documents == 0 and total == 0}"
    )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def main() -> None:
    """Write a file if asked to, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True)
    parser.add_argument("--hosts", type=int, default=256)
    parser.add_argument("--text", help="write --path from the lines of this file first")
    parser.add_argument("--mb", type=int, default=2300)
    arguments = parser.parse_args()
    if arguments.text:
        write(Path(arguments.text), Path(arguments.path), arguments.mb)
    measure(str(Path(arguments.path).absolute()), arguments.hosts)


if __name__ == "__main__":
    main()

"""The files of a preparation that has not ended: what each task leaves for the next stage.

A task writes its files under temporary names and renames them at its end. So a task that was killed leaves nothing that
a later stage would read, and is done again. The names have the process's number: a process whose command was killed may
still be at the same task for a while, and writes the same.
"""

import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from etils import epath

from base.storage import is_remote, write_bytes

ATTEMPTS, PAUSE = 20, 0.5
"""Attempts to remove the folder, and seconds between them."""
PART = ".tmp"
"""The end of the name of a file that is not whole."""

TABLE = np.dtype([("digest", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("source", "<u4")])
"""A document of a run: its digest, where its ids begin in the file of ids, how many they are, and its source."""


@dataclass(frozen=True)
class Work:
    """The folder of work of a preparation."""

    folder: Path

    def path(self, stage: str, rank: int, suffix: str) -> Path:
        """The file of a task."""
        return self.folder / stage / f"{rank:05d}{suffix}"

    def names(self, stage: str, suffix: str) -> list[Path]:
        """The files of a stage with this suffix, in the order of its tasks."""
        return sorted((self.folder / stage).glob(f"[0-9]*{suffix}"))

    def remove(self) -> None:
        """Remove the folder, which is the preparation's own.

        A process whose command was killed may still write there for some seconds.
        """
        for _ in range(ATTEMPTS):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(PAUSE)

    def json(self, stage: str, rank: int) -> dict[str, Any]:
        """The facts of a task that has ended."""
        found: dict[str, Any] = json.loads(self.path(stage, rank, ".json").read_text())
        return found


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file of these parts that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    with part.open("wb") as file:
        file.writelines(parts)
    part.replace(path)


def temporary(path: Path) -> Path:
    """The name of a file until it is whole."""
    return path.with_name(f"{path.name}.{os.getpid()}{PART}")


def publish(path: epath.Path, content: bytes) -> None:
    """Write a file of the output, local or in a bucket; it appears whole."""
    if is_remote(path):
        write_bytes(path, content)
    else:
        write_whole(Path(path), [content])


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file that appears whole."""
    write_whole(path, [json.dumps(values, indent=1).encode()])


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    with part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    part.replace(path)


def read_array(path: Path) -> np.ndarray:
    """An array that stays on the disk."""
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


class TextWriter:
    """Writes texts to a Zstandard file, each as a line of JSON; the file appears when it is closed."""

    def __init__(self, path: Path):
        """Begin the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._temporary = path, temporary(path)
        self._file = self._temporary.open("wb")
        self._writer = zstandard.ZstdCompressor(level=3).stream_writer(self._file)

    def write(self, text: str) -> None:
        """Append a text."""
        self._writer.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """End the file."""
        self._writer.close()
        self._file.close()
        self._temporary.replace(self._path)


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file that a TextWriter wrote."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        for line in io.TextIOWrapper(reader, encoding="utf-8", newline="\n"):
            yield json.loads(line)["text"]

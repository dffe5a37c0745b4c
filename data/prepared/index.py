"""The format of a prepared corpus: a folder with shards of token ids, and `index.json`, which is written last.

A shard is an ArrayRecord file. A record is a document: 8 bytes with the digest of its text, 4 with the number of its
source, and its ids. All documents are in the order of their digests, over all shards. So the held-out documents, whose
digests are the smallest, are the first. Beside each shard, a `.lengths` file has the number of tokens of each document
(uint32), so that rows can be counted without reading the shard. All numbers are little-endian.
"""

import dataclasses
import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from etils import epath

from base.errors import UserError
from base.json_files import json_object
from base.storage import explained

INDEX = "index.json"
TOKENIZER = "tokenizer"
"""The folder of the tokenizer that made the ids."""
WORK = "unmask-prepare"
"""The folder of a preparation that has not ended, in --work or in --out; it is removed at the end."""
SHARD_NAME = re.compile(r"shard-\d{5,}-of-\d{5,}\.array_record", re.ASCII)
FORMAT = 1
HEADER = struct.Struct("<QI")
IDS: Mapping[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
LENGTHS = np.dtype("<u4")

Part = TypeVar("Part")


def lengths_of(shard: str) -> str:
    """The file beside a shard with the lengths of its documents."""
    return shard.removesuffix(".array_record") + ".lengths"


def packed(digest: int, source: int, ids: np.ndarray) -> bytes:
    """A document as a record; `ids` has the type of the shards."""
    return HEADER.pack(digest, source) + ids.tobytes()


@dataclass(frozen=True)
class Shard:
    """One shard."""

    name: str
    documents: int
    tokens: int
    first: int
    """A digest: none in the shard is smaller, and all in the shards before are."""
    bytes: int
    """Size of the file."""
    checksum: str
    """XXH3 of the file, 128 bits in hex."""


@dataclass(frozen=True)
class SourceCounts:
    """What one source has in the shards."""

    name: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class Index:
    """The content of `index.json`."""

    ids: str
    """The type of ids: uint16 or uint32."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    made_from: str
    """Digest of the configuration and of the corpus."""
    sources: tuple[SourceCounts, ...]
    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int:
        """The number of documents."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """The number of tokens, without special ones."""
        return sum(shard.tokens for shard in self.shards)

    def fingerprint(self) -> str:
        """Hex digest of everything in the shards."""
        content = [self.ids, self.tokenizer, *(dataclasses.astuple(shard) for shard in self.shards)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `index.json`."""
        total = {"documents": self.documents, "tokens": self.tokens}
        return json.dumps({"format": FORMAT, **total, **dataclasses.asdict(self)}, indent=1) + "\n"


def read_index(folder: epath.Path, setting: str) -> Index:
    """Read the index of a prepared corpus.

    Args:
      folder: the folder.
      setting: the field that gave the folder and its value, for messages.

    Raises:
      UserError: there is none, or it is damaged, or of another format; the message says how to go on.
    """
    file = folder / INDEX
    with explained(folder, setting.partition("=")[0]):
        if not file.exists():
            if folder.name == INDEX and folder.exists():
                raise UserError(f"{setting} is the index of a corpus; name its folder, {folder.parent}")
            if not folder.exists():
                raise UserError(
                    f"{setting}: there is no such folder; name one that `python -m data.prepare` wrote"
                )
            if (folder / WORK).exists() or any(folder.glob("shard-*")):
                raise UserError(
                    f"{setting} is not whole: its preparation was stopped before {INDEX} was written; run the same "
                    "`python -m data.prepare` again, which goes on where it stopped"
                )
            raise UserError(
                f"{setting} has no {INDEX}: it should be a folder that `python -m data.prepare --out` wrote"
            )
        try:
            return _parsed(json_object(file))
        except ValueError as error:
            raise UserError(
                f"{file} is damaged ({' '.join(str(error).split())}); prepare the corpus again"
            ) from error


def _parsed(values: Mapping[str, Any]) -> Index:
    if values.get("format") != FORMAT:
        raise ValueError(f"format is {values.get('format')!r}, where {FORMAT} is read")
    for name in ("ids", "tokenizer", "made_from"):
        _check(str, values, name)
    if values["ids"] not in IDS:
        raise ValueError(f"ids is {values['ids']!r}; known: {', '.join(IDS)}")
    index = Index(
        ids=values["ids"],
        tokenizer=values["tokenizer"],
        made_from=values["made_from"],
        sources=_each(SourceCounts, values, "sources"),
        shards=_each(Shard, values, "shards"),
    )
    if not index.shards:
        raise ValueError("shards is empty")
    for shard in index.shards:
        if not SHARD_NAME.fullmatch(shard.name):  # a name with a slash would be read and written elsewhere
            raise ValueError(f"{shard.name!r} is no name of a shard")
    return index


def _each(kind: type[Part], values: Mapping[str, Any], name: str) -> tuple[Part, ...]:
    """The members of a list, as instances of a dataclass."""
    _check(list, values, name)
    for number, member in enumerate(values[name]):
        where = f"{name}[{number}]"
        if not isinstance(member, dict):
            raise ValueError(f"{where} is {member!r}, where an object should be")
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        if unknown := set(member) - {field.name for field in fields}:
            raise ValueError(f"{where} has an unknown field {min(unknown)!r}")
        for field in fields:
            _check(field.type, member, field.name, f"{where}.")
    return tuple(kind(**member) for member in values[name])


def _check(kind: Any, values: Mapping[str, Any], name: str, where: str = "") -> None:
    """Refuse a value of another type, and numbers below 0."""
    if name not in values:
        raise ValueError(f"{where}{name} is missing")
    value = values[name]
    if type(value) is not kind or (kind is int and value < 0):
        wanted = {int: "a whole number of 0 or more", str: "a text", list: "a list"}[kind]
        raise ValueError(
            f"{where}{name} is {str(value)[:80]!r} ({type(value).__name__}), where {wanted} should be"
        )

"""Recognises a folder of OSCAR by its files: its release, its shards, and the filters that its metadata permits."""

import itertools
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from base.errors import UserError
from data.config import SourceConfig
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, json_object
from data.sources.paths import File, natural_key, walk_files

PEEKED = 100
SHARD = re.compile(
    r"(?P<language>.+?)(?P<dedup>_dedup)?(?P<meta>_meta)?(_part_(?P<part>\d+))?\.(?P<format>txt|jsonl?)(\.(gz|zst))?"
)
LANGUAGE = re.compile(r"([a-z]{1,3}(-[a-z]+)*|multi)")
CHECKSUMS = re.compile(r"checksum\.sha256|.+_sha256\.txt|.+\.sha256")
ANNOTATIONS = ("tiny", "short_sentences", "header", "footer", "noisy", "adult")


class Shard(NamedTuple):
    """A file of documents, or a pair of files with their text and their metadata."""

    name: str
    text: File | None
    """Lines of text, in the layouts of 2019 and 21.09."""
    meta: File | None
    """JSON lines: metadata alone in 21.09, whole documents from 22.01 on."""


class Layout(NamedTuple):
    """Content of a folder of OSCAR."""

    release: str
    """'2019', '21.09', '22.01' or '23.01' (community OSCAR too)."""
    shards: tuple[Shard, ...]
    filters: frozenset[str]
    """The metadata filters of the config that these documents have the values for."""


def find_layout(config: SourceConfig, where: str = "config.data") -> Layout:
    """Recognise the folder `config.path`, or the language `config.subset` in it.

    If files are named by language, other files (a licence, a readme) are ignored. `no` and `no_dedup`, the deduplicated
    variant of 2019, are different variants.

    Raises:
      UserError: the folder or language does not exist; there are several languages or variants and none is chosen; the
        files are not OSCAR; or a checksum list names a shard that is missing (with `bad_documents=skip` such a shard is
        dropped and counted).
    """
    files = walk_files(config.path, f"{where}.path")
    named = [(file, match) for file in files if (match := SHARD.fullmatch(PurePosixPath(file.name).name))]
    named = [(file, match) for file, match in named if not CHECKSUMS.fullmatch(PurePosixPath(file.name).name)]
    if not named:
        raise UserError(
            f"{where}.path={config.path!r} holds no OSCAR shard; expected files such as no_meta_part_1.jsonl.zst, "
            "no_meta_part_1.jsonl.gz or no_part_1.txt.gz, there or in folders below"
        )
    chosen = _chosen_variants(config, {_variant(match) for _, match in named}, where)
    texts = [file for file, match in named if match["format"] == "txt" and _variant(match) in chosen]
    metas = [file for file, match in named if match["format"] != "txt" and _variant(match) in chosen]
    # Text files may have any name, but JSON-lines files with several names are several languages.
    if metas and len(chosen) > 1:
        raise _several(config, chosen, where)
    missing = _missing(files, chosen)
    if missing and config.bad_documents == "strict":
        raise UserError(
            f"{config.path}: {len(missing)} of the shards in its checksum list are missing: {_listed(missing)}; "
            f"download them, or set {where}.bad_documents=skip to go on without"
        )
    return _layout(config.path, texts, metas, missing, where)


def _variant(match: re.Match[str]) -> str:
    """The language in a shard's name, with `_dedup` if the shard belongs to the deduplicated variant."""
    return match["language"] + (match["dedup"] or "")


def _chosen_variants(config: SourceConfig, variants: set[str], where: str) -> set[str]:
    """The variant in `config.subset`. Without a subset: the only language, or else the files of any name."""
    if wanted := config.subset.removesuffix("_meta"):
        for variant in (wanted, f"{wanted}_dedup"):
            if variant in variants:
                return {variant}
        raise UserError(
            f"{where}.subset={config.subset!r} is not in {config.path!r}; found: {_listed(sorted(variants))}"
        )
    by_language = {variant for variant in variants if LANGUAGE.fullmatch(variant.removesuffix("_dedup"))}
    if len(by_language) > 1:
        raise _several(config, by_language, where)
    return by_language or variants


def _several(config: SourceConfig, variants: set[str], where: str) -> UserError:
    return UserError(
        f"{where}.path={config.path!r} holds several languages or variants; "
        f"set {where}.subset to one of {_listed(sorted(variants))}"
    )


def _layout(
    folder: str, texts: Sequence[File], metas: Sequence[File], missing: Sequence[str], where: str
) -> Layout:
    lost = [Shard(name, None, None) for name in missing]
    if not metas:
        return Layout(
            "2019", _ordered([*(Shard(file.name, file, None) for file in texts), *lost]), frozenset()
        )
    first = list(_first_objects(metas))
    if any("offset" in fields and "content" not in fields for fields in first):
        return Layout("21.09", _ordered([*_pairs(folder, texts, metas), *lost]), frozenset())
    if first and not any("content" in fields for fields in first):
        raise UserError(
            f"{metas[0].path}: no OSCAR document: neither 'content' (22.01 and later) nor 'offset' (21.09) among its "
            f"fields {_listed(sorted(first[0]))}; for other JSON lines use {where}.source=files with {where}.text_field"
        )
    metadata = [fields["metadata"] for fields in first if isinstance(fields.get("metadata"), dict)]
    filters = set()
    if any("annotation" in fields or "quality_warnings" in fields for fields in metadata):
        filters.add("quality_warnings")
    if any(fields.get("identification") for fields in metadata):
        filters.add("min_language_probability")
    if any(fields.get("harmful_pp") is not None for fields in metadata):
        filters.add("min_harmful_pp")
    release = "22.01" if any("annotation" in fields for fields in metadata) else "23.01"
    return Layout(
        release, _ordered([*(Shard(file.name, None, file) for file in metas), *lost]), frozenset(filters)
    )


def _ordered(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    return tuple(sorted(shards, key=lambda shard: natural_key(shard.name)))


def _pairs(folder: str, texts: Sequence[File], metas: Sequence[File]) -> Iterator[Shard]:
    """Yield each text file of 21.09 with the metadata file of the same folder and part."""
    by_key = {_pair_key(file): file for file in metas}
    for text in texts:
        meta = by_key.pop(_pair_key(text), None)
        if meta is None:
            raise UserError(
                f"{text.path}: its metadata file (..._meta{_part(text)}.jsonl.gz) is missing; download it"
            )
        yield Shard(text.name, text, meta)
    if by_key:
        alone = next(iter(by_key.values()))
        raise UserError(
            f"{alone.path}: the text file that this metadata belongs to is missing below {folder!r}; download it"
        )


def _pair_key(file: File) -> tuple[str, str, str]:
    path = PurePosixPath(file.name)
    match = SHARD.fullmatch(path.name)
    assert match, "only files named as shards come here"
    return str(path.parent), match["language"], match["part"] or ""


def _part(file: File) -> str:
    part = _pair_key(file)[2]
    return f"_part_{part}" if part else ""


def _first_objects(files: Sequence[File]) -> Iterator[dict[str, Any]]:
    """Yield the first JSON objects of the first file that has any."""
    for file in files:
        count = 0
        try:
            for line in itertools.islice(read_lines(file.path), PEEKED):
                try:
                    yield json_object(line)
                    count += 1
                except FlawError:
                    continue  # it is reported when it is read
        except FlawError:
            pass  # it is reported when it is read
        if count:
            return


def _missing(files: Sequence[File], variants: Container[str]) -> list[str]:
    """Shards of these variants that a checksum list names but that are missing next to it."""
    present = {_unpacked(file.name) for file in files}
    missing = []
    for listing in files:
        path = PurePosixPath(listing.name)
        if not CHECKSUMS.fullmatch(path.name):
            continue
        for line in read_lines(listing.path):
            # `<sha256>  <file>` from 21.09 on, `<file>\t<sha256>` in 2019.
            for word in line.decode("utf-8", "replace").split():
                name = PurePosixPath(word.lstrip("*")).name
                match = SHARD.fullmatch(name)
                if (
                    match
                    and _variant(match) in variants
                    and _unpacked(str(path.parent / name)) not in present
                ):
                    missing.append(str(path.parent / name))
    return missing


def _unpacked(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".zst")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

"""Documents of OSCAR (https://oscar-project.org), from 2019 to community OSCAR, filtered by their metadata."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.source_protocol import BLANK, Record, Source
from data.sources.documents import METADATA_FILTERS, FlawError, Gate, decode, digest, json_object, text_of
from data.sources.file_parts import Part, divide, divided_source
from data.sources.file_versions import FileVersions
from data.sources.lines import NumberedLines, blank_line_documents, numbered_lines, or_empty, sound
from data.sources.oscar_layout import ANNOTATIONS, Layout, Shard, find_layout
from data.sources.part_lines import lines_of_documents, lines_of_part, place_of
from data.sources.paths import File


class OscarSource:
    """A language of OSCAR in a local or gs:// folder; the files tell the layout. Each shard is a file (21.09: a pair).

    Raises:
      UserError: an error of `find_layout`, an unknown quality warning, or a metadata filter that the layout lacks.
    """

    def __init__(self, config: SourceConfig, where: str = "config.data"):
        """Read the folder's layout; `where` is the path of `config` in messages."""
        for name in config.filters.quality_warnings:
            if name not in ANNOTATIONS:
                raise UserError(
                    f"{where}.filters.quality_warnings: {name!r} is no OSCAR annotation; "
                    f"known: {', '.join(ANNOTATIONS)}"
                )
        self._config = config
        self._gate = Gate(config, where)
        self._versions = FileVersions()
        self._layout = find_layout(config, where)
        _check_filters(config, self._layout, where)
        sizes = [file.size for shard in self._layout.shards for file in (shard.text, shard.meta) if file]
        if not any(sizes):
            raise UserError(f"{where}.path={config.path!r}: all {len(sizes)} shards are empty")

    @property
    def layout(self) -> Layout:
        """The layout of the folder."""
        return self._layout

    @property
    def shards(self) -> Sequence[str]:
        """Names of the shards below the folder, in the order of their part numbers."""
        return [shard.name for shard in self._layout.shards]

    def read(self, shard: int, start: int = 0) -> Iterator[Record]:
        """Records of one shard from `start` on (see `data.source_protocol.Source.read`)."""
        files = self._layout.shards[shard]
        match files:
            case Shard(text=None, meta=None):
                records = self._lost(files.name, start)
            case Shard(text=File() as text, meta=None):
                runs = blank_line_documents(numbered_lines(text.path), text.path, self._gate, start)
                records = or_empty(runs, text.path, self._gate, start)
            case Shard(text=None, meta=File() as meta):
                documents = self._documents(numbered_lines(meta.path), meta.path, start)
                records = or_empty(documents, meta.path, self._gate, start)
            case Shard(text=File() as text, meta=File() as meta):
                records = or_empty(self._slices(text.path, meta.path, start), meta.path, self._gate, start)
        return self._versions.unchanged(records, files.text, files.meta)

    def fingerprint(self) -> str:
        """Hex digest of the layout, the shards' names and sizes, and the filters."""
        sizes = [
            [shard.name, *(f.size for f in (shard.text, shard.meta) if f)] for shard in self._layout.shards
        ]
        return digest(self._config, [self._layout.release, *sizes])

    @functools.lru_cache  # noqa: B019 - a run has few sources, which live as long as the run
    def divided(self, count: int, streams: int) -> Source | str:
        """See `data.source_protocol.Divisible`."""
        shards = self._layout.shards
        files = [shard.meta or shard.text or File("", shard.name, 0) for shard in shards]
        pairs = [number for number, shard in enumerate(shards) if shard.text and shard.meta]
        parts = divide(files, pairs, count, streams)
        if isinstance(parts, str):
            return parts
        return divided_source(self, parts, self._part)

    def _part(self, part: Part, start: int) -> Iterator[Record]:
        shard = self._layout.shards[part.file]
        file = cast("File", shard.meta or shard.text)
        place = place_of(file.path, part)
        if shard.meta:
            records = self._documents(lines_of_part(file.path, part), place, start)
        else:
            records = blank_line_documents(lines_of_documents(file.path, part), place, self._gate, start)
        return self._versions.unchanged(records, file)

    def _lost(self, name: str, start: int) -> Iterator[Record]:
        if start == 0:
            yield self._gate.unreadable(
                0, f"{self._config.path}: {name}", FlawError("missing shard", "in the checksum list")
            )

    def _documents(self, lines: NumberedLines, place: str, start: int) -> Iterator[Record]:
        """22.01 and later: each line is a JSON object with text and metadata."""
        for number, line in lines:
            if number < start:
                continue
            try:
                if not sound(line).strip():
                    yield Record(number, "", BLANK)
                    continue
                fields = json_object(sound(line))
                record = self._gate.document(number, text_of(fields, "content", ""))
                reason = record.dropped or metadata_drop(fields.get("metadata"), self._config.filters)
                yield Record(number, "", reason) if reason else record
            except FlawError as flaw:
                yield self._gate.unreadable(number, f"{place} line {number + 1}", flaw)

    def _slices(self, text_path: str, meta_path: str, start: int) -> Iterator[Record]:
        """21.09: each line of metadata gives the lines of the text file that are its document."""
        text = _LineSlices(text_path)
        number = -1
        for number, line in numbered_lines(meta_path):
            place = f"{meta_path} line {number + 1}"
            try:
                offset, count = _span(json_object(sound(line)))
                place = f"{text_path} line {offset + 1}"
                lines = text.take(offset, count)
                if number >= start:
                    yield self._gate.document(
                        number, "\n".join(decode(part) for line in lines for part in line.splitlines())
                    )
            except FlawError as flaw:
                if number >= start:
                    yield self._gate.unreadable(number, place, flaw)
        if (left := text.left_over()) and number + 1 >= start:
            alone = FlawError(
                "text without metadata", f"{left} lines have no line of metadata in {meta_path}"
            )
            yield self._gate.unreadable(number + 1, text_path, alone)


def metadata_drop(metadata: object, filters: FilterConfig) -> str:
    """The reason to drop a document because of its metadata, for counts; '' to keep it.

    With a minimum language probability, a document without an identified language is dropped. A document without
    harmful_pp is kept, because not every document has one.
    """
    fields: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    if filters.quality_warnings:
        warnings = fields.get("quality_warnings") or fields.get("annotation") or ()
        for name in filters.quality_warnings:
            if name in warnings:
                return f"quality_warnings: {name}"
    if filters.min_language_probability:
        identification = fields.get("identification")
        probability = identification.get("prob") if isinstance(identification, Mapping) else None
        if not isinstance(probability, int | float) or probability < filters.min_language_probability:
            return "min_language_probability"
    if filters.min_harmful_pp:
        perplexity = fields.get("harmful_pp")
        if isinstance(perplexity, int | float) and perplexity < filters.min_harmful_pp:
            return "min_harmful_pp"
    return ""


class _LineSlices:
    """Runs of lines of a file, read from front to back."""

    def __init__(self, path: str):
        self._lines = _counted_lines(path)
        self._next = 0
        self._unclaimed = 0
        self._flaw: FlawError | None = None

    def take(self, offset: int, count: int) -> list[bytes]:
        """Lines offset to offset + count.

        Raises:
          FlawError: the file does not have them, or they have been read already.
        """
        if offset < self._next:
            raise FlawError(
                "misplaced text", f"offset {offset} was passed: the text has been read to line {self._next}"
            )
        for line in self._read(offset - self._next):
            self._unclaimed += not line.isspace()
        lines = list(self._read(count))
        if len(lines) < count:
            raise self._flaw or FlawError(
                "misplaced text", f"the text file has {self._next} lines, not {offset + count}"
            )
        return lines

    def left_over(self) -> int:
        """Number of lines with text, up to the end of the file, that were never taken."""
        while block := list(self._read(1000)):
            self._unclaimed += sum(not line.isspace() for line in block)
        return self._unclaimed

    def _read(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            line = next(self._lines, None)
            if line is None or isinstance(line, FlawError):
                self._flaw = line or self._flaw
                return
            self._next += 1
            yield line


def _counted_lines(path: str) -> Iterator[bytes | FlawError]:
    r"""Yield lines as 21.09's offsets count them: \n ends a line, \r alone does not."""
    begun: list[bytes] = []
    for _, line in numbered_lines(path):
        if isinstance(line, FlawError):
            yield line
            return
        begun.append(line)
        if line.endswith(b"\n"):
            yield b"".join(begun)
            begun = []
    if begun:
        yield b"".join(begun)


def _span(metadata: Mapping[str, Any]) -> tuple[int, int]:
    offset, count = metadata.get("offset"), metadata.get("nb_sentences")
    if not isinstance(offset, int) or not isinstance(count, int) or offset < 0 or count < 0:
        raise FlawError(
            "missing field", "a line of metadata should have whole numbers 'offset' and 'nb_sentences'"
        )
    return offset, count


def _check_filters(config: SourceConfig, layout: Layout, where: str) -> None:
    for name in METADATA_FILTERS:
        value = getattr(config.filters, name)
        if value and name not in layout.filters:
            can = ", ".join(sorted(layout.filters)) or "none"
            raise UserError(
                f"{where}.filters.{name}={value!r}, but the documents of {config.path!r} (layout {layout.release}) "
                f"lack the metadata that it needs; possible filters on metadata: {can}"
            )

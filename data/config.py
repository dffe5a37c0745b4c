"""The fields of `config.data`: the sources of text, and how text becomes rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from base.schema import Unused, field

SOURCES = ("pydoc", "files", "oscar", "hub", "tfds", "prepared", "mix")
PACKINGS = ("full", "documents", "best_fit", "lines")
ISOLATING = ("documents", "best_fit")
"""Packings with which several documents share a row, and attend each only to itself."""


@dataclass(frozen=True)
class FilterConfig:
    """Filters by a document's length and, for OSCAR, by its metadata. Every drop is counted by reason."""

    min_chars: int = field(0, "drop documents with fewer characters")
    quality_warnings: tuple[str, ...] = field(
        (),
        "drop documents with one of these OSCAR annotations: tiny, short_sentences, header, footer, noisy, adult",
    )
    min_language_probability: float = field(
        0.0, "drop documents whose language identification is less sure than this"
    )
    min_harmful_pp: float = field(
        0.0, "drop documents whose harmful_pp (perplexity of a model of harmful text) is lower"
    )


@dataclass(frozen=True)
class SourceConfig:
    """One source of documents."""

    source: str = field("pydoc", "the kind of source", SOURCES)
    path: str = field(
        "",
        "files: paths or globs, comma-separated, local or gs://; oscar: the folder of a language; prepared: the folder "
        "that data.prepare wrote",
    )
    name: str = field("", "hub: the data set's id; tfds: its name")
    subset: str = field(
        "", "hub: the configuration (often the language); oscar: the language, if the folder holds several"
    )
    split: str = field("train", "hub, tfds: the split")
    revision: str = field("", "hub: a commit, branch or tag; empty takes the newest")
    text_field: str = field("text", "jsonl, parquet, hub, tfds: the field that holds the text")
    txt_documents: str = field("lines", "files: what a document is in a .txt file", ("lines", "blank_line"))
    data_dir: str = field("", "tfds: the folder that holds prepared data sets, local or gs://")
    bad_documents: str = field(
        "strict",
        "a document that cannot be read stops the run, or is skipped and counted",
        ("strict", "skip"),
    )
    filters: FilterConfig = field(FilterConfig, "which documents to drop")
    weight: float = field(1.0, "this source's share of the documents drawn from a mix")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """Documents, streams, packing, and the held-out share."""

    mix: tuple[SourceConfig, ...] = field((), "source=mix: the sources to draw from, each with its weight")
    temperature: float = field(
        0.0,
        "source=mix of prepared members: a member's share is its weight times its number of documents to this power; 0 "
        "takes the weights alone, 1 draws all documents alike",
    )
    streams: int = field(
        8,
        "number of streams that the corpus is split into; must divide every phase's global batch; fixed for a run",
    )
    split_files: bool = field(
        True,
        "where there are fewer than eight files for each stream, streams read parts of their own of the files; False: "
        "every process reads all files",
        older=False,
    )
    window: int = field(
        1024, "documents of a stream that are shuffled together; 1 keeps the order of the files"
    )
    packing: str = field(
        "full",
        "full: documents joined end to end; documents: whole documents share a row, each attends only to itself; "
        "best_fit: likewise with less padding, planned for many documents at once; lines: one document a row",
        PACKINGS,
    )
    eval_fraction: float = field(0.005, "share of the documents, chosen by hash, held out for evaluation")
    eval_source: SourceConfig | None = field(
        None, "a separate source for evaluation, instead of a held-out share"
    )
    prefetch: int = field(0, "batches prepared ahead of the step; 0: 4 to 64, more if batches are small")


def leaf_sources(config: DataConfig) -> tuple[SourceConfig, ...]:
    """The sources that hold documents: the members of a mix, or the one source itself."""
    if config.source == "mix":
        return config.mix
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(SourceConfig)}
    return (SourceConfig(**values),)


READERS = {
    "path": ("files", "oscar", "prepared"),
    "name": ("hub", "tfds"),
    "subset": ("hub", "oscar"),
    "split": ("hub", "tfds"),
    "revision": ("hub",),
    "text_field": ("files", "hub", "tfds"),
    "txt_documents": ("files",),
    "data_dir": ("tfds",),
    "filters.quality_warnings": ("oscar",),
    "filters.min_language_probability": ("oscar",),
    "filters.min_harmful_pp": ("oscar",),
    "mix": ("mix",),
    "temperature": ("mix",),
    "split_files": ("files", "oscar", "hub", "mix"),
}
"""The kinds of source that read a field, for fields that not all kinds read."""
OF_ANY_SOURCE = ("filters.min_chars", "bad_documents")
"""Fields that every source of text reads."""


def unread(source: str, readers: Mapping[str, Sequence[str]], where: str) -> list[Unused]:
    """The fields that a kind of source does not read.

    Args:
      source: the kind.
      readers: field -> the kinds that read it.
      where: the path of the group that they are in, without `config.`.
    """
    return [
        Unused(
            (f"{where}.{name}",),
            f"config.{where}.source={source!r} does not read it; unset it, or set config.{where}.source to "
            f"{' or '.join(kinds)}",
            (f"{where}.source",),
        )
        for name, kinds in readers.items()
        if source not in kinds
    ]


def unused_fields(config: SourceConfig, where: str = "data") -> list[Unused]:
    """The fields that nothing reads, in a source and in the sources inside it.

    Args:
      config: the source, or the whole of `config.data`.
      where: the path of `config`, without `config.`.
    """
    unused = unread(config.source, READERS, where)
    if config.source == "mix":
        names = tuple(f"{where}.{name}" for name in OF_ANY_SOURCE)
        because = f"config.{where}.source='mix' reads the sources that config.{where}.mix lists; set it there"
        unused.append(Unused(names, because, (f"{where}.source",)))
    if config.source == "prepared":
        names = tuple(f"{where}.{name}" for name in OF_ANY_SOURCE)
        because = f"the documents of {where}.source='prepared' are chosen already; set it for python -m data.prepare"
        unused.append(Unused(names, because, (f"{where}.source",)))
    if not isinstance(config, DataConfig):
        return unused
    if config.source == "prepared":
        because = f"{where}.source='prepared' has a random order of all documents; unset it"
        unused.append(Unused((f"{where}.window",), because, (f"{where}.source",)))
    because = f"only a member of a mix has a weight; set config.{where}.mix[0].weight"
    unused.append(Unused((f"{where}.weight",), because, (f"{where}.source",)))
    for index, part in enumerate(config.mix):
        unused += unused_fields(part, f"{where}.mix[{index}]")
    if config.eval_source is not None:
        place = f"{where}.eval_source"
        unused += unused_fields(config.eval_source, place)
        because = "there is one source to evaluate on, and no mix; unset it"
        unused.append(Unused((f"{place}.weight",), because, (f"{place}.source",)))
        because = f"the run evaluates on config.{place}, so no documents are held out; unset one of the two"
        unused.append(Unused((f"{where}.eval_fraction",), because, (place,)))
    return unused

"""The rows on which a run evaluates: the same at every evaluation and on every process."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from base.errors import UserError
from data.config import DataConfig
from data.corpus import open_sources
from data.document_counts import Counts, Unwanted, describe_dropped
from data.document_protocol import Document, Documents
from data.held_out_documents import HeldOut
from data.mixes import shares
from data.packing import Rows, fill, make_packer
from data.prepared.documents import PreparedDocuments, as_written
from data.prepared.source import PreparedSource
from data.source_protocol import Source
from data.sources import open_source
from data.special_tokens import SpecialTokens
from data.stream_records import Layout, OwnReader, Position
from data.streams import SourceDocuments, WindowReader
from data.token_streams import Encode, TokenStream, ids_of

log = logging.getLogger(__name__)

WINDOW = 64
"""Held-out documents read at a time. It is small: if one document in hundreds is held out, even a small window takes
thousands of documents to fill."""


class _NothingLeftError(UserError):
    """A source has no document for evaluation."""


def evaluation_rows(
    config: DataConfig,
    encode: Encode,
    special: SpecialTokens,
    *,
    seq_len: int,
    max_rows: int,
    sources: Sequence[Source] | None = None,
    where: str = "config.data",
) -> dict[str, np.ndarray]:
    """Rows of the held-out documents (or of `data.eval_source`), in the files' order, packed as in training.

    Each member of a mix gives a share of the rows in proportion to its weight.

    Args:
      config: the data.
      encode: function from texts to ids.
      special: ids of the special tokens in a row.
      seq_len: row length S, in tokens.
      max_rows: largest number of rows to return; reading stops there.
      sources: the open sources to read: the source of `data.eval_source` if it is set, else the training sources.
      where: the path of `config` in messages.

    Returns:
      tokens, segments, positions: int32 [R, S], 1 <= R <= max_rows.

    Raises:
      UserError: there is no document to evaluate on.
    """
    unwanted = _unwanted(config, where)
    sources = _open_evaluated(config, where) if sources is None else sources
    weights = [1.0] if config.eval_source else shares(config, sources)
    bounds = np.rint(np.cumsum(weights) / np.sum(weights) * max_rows).astype(int).tolist()
    parts, counts = [], Counts()
    with ThreadPoolExecutor(1) as executor:
        for source, first, stop in zip(sources, [0, *bounds], bounds):
            rows = Rows.empty(stop - first, seq_len, special)
            try:
                stream = _stream(_documents(source, unwanted, config), encode, executor)
                filled = fill(stream, make_packer(config.packing, special), rows)
            except _NothingLeftError:
                continue
            parts.append(rows.part(slice(filled)).as_dict())
            counts.add(Counts.from_dict(stream.state()["counts"]))
    if not any(len(part["tokens"]) for part in parts):
        raise _nothing_to_evaluate(config, where)
    if counts.dropped:
        log.info("evaluation reads %d documents: %s", counts.documents, describe_dropped(counts.dropped))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def held_out_documents(config: DataConfig, where: str = "config.data") -> Iterator[Document]:
    """Yield the documents on which a run evaluates, in the files' order, while the files are read.

    Args:
      config: the data.
      where: the path of `config` in messages.

    Raises:
      UserError: there is no such document.
    """
    unwanted, counts = _unwanted(config, where), Counts()
    for source in _open_evaluated(config, where):
        if isinstance(source, PreparedSource):
            documents = _documents(source, unwanted, config)
            with contextlib.suppress(_NothingLeftError):
                while (ids := documents.read(counts)) is not None:
                    yield ids
            continue
        for shard in range(len(source.shards)):
            yield from (record.text for record in source.read(shard) if counts.keeps(record, unwanted))
    if not counts.documents:
        raise _nothing_to_evaluate(config, where)


def _open_evaluated(config: DataConfig, where: str) -> Sequence[Source]:
    if config.eval_source is not None:
        return [open_source(config.eval_source, f"{where}.eval_source")]
    return open_sources(config, where)


def _unwanted(config: DataConfig, where: str) -> Unwanted:
    """The function that tells which texts of the evaluated sources do not belong to the evaluation.

    Raises:
      UserError: all texts belong to training.
    """
    if config.eval_source is not None:
        return _nothing
    if config.eval_fraction == 0:
        raise _nothing_to_evaluate(config, where)
    return _outside(HeldOut(config.eval_fraction))


def _nothing(text: str) -> bool:
    return False


def _outside(held_out: HeldOut) -> Unwanted:
    return lambda text: not held_out(text)


def _documents(source: Source, unwanted: Unwanted, config: DataConfig) -> Documents:
    """The documents of a source that belong to the evaluation, in its own order."""

    def empty() -> UserError:
        return _NothingLeftError("no document for evaluation")

    if isinstance(source, PreparedSource):
        stop = len(source) if config.eval_source else source.held_out(config.eval_fraction)
        return PreparedDocuments(source, 0, stop, as_written, 0, empty)
    return SourceDocuments(OwnReader(Layout(source, 1), 0, Position()), Position(), unwanted, empty)


def _stream(documents: Documents, encode: Encode, executor: Executor) -> TokenStream:
    """One pass over documents."""
    windows = WindowReader(
        documents, WINDOW, lambda number, size: range(size), number=0, epoch=0, counts=Counts()
    )
    return TokenStream(windows, lambda texts: executor.submit(ids_of, encode, texts), epochs=1)


def _nothing_to_evaluate(config: DataConfig, where: str) -> UserError:
    if config.eval_source is not None:
        place = next(
            (
                f"{name}={value!r}"
                for name in ("path", "name")
                if (value := getattr(config.eval_source, name))
            ),
            f"source={config.eval_source.source!r}",
        )
        return UserError(f"{where}.eval_source.{place} has no document to evaluate on")
    return UserError(
        f"{where}.eval_fraction={config.eval_fraction} holds no document out for evaluation; raise it (0.05 is a "
        f"twentieth of the documents), set {where}.eval_source, or set config.eval.every=0"
    )

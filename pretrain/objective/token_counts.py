"""How often each token occurs in the training text of a phase: counted once, then kept in the run's workdir."""

import io
import json
import logging
import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from base.storage import check_damage
from data.config import DataConfig
from data.corpus import corpus_fingerprint, open_sources, training_documents
from data.document_counts import Counts
from data.document_protocol import Document
from data.prepared.source import PreparedSource
from data.source_protocol import Source
from data.streams import open_documents
from pretrain.phases import Phase
from pretrain.runtime import processes
from pretrain.runtime.workdir import write_bytes
from tokenizer.load import Loaded

logger = logging.getLogger(__name__)

COUNTED = 4_000_000
"""Characters of training text in which tokens are counted, about a million tokens."""
TOKEN_CHARS = 4
"""Characters that a token of a prepared document counts for."""
AT_ONCE = 1 << 18
"""Characters that are tokenised at a time."""


def token_counts(workdir: epath.Path, phase: Phase, tokenizer: Loaded, *, with_ends: bool) -> np.ndarray:
    """The number of times that each token occurs in the first documents of a phase's training text, int64 [V].

    Args:
      workdir: the run's folder; the counts are kept there in token_counts_N.npz.
      phase: the phase.
      tokenizer: the run's.
      with_ends: whether the separator that ends each document counts.

    Raises:
      UserError: the text cannot be read.
    """
    return processes.first_then_all(
        lambda: _read_or_count(workdir, phase, tokenizer, with_ends=with_ends),
        "counting the tokens of the training text",
    )


def _read_or_count(workdir: epath.Path, phase: Phase, tokenizer: Loaded, *, with_ends: bool) -> np.ndarray:
    """Read the counts from their file. If the file does not hold them, count, and write the file."""
    file = workdir / f"token_counts_{phase.number}.npz"
    sources = open_sources(phase.data, phase.place("data"))
    key = json.dumps([corpus_fingerprint(phase.data, sources), tokenizer.fingerprint(), with_ends])
    counts = _load(file, key)
    if counts is None:
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        for documents in _first(_training_documents(phase.data, sources)):
            texts = [document for document in documents if isinstance(document, str)]
            prepared = [document for document in documents if not isinstance(document, str)]
            ids = np.concatenate([*tokenizer.encode(texts), *prepared])
            counts += np.bincount(ids, minlength=len(counts))
            counts[tokenizer.special.sep] += len(documents) if with_ends else 0
        if processes.is_first():
            buffer = io.BytesIO()
            np.savez_compressed(buffer, key=np.array(key), counts=counts)
            write_bytes(file, buffer.getvalue())
    return counts


def _training_documents(config: DataConfig, sources: Sequence[Source]) -> Iterator[Document]:
    """The training documents in their source's order; those of a first stream if a source is prepared."""
    if not any(isinstance(source, PreparedSource) for source in sources):
        yield from training_documents(config, sources)
        return
    documents, counts = open_documents(config, sources, 0, {0: None})[0], Counts()
    while (document := documents.read(counts)) is not None:
        yield document


def _first(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The first documents, up to `COUNTED` characters, several at a time."""
    total, size, several = 0, 0, list[Document]()
    for document in documents:
        several.append(document)
        chars = len(document) * (1 if isinstance(document, str) else TOKEN_CHARS)
        total, size = total + chars, size + chars
        if size >= AT_ONCE or total >= COUNTED:
            yield several
            size, several = 0, []
        if total >= COUNTED:
            return
    if several:
        yield several


def _load(file: epath.Path, key: str) -> np.ndarray | None:
    """The counts in a file; None if there is no file, or if it holds others or is damaged."""
    if not file.exists():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            return kept["counts"] if kept["key"].item() == key else None
    except Exception as error:  # damage shows itself as errors of many kinds
        check_damage(error, os.fspath(file))
        logger.info("%s cannot be read: the tokens of the training text are counted again", file)
        return None

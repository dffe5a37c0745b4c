"""A sample of a phase's training text, as token ids: what is counted of a corpus before training."""

from collections.abc import Iterator, Sequence

import numpy as np

from data.config import DataConfig
from data.corpus import training_documents
from data.document_counts import Counts
from data.document_protocol import Document
from data.prepared.source import PreparedSource
from data.source_protocol import Source
from data.streams import open_documents
from tokenizer.load import Loaded
from tokenizer.shard_beginnings import TIMES, documents_of_beginnings

TOKEN_CHARS = 4
"""Characters that a token of a prepared document counts for."""
AT_ONCE = 1 << 18
"""Characters that are tokenised at a time."""


def sample_ids(
    config: DataConfig, sources: Sequence[Source], tokenizer: Loaded, characters: int, *, spread: bool = False
) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of training documents, several documents at a time, int32 [length] each.

    Documents of text come in their source's order, and the members of a mix take turns by their weights. Prepared
    documents come in the random order of the run's first stream, and a mix that has some is read as that stream reads
    it: again from its beginning, if need be.

    Args:
      config: the data.
      sources: the open sources.
      tokenizer: the run's.
      characters: the sample ends with the document in which it has so many.
      spread: whether documents of text come from the beginnings of many shards, in place of the first shards, with at
        most as many bytes as `characters`; and prepared ones from all streams, one after the other.

    Raises:
      UserError: the text cannot be read.
    """
    for documents in _first(_training_documents(config, sources, characters, spread=spread), characters):
        texts = [document for document in documents if isinstance(document, str)]
        prepared = [document for document in documents if not isinstance(document, str)]
        yield [*tokenizer.encode(texts), *prepared]


def _training_documents(
    config: DataConfig, sources: Sequence[Source], size: int, *, spread: bool
) -> Iterator[Document]:
    """The training documents, of which about `size` bytes are needed: see `sample_ids`."""
    if any(isinstance(source, PreparedSource) for source in sources):
        for stream in range(config.streams if spread else 1):
            documents, counts = open_documents(config, sources, 0, {stream: None})[stream], Counts()
            while (document := documents.read(counts)) is not None:
                yield document
    elif spread:
        yield from documents_of_beginnings(config, sources, documents_at_most=0, bytes_at_most=size // TIMES)
    else:
        yield from training_documents(config, sources)


def _first(documents: Iterator[Document], characters: int) -> Iterator[list[Document]]:
    """The first documents, up to so many characters, several at a time."""
    total, size, several = 0, 0, list[Document]()
    for document in documents:
        several.append(document)
        chars = len(document) * (1 if isinstance(document, str) else TOKEN_CHARS)
        total, size = total + chars, size + chars
        if size >= AT_ONCE or total >= characters:
            yield several
            size, several = 0, []
        if total >= characters:
            return
    if several:
        yield several

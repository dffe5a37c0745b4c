"""Where the words of a new run start: counts of their neighbours in its training text (`model.word_init`)."""

import logging
import time

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from data.corpus import open_sources
from pretrain.job import Job
from pretrain.models.bigrams import Bigrams, count_bigrams
from pretrain.models.word_vectors import word_vectors
from pretrain.objective.training_sample import sample_ids
from pretrain.runtime import processes

logger = logging.getLogger(__name__)

SAMPLE = 40_000_000
"""Bytes of training text in which neighbours are counted, about ten million tokens."""


def first_words(job: Job) -> Float[np.ndarray, "V D"] | Bigrams | None:
    """What the network starts at by counts in the training text of the first phase; None if its words are random.

    They are vectors of tokens from their neighbours, or `Bigrams`. The first process reads and counts; it sends what it
    finds to the others.

    Raises:
      UserError: the text cannot be read.
    """
    kind = job.config.model.word_init
    if kind == "normal":
        return None
    size, width = job.encoder.vocab_size, job.model.shapes()["embeddings"]["word"].shape[1]
    counts = {"size": size, "width": width, "special": job.tokenizer.special_ids}
    found: list[np.ndarray | Bigrams] = []

    def count() -> bool:
        began, phase = time.monotonic(), job.phases[0]
        sources = open_sources(phase.data, phase.place("data"))
        batches = sample_ids(phase.data, sources, job.tokenizer, SAMPLE, spread=True)
        documents = [ids for batch in batches for ids in batch]
        if kind == "bigrams":
            found.append(count_bigrams(documents, **counts, rank=job.encoder.head_width))
        else:
            found.append(word_vectors(documents, **counts))
        vectors = found[0].vectors if isinstance(found[0], Bigrams) else found[0]
        logger.info(
            "words start at counts of their neighbours: %s tokens, %d of %d words have some, %.0f s",
            f"{sum(map(len, documents)):,}",
            vectors.any(axis=1).sum(),
            len(vectors),
            time.monotonic() - began,
        )
        return True

    processes.from_first(count, "counting the neighbours of tokens")
    if processes.count() == 1:
        return found[0]
    empty = (
        Bigrams.empty(size, width, job.encoder.head_width)
        if kind == "bigrams"
        else np.zeros((size, width), np.float32)
    )
    return multihost_utils.broadcast_one_to_all(found[0] if found else empty)

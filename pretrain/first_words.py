"""Where the words of a new run start: counts of their neighbours in its training text (`model.word_init`)."""

import logging
import time

import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from data.corpus import open_sources
from pretrain.job import Job
from pretrain.models.word_vectors import word_vectors
from pretrain.objective.training_sample import sample_ids
from pretrain.runtime import processes

logger = logging.getLogger(__name__)

SAMPLE = 40_000_000
"""Bytes of training text in which neighbours are counted, about ten million tokens."""


def first_words(job: Job) -> Float[np.ndarray, "V D"] | None:
    """Vectors of the tokens, from their neighbours in the training text of the first phase; None if they are random.

    The first process reads and counts; it sends the vectors to the others.

    Raises:
      UserError: the text cannot be read.
    """
    if job.config.model.word_init != "cooccurrence":
        return None
    vectors = np.zeros(
        (job.encoder.vocab_size, job.model.shapes()["embeddings"]["word"].shape[1]), np.float32
    )

    def count() -> bool:
        began, phase, special = time.monotonic(), job.phases[0], job.tokenizer.special_ids
        sources = open_sources(phase.data, phase.place("data"))
        batches = sample_ids(phase.data, sources, job.tokenizer, SAMPLE, spread=True)
        documents = [ids for batch in batches for ids in batch]
        vectors[:] = word_vectors(documents, size=len(vectors), width=vectors.shape[1], special=special)
        logger.info(
            "words start at counts of their neighbours: %s tokens, %d of %d words have some, %.0f s",
            f"{sum(map(len, documents)):,}",
            vectors.any(axis=1).sum(),
            len(vectors),
            time.monotonic() - began,
        )
        return True

    processes.from_first(count, "counting the neighbours of tokens")
    return multihost_utils.broadcast_one_to_all(vectors) if processes.count() > 1 else vectors

"""How often each token occurs in the training text of a phase: counted once, then kept in the run's workdir."""

import io
import json
import logging
import os

import numpy as np
from etils import epath

from base.storage import check_damage
from data.corpus import corpus_fingerprint, open_sources
from pretrain.objective.training_sample import sample_ids
from pretrain.phases import Phase
from pretrain.runtime import processes
from pretrain.runtime.workdir import write_bytes
from tokenizer.load import Loaded

logger = logging.getLogger(__name__)

COUNTED = 4_000_000
"""Characters of training text in which tokens are counted, about a million tokens."""


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
        for documents in sample_ids(phase.data, sources, tokenizer, COUNTED):
            counts += np.bincount(np.concatenate(documents), minlength=len(counts))
            counts[tokenizer.special.sep] += len(documents) if with_ends else 0
        if processes.is_first():
            buffer = io.BytesIO()
            np.savez_compressed(buffer, key=np.array(key), counts=counts)
            write_bytes(file, buffer.getvalue())
    return counts


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

"""Sentences whose words have labels, in the form that every source returns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.labelled.labels import UNLABELLED

OUTSIDE = "O"
"""The tag of a word that is in no entity."""
PART = re.compile(r"[BIESLU]-.+")
"""A tag of a word in an entity: its place in the entity, and the entity's type (IOB1, IOB2, BIOES, BILOU)."""


@dataclass(frozen=True)
class Sentences:
    """Sentences, n in number, of W words in all, in their source's order; never empty."""

    words: list[list[str]]
    """The words of each sentence, one or more."""
    labels: np.ndarray | None
    """int32 [W] ids of tags, sentence after sentence; None if they are hidden. In a test set some may be UNLABELLED."""
    ids: list[int | str]
    """Ids of the sentences in their source, or else numbers from 0."""
    origin: str
    """Name of the source, for messages and results."""
    official: bool = False
    """Whether these are a whole split of GLUE as published."""

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def sentence(self) -> np.ndarray:
        """The index of each word's sentence, int64 [W]."""
        return np.repeat(np.arange(len(self)), [len(words) for words in self.words])

    @property
    def labelled(self) -> np.ndarray:
        """Whether each word stands in a sentence whose words all have labels, bool [W]."""
        if self.labels is None:
            return np.zeros(len(self.sentence), bool)
        lacking = np.bincount(self.sentence, self.labels == UNLABELLED, len(self)) > 0
        return ~lacking[self.sentence]

    @property
    def labelled_count(self) -> int:
        """Number of sentences whose words all have labels."""
        return len(np.unique(self.sentence[self.labelled]))


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags mark entities: each is O, or a prefix and a type (B-PER); else each word has a class of its own."""
    parts = [name for name in names if name != OUTSIDE]
    return bool(parts) and all(map(PART.fullmatch, parts))


def odd_among_entities(names: Sequence[str]) -> list[str]:
    """The tags that are no parts of entities, where O is a tag and other tags are parts; else []."""
    odd = [name for name in names if name != OUTSIDE and not PART.fullmatch(name)]
    return odd if OUTSIDE in names and len(odd) < len(names) - 1 else []

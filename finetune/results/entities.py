"""Precision, recall and F1 of entities by their tags (IOB1, IOB2, BIOES, BILOU, and mixtures).

The definition is that of the CoNLL-2000 shared task's conlleval, which seqeval follows by default: an entity is right
if its first word, its last word and its type are right. An I that follows nothing, or another type, begins an entity.
"""

from collections.abc import Sequence
from typing import NamedTuple

from data.labelled.sentences import OUTSIDE

BEGINS, ENDS = "BSU", "ELSU"
"""Prefixes of words that begin an entity whatever stands before, and of words that end theirs."""


class Entity(NamedTuple):
    """The type of an entity, and the indices of its first and last word."""

    type: str
    first: int
    last: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sentence, by the tags of its words."""
    found: list[Entity] = []
    before = ""
    for index, tag in enumerate(tags):
        prefix, _, type = tag.partition("-")
        if tag == OUTSIDE:
            before = ""
            continue
        goes_on = before and prefix not in BEGINS and before not in ENDS and found[-1].type == type
        if goes_on:
            found[-1] = found[-1]._replace(last=index)
        else:
            found.append(Entity(type, index, index))
        before = prefix
    return found


def entity_scores(told: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 over all entities of all sentences; 0 where they are undefined.

    Args:
      told: the predicted tags of each sentence.
      right: its right ones.
    """
    pairs = [(set(entities(mine)), set(entities(theirs))) for mine, theirs in zip(told, right, strict=True)]
    hits = sum(len(mine & theirs) for mine, theirs in pairs)
    predicted, there = (sum(map(len, each)) for each in zip(*pairs, strict=True))
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / there if there else 0.0,
        "f1": 2 * hits / (predicted + there) if predicted + there else 0.0,
    }

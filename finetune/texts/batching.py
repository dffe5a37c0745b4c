"""Which examples make up which batch: static lengths, a few of them, and every example once an epoch.

A batch is padded to one of a few lengths, so that a run compiles as many programs and no more. The examples of
each length are shuffled and cut into batches; those left over go up to the next length, and only the last batch of
the longest may be short. How many batches of each length an epoch has, and in which order the lengths come,
therefore depends on the data and the epoch alone and not on the seed: runs of different seeds take their steps in
one program.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from data.shuffle import permutation
from finetune.texts.encoding import Encoded

ROUND_TO = 8
"""Lengths are multiples of this: the tiles that matrix units and vector units like."""


def choose_lengths(lengths: np.ndarray, max_length: int, count: int = 6) -> tuple[int, ...]:
    """A few row lengths for examples of these lengths: at equal shares of the tokens, rounded up.

    Args:
      lengths: tokens of each example, int [n].
      max_length: none is longer.
      count: lengths at most.
    """
    ordered: np.ndarray = np.sort(lengths)
    shares = np.cumsum(ordered) / np.sum(ordered)
    places = np.searchsorted(shares, (np.arange(count) + 1) / count)
    cuts = ordered[np.minimum(places, len(ordered) - 1)]
    rounded = {min(-(-int(cut) // ROUND_TO) * ROUND_TO, max_length) for cut in (*cuts, ordered[-1])}
    return tuple(sorted(rounded))


@dataclass(frozen=True)
class Plan:
    """The batches of each epoch of a training set."""

    lengths: tuple[int, ...]
    """Row lengths S, ascending; no example is longer than the last."""
    bucket: Int[np.ndarray, "n"]
    """For each example, the index of the shortest length that holds it."""
    batch: int
    """Examples in a batch B."""

    @classmethod
    def of(cls, examples: Sequence[int] | np.ndarray, lengths: Sequence[int], batch: int) -> "Plan":
        """Plan for examples of so many tokens each."""
        ascending = tuple(sorted(lengths))
        return cls(ascending, np.searchsorted(np.array(ascending), np.asarray(examples)), batch)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.bucket) // self.batch)

    def batch_lengths(self, epoch: int) -> list[int]:
        """The row length of each batch of an epoch: the same whatever the seed."""
        return [self.lengths[bucket] for bucket in self._order(epoch)]

    def epoch(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch, by index; all but one batch has B of them."""
        batches: dict[int, list[np.ndarray]] = {}
        left = np.zeros(0, np.int64)
        for index in range(len(self.lengths)):
            pool = np.concatenate([left, np.flatnonzero(self.bucket == index)])
            pool = pool[permutation(len(pool), "examples", seed, epoch, index)]
            whole = len(pool) // self.batch * self.batch
            batches[index] = np.split(pool[:whole], whole // self.batch) if whole else []
            left = pool[whole:]
        if len(left):
            batches[len(self.lengths) - 1].append(left)
        return [batches[bucket].pop(0) for bucket in self._order(epoch)]

    def _order(self, epoch: int) -> list[int]:
        """The bucket of each batch of an epoch, shuffled."""
        buckets: list[int] = []
        left = 0
        for index in range(len(self.lengths)):
            count, left = divmod(left + int(np.count_nonzero(self.bucket == index)), self.batch)
            buckets += [index] * count
        if left:
            buckets.append(len(self.lengths) - 1)
        return [buckets[i] for i in permutation(len(buckets), "lengths", epoch)]


@dataclass(frozen=True)
class Rows:
    """Padded rows of one batch, with the weight of each: 1 for an example, 0 for a row that only fills up."""

    tokens: Int[np.ndarray, "B S"]
    segments: Int[np.ndarray, "B S"]
    """1 for a token, 0 for padding."""
    token_types: Int[np.ndarray, "B S"]
    labels: np.ndarray
    """int32 [B] classes or float32 [B] scores; 0 where they are hidden."""
    weights: np.ndarray
    """float32 [B]."""

    def as_dict(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return dict(vars(self))


def rows(encoded: Encoded, chosen: np.ndarray, batch: int, length: int) -> Rows:
    """The rows [B, S] of the chosen examples (at most B, none longer than `length`), padded to `length`.

    Rows that only fill up repeat the last example, with weight 0.
    """
    filled = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen))])
    have = min(length, encoded.tokens.shape[1])
    tokens = np.full((batch, length), encoded.pad, np.int32)
    token_types = np.zeros((batch, length), np.int32)
    tokens[:, :have] = encoded.tokens[filled, :have]
    token_types[:, :have] = encoded.token_types[filled, :have]
    segments = (np.arange(length) < encoded.lengths[filled, None]).astype(np.int32)
    labels = np.zeros(batch, np.int32) if encoded.labels is None else encoded.labels[filled]
    return Rows(tokens, segments, token_types, labels, (np.arange(batch) < len(chosen)).astype(np.float32))


def evaluation_batches(
    encoded: Encoded, lengths: Sequence[int], batch: int
) -> Iterator[tuple[np.ndarray, Rows]]:
    """Every example once, short ones first: (indices of the examples, rows); the last batch is filled up."""
    order = np.argsort(encoded.lengths, kind="stable")
    ascending = np.array(sorted(lengths))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = int(encoded.lengths[chosen].max())
        yield chosen, rows(encoded, chosen, batch, int(ascending[np.searchsorted(ascending, longest)]))

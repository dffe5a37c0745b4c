"""The batches of each epoch: a few static row lengths, and each example exactly once an epoch.

Each batch is padded to one of a few lengths, so a run compiles one program for each length. The examples of a length
are shuffled and cut into full batches. The remaining examples move up to the next length. Only the last batch of the
longest length may be short. So the number of batches of each length and their order depend only on the data and the
epoch. They do not depend on the seed: one program can do the same step for runs of different seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from data.labelled.labels import UNLABELLED
from data.random_orders import permutation
from finetune.texts.encoding import Encoded

ROUND_TO = 8
"""Lengths are multiples of this number, which fits the tiles of matrix units and vector units."""


def choose_lengths(lengths: np.ndarray, max_length: int, count: int = 6) -> tuple[int, ...]:
    """Choose a few row lengths, so that each holds about an equal share of the tokens; each is rounded up.

    Args:
      lengths: number of tokens of each example, int [n].
      max_length: upper limit of the row lengths, in tokens.
      count: largest number of row lengths.
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
    """Row lengths S, ascending. The last one holds the longest example."""
    bucket: Int[np.ndarray, "n"]
    """For each example, the index of the shortest row length that holds it."""
    batch: int
    """Batch size B, in examples."""

    @classmethod
    def of(cls, examples: Sequence[int] | np.ndarray, lengths: Sequence[int], batch: int) -> "Plan":
        """Plan the batches of a training set.

        Args:
          examples: number of tokens of each example.
          lengths: row lengths, in any order.
          batch: batch size, in examples.
        """
        ascending = tuple(sorted(lengths))
        return cls(ascending, np.searchsorted(np.array(ascending), np.asarray(examples)), batch)

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self.bucket) // self.batch)

    def batch_lengths(self, epoch: int) -> list[int]:
        """The row length of each batch of an epoch. It does not depend on the seed."""
        return [self.lengths[bucket] for bucket in self._order(epoch)]

    def epoch(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The indices of the examples in each batch of an epoch. Every batch but one has B examples."""
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
    """The padded rows of one batch. An example has weight 1; a row that only fills up the batch has weight 0."""

    tokens: Int[np.ndarray, "B ... S"]
    """[B, T, S] of examples of T texts, as the next two."""
    segments: Int[np.ndarray, "B ... S"]
    """1 for a token, 0 for padding."""
    token_types: Int[np.ndarray, "B ... S"]
    labels: np.ndarray
    """int32 [B] classes, float32 [B] scores or [B, C] sets of classes, int32 [B, S] classes of tokens; all 0 for a set
    with hidden labels."""
    weights: np.ndarray
    """float32 [B]."""

    def as_dict(self) -> dict[str, np.ndarray]:
        """The arrays by their names."""
        return dict(vars(self))


def rows(encoded: Encoded, chosen: np.ndarray, batch: int, length: int) -> Rows:
    """The rows [B, S] of the chosen examples, padded to `length` tokens.

    If there are fewer than B examples, the last one is repeated with weight 0.

    Args:
      encoded: the set of examples.
      chosen: indices of at most B examples; none is longer than `length`.
      batch: number of rows B.
      length: row length S, in tokens.
    """
    filled = np.concatenate([chosen, np.repeat(chosen[-1:], batch - len(chosen))])
    have, shape = min(length, encoded.tokens.shape[-1]), (batch, *encoded.tokens.shape[1:-1], length)
    tokens, token_types = np.full(shape, encoded.pad, np.int32), np.zeros(shape, np.int32)
    tokens[..., :have] = encoded.tokens[filled, ..., :have]
    token_types[..., :have] = encoded.token_types[filled, ..., :have]
    lengths = encoded.lengths if encoded.text_lengths is None else encoded.text_lengths
    segments = (np.arange(length) < lengths[filled, ..., None]).astype(np.int32)
    labels = np.zeros(batch, np.int32) if encoded.labels is None else encoded.labels[filled]
    if encoded.words is not None and encoded.labels is not None:
        of_rows, labels = labels, np.full((batch, length), UNLABELLED, np.int32)
        labels[:, :have] = of_rows[:, :have]
    return Rows(tokens, segments, token_types, labels, (np.arange(batch) < len(chosen)).astype(np.float32))


def evaluation_batches(
    encoded: Encoded, lengths: Sequence[int], batch: int
) -> Iterator[tuple[np.ndarray, Rows]]:
    """Yield every example once, in order of length, as (indices of the examples, rows). The last batch is filled up."""
    order = np.argsort(encoded.lengths, kind="stable")
    ascending = np.array(sorted(lengths))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = int(encoded.lengths[chosen].max())
        yield chosen, rows(encoded, chosen, batch, int(ascending[np.searchsorted(ascending, longest)]))

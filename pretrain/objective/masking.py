"""Masked language modelling: which tokens of a row are predicted, and what the model sees in their place.

BERT (Devlin et al. 2019, section 3.1) with masks drawn anew at every step (RoBERTa, Liu et al. 2019, section
4.1). A row has a fixed number of predictions, drawn without replacement, so that shapes are static and the
head runs on K positions of a row instead of S. Each row draws from a key of its own, so its mask depends on
that key and on nothing else: not on the mesh, the other rows, or how many there are. Training and evaluation
use the same function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pretrain.config import MaskingConfig
from tokenizer.load import Loaded

BudgetsOf = Callable[[Int[Array, "B"]], Int[Array, "B"]]
"""From the number of maskable tokens of each row to the number of its predictions."""


class Masked(NamedTuple):
    """A batch with its predictions; unused ones have weight 0, and any valid position and target."""

    inputs: Int[Array, "B S"]
    """What the model sees."""
    positions: Int[Array, "B K"]
    """Where in the row the predicted tokens stand."""
    targets: Int[Array, "B K"]
    """The tokens that stood there."""
    weights: Float[Array, "B K"]
    """1 for a prediction, 0 for an unused place."""


@dataclass(frozen=True, eq=False)
class MaskingTables:
    """What masking needs to know of the config and the tokenizer."""

    mask_fraction: float
    random_fraction: float
    mask_id: int
    special_ids: tuple[int, ...]
    """Never predicted, never a random replacement; in order."""
    vocab_size: int
    """The tokenizer's number of tokens. The model's embedding may have more rows, but these are never replacements."""
    word_starts: np.ndarray | None = None
    """Whether a token begins a word, bool [V]; None masks single tokens."""
    word_breaks: np.ndarray | None = None
    """Whether the token after this one begins a word, bool [V]."""

    @classmethod
    def build(cls, config: MaskingConfig, tokenizer: Loaded) -> Self:
        """The tables of a config and a tokenizer.

        Raises:
          UserError: the config asks for whole words, but the tokenizer does not mark them.
        """
        return cls(
            mask_fraction=config.mask_fraction,
            random_fraction=config.random_fraction,
            mask_id=tokenizer.special.mask,
            special_ids=tokenizer.special_ids,
            vocab_size=tokenizer.vocab_size,
            word_starts=tokenizer.word_starts() if config.whole_word else None,
            word_breaks=tokenizer.word_breaks() if config.whole_word else None,
        )


def predictions_per_row(rate: float, seq_len: int) -> int:
    """K: the largest number of predictions in a row of S tokens. A row that is full of maskable tokens has it."""
    return int(_budgets(rate, seq_len)[-1])


def mask_tokens(
    key: jax.Array,
    rows: Int[Array, "B"],
    tokens: Int[Array, "B S"],
    segments: Int[Array, "B S"],
    tables: MaskingTables,
    rate: float | BudgetsOf,
    predictions: int,
) -> Masked:
    """Choose and hide the predicted tokens of each row.

    Of n maskable tokens (segment above 0, not special), round(rate n) are predicted, and at least 1 where
    there are any (as BERT's code has it): a short row teaches something too. They are drawn uniformly without
    replacement; each is replaced by the mask token, by a random token that is not special, or left, with the
    shares of the tables.

    Whole words are taken in random order. A word is skipped if it does not fit the rest of the budget. No word goes
    beyond the start of a row or the end of a document. A word longer than the budget is cut into its tokens; a
    sentence of a script without spaces may be such a word.

    Args:
      key: a threefry key, the same on every mesh; one for each step, or one for all evaluations.
      rows: number of each row under this key: its index in the global batch, or in the evaluation set.
      tokens: the rows.
      segments: 0 for padding, 1.. for the document within the row.
      tables: the tables of the tokenizer and the config.
      rate: the share of a row's maskable tokens that is predicted; or a function from the number of maskable tokens of
        each row to the number of predictions, where the rate depends on the step.
      predictions: K, from `predictions_per_row`, or the largest number that the function gives.
    """
    row_keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    maskable = maskable_tokens(tokens, segments, tables)
    counts = jnp.sum(maskable, axis=1)
    budgets = rate(counts) if callable(rate) else jnp.asarray(_budgets(rate, tokens.shape[1]))[counts]

    def mask_row(key: jax.Array, tokens: Array, segments: Array, maskable: Array, budget: Array) -> Masked:
        choice_key, action_key, replacement_key = jax.random.split(key, 3)
        priorities = jax.random.bits(choice_key, tokens.shape)
        if tables.word_starts is None:
            positions, chosen = _choose_tokens(priorities, maskable, budget, predictions)
        else:
            starts = _word_starts(tokens, segments, tables)
            positions, chosen = _choose_words(priorities, maskable, starts, budget, predictions)
        targets = tokens[positions]
        replaced = _replace(action_key, replacement_key, targets, tables)
        # An unused place may have the position of a prediction. So it writes outside the row, where the write is
        # dropped.
        written = jnp.where(chosen, positions, tokens.shape[0])
        inputs = tokens.at[written].set(replaced, mode="drop")
        return Masked(inputs, positions, targets, chosen.astype(jnp.float32))

    return jax.vmap(mask_row)(row_keys, tokens, segments, maskable, budgets)


def maskable_tokens(
    tokens: Int[Array, "B S"], segments: Int[Array, "B S"], tables: MaskingTables
) -> Bool[Array, "B S"]:
    """Which tokens may be predicted: neither padding nor special."""
    return (segments > 0) & ~_is_one_of(tokens, tables.special_ids)


def _budgets(rate: float, seq_len: int) -> np.ndarray:
    """Number of predictions for each number n of maskable tokens, int32 [S + 1]; a table, so that no device rounds."""
    budgets = [0] + [min(n, max(1, round(rate * n))) for n in range(1, seq_len + 1)]
    return np.array(budgets if rate > 0 else [0] * (seq_len + 1), np.int32)


def _is_one_of(tokens: Int[Array, "B S"], ids: tuple[int, ...]) -> Bool[Array, "B S"]:
    return jnp.any(tokens[..., None] == jnp.array(ids, tokens.dtype), axis=-1)


def _order(priorities: Array, last: Bool[Array, "S"]) -> Int[Array, "S"]:
    """Positions of a row in order of priority, those marked `last` behind the others; equal ones in their own
    order.

    Priority and position share one integer: XLA sorts a single operand several times faster than key and
    value, and, unlike its top_k, does so without gathering a sharded batch. It leaves 31 - log2(S) bits of
    the priority: 24 at S=128.
    """
    length = last.shape[0]
    position_bits = np.uint32((1 << (length - 1).bit_length()) - 1)
    high_bits = (priorities >> 1) & ~position_bits | last.astype(jnp.uint32) << 31
    return (jnp.sort(high_bits | jnp.arange(length, dtype=jnp.uint32)) & position_bits).astype(jnp.int32)


def _choose_tokens(
    priorities: Array, maskable: Bool[Array, "S"], budget: Int[Array, ""], predictions: int
) -> tuple[Int[Array, "K"], Bool[Array, "K"]]:
    """The maskable positions that come first by priority, and which of the K are within the budget."""
    return _order(priorities, ~maskable)[:predictions], jnp.arange(predictions) < budget


def _word_starts(
    tokens: Int[Array, "S"], segments: Int[Array, "S"], tables: MaskingTables
) -> Bool[Array, "S"]:
    """Where a word begins: by its token, after a break, at the start of a row or document."""
    starts = jnp.asarray(tables.word_starts)[tokens]
    after_break = jnp.asarray(tables.word_breaks)[tokens[:-1]] | (segments[1:] != segments[:-1])
    return starts | jnp.concatenate([jnp.ones(1, bool), after_break])


def _choose_words(
    priorities: Array,
    maskable: Bool[Array, "S"],
    starts: Bool[Array, "S"],
    budget: Int[Array, ""],
    predictions: int,
) -> tuple[Int[Array, "K"], Bool[Array, "K"]]:
    """The positions of words taken in order of priority while they fit, and which of the K are used."""
    length = maskable.shape[0]
    index = jnp.arange(length)
    first = jax.lax.cummax(jnp.where(starts, index, 0))
    sizes = jnp.zeros(length, jnp.int32).at[first].add(maskable.astype(jnp.int32))[first]
    too_long = sizes > budget
    first, sizes = jnp.where(too_long, index, first), jnp.where(too_long, 1, sizes)
    # A word has the priority of its first token, and so stays together.
    order = _order(priorities[first], ~maskable)
    word, sizes = first[order], sizes[order]
    last = jnp.concatenate([word[1:] != word[:-1], jnp.ones(1, bool)])

    def fits(state: tuple[Array, Array, Array]) -> Array:
        return jnp.any(state[1])

    def take(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # Take the words up to the first that does not fit. Drop the words that exceed the rest of the budget, and try
        # the others again.
        taken, waiting, left = state
        total = jnp.cumsum(waiting)
        total_at_last = jax.lax.cummin(jnp.where(last, total, length + 1), reverse=True)
        now = waiting & (total_at_last <= left)
        left = left - jnp.sum(now)
        return taken | now, waiting & ~now & (sizes <= left), left

    start = (jnp.zeros(length, bool), maskable[order] & (sizes <= budget), budget)
    taken, _, _ = jax.lax.while_loop(fits, take, start)
    kept = _order(jnp.zeros_like(priorities), ~taken)[:predictions]
    return order[kept], taken[kept]


def _replace(
    action_key: jax.Array, replacement_key: jax.Array, targets: Int[Array, "K"], tables: MaskingTables
) -> Int[Array, "K"]:
    """What the model sees for each predicted token."""
    action = jax.random.uniform(action_key, targets.shape)
    ordinary = tables.vocab_size - len(tables.special_ids)
    drawn = jax.random.randint(replacement_key, targets.shape, 0, ordinary, targets.dtype)
    # The nth ordinary token stands behind every special token that has at most n ordinary ones before it.
    before = np.array(tables.special_ids) - np.arange(len(tables.special_ids))
    random = drawn + jnp.sum(
        drawn[:, None] >= jnp.asarray(before, targets.dtype), axis=-1, dtype=targets.dtype
    )
    replaced = jnp.where(action < tables.mask_fraction + tables.random_fraction, random, targets)
    return jnp.where(action < tables.mask_fraction, tables.mask_id, replaced)

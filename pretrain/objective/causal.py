"""Causal language modelling (Radford et al. 2018) on the same encoder: each token is predicted from those before it.

A token sees the tokens before it in its document, nothing is hidden, and the head runs on every position. A run may
learn this first and masked language modelling after (Gisserot-Boukhlef et al. 2025, "Should We Still Pretrain Encoders
with Masked Language Modeling?").
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pretrain.models import Model
from pretrain.objective.names import TRAITS
from pretrain.objective.objective import (
    Z_LOSS_SUM,
    Batch,
    Prepared,
    Sums,
    cross_entropy_sums,
    prediction_metrics,
)

POSITIONS_AT_ONCE = 128
"""Positions of a row whose logits [B, 128, V] are held at a time."""


@dataclass(frozen=True)
class CausalLM:
    """Causal language modelling; an `Objective`."""

    separator: int
    """The token that ends a document. The token after it is of another document, and is not predicted from it."""
    at_once: int | None = POSITIONS_AT_ONCE
    """Positions of a row that the head runs on at a time; None is all of them."""
    z_loss: float = 0.0
    """Weight of log(Z)^2 in what is minimised."""
    name = "clm"
    causal = TRAITS[name].causal

    def predictions(self, seq_len: int) -> int:
        """S - 1: the last token of a row has none after it."""
        return seq_len - 1

    def prepare(
        self, key: jax.Array, row_ids: Int[Array, "B"], batch: Batch, step: Int[Array, ""] | None = None
    ) -> Prepared:
        """The next token at each position. Neither the last token of a document nor padding predicts one."""
        tokens = batch["tokens"]
        return Prepared(
            inputs=tokens,
            segments=batch["segments"],
            positions=batch["positions"],
            predicted=None,
            targets=jnp.roll(tokens, -1, axis=1),
            weights=jnp.roll(self.may_be_predicted(batch), -1, axis=1).astype(jnp.float32),
        )

    def may_be_predicted(self, batch: Batch) -> Bool[Array, "B S"]:
        """Those with a token of their document before them in the row."""
        tokens, segments = batch["tokens"], batch["segments"]
        before, segments_before = jnp.roll(tokens, 1, axis=1), jnp.roll(segments, 1, axis=1)
        same_document = (segments > 0) & (segments == segments_before) & (before != self.separator)
        return same_document & (jnp.arange(tokens.shape[1]) > 0)

    def loss(self, model: Model, params: Any, prepared: Prepared, dropout_key: jax.Array | None) -> Sums:
        """loss_sum, correct_sum and weight_sum over the tokens that are predicted; z_loss_sum too where there is one.

        The head takes `at_once` positions of each row at a time, and the backward pass computes their logits again.
        The logits of all positions at once may not fit in memory.
        """
        hidden = model.encode(
            params,
            prepared.inputs,
            prepared.segments,
            prepared.positions,
            dropout_key=dropout_key,
            causal=True,
        )
        predictions = (hidden, prepared.targets, prepared.weights)

        def sums_of(part: tuple[Array, Array, Array]) -> Sums:
            return cross_entropy_sums(model, params, *part, z_loss=self.z_loss)

        size = self.at_once
        if size is None or hidden.shape[1] <= size:
            return sums_of(predictions)

        def add(total: Sums, part: tuple[Array, Array, Array]) -> tuple[Sums, None]:
            return jax.tree.map(jnp.add, total, sums_of(part)), None

        parts = jax.tree.map(lambda x: _split(x, size), predictions)
        names = ("loss_sum", "correct_sum", "weight_sum", *([Z_LOSS_SUM] if self.z_loss else []))
        zeros = {name: jnp.zeros(()) for name in names}
        return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), zeros, parts)[0]

    def counts(self, batch: Batch) -> Sums:
        """Nothing: there are no maskable tokens to count."""
        return {}

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """loss, accuracy, perplexity."""
        return prediction_metrics(sums)

    def in_one_piece(self) -> Self:
        """The same with the head on all positions at once."""
        return dataclasses.replace(self, at_once=None)


def _split(x: Array, size: int) -> Array:
    """Positions in parts, [B, S, ...] to [ceil(S / size), B, size, ...]; the last part is filled up with zeros."""
    rows, length = x.shape[:2]
    filled = jnp.pad(x, ((0, 0), (0, -length % size), *((0, 0),) * (x.ndim - 2)))
    return jnp.swapaxes(filled.reshape(rows, -1, size, *x.shape[2:]), 0, 1)

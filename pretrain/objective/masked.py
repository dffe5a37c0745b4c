"""Masked language modelling as an objective: tokens are hidden (`masking.py`), and predicted from both sides.

The head runs on the K predicted positions of a row alone.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pretrain.models import Model
from pretrain.objective.mask_rates import MaskRates
from pretrain.objective.masking import (
    BudgetsOf,
    MaskingTables,
    mask_tokens,
    maskable_tokens,
    predictions_per_row,
)
from pretrain.objective.names import TRAITS
from pretrain.objective.objective import Batch, Prepared, Sums, cross_entropy_sums, prediction_metrics


@dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling at some rate; an `Objective`."""

    tables: MaskingTables
    rate: float
    """Share of a row's maskable tokens that is predicted; with `rates`, the largest."""
    rates: MaskRates | None = None
    """The rate of each step; None if it is constant."""
    z_loss: float = 0.0
    """Weight of log(Z)^2 in what is minimised."""
    name = "mlm"
    causal = TRAITS[name].causal

    def predictions(self, seq_len: int) -> int:
        """K, the most predictions in a row that is full of maskable tokens."""
        if self.rates is not None:
            return self.rates.predictions(seq_len)[0]
        return predictions_per_row(self.rate, seq_len)

    def prepare(
        self, key: jax.Array, row_ids: Int[Array, "B"], batch: Batch, step: Int[Array, ""] | None = None
    ) -> Prepared:
        """Choose the predicted tokens of each row by its id and the key, and hide them."""
        tokens, segments = batch["tokens"], batch["segments"]
        predictions = self.predictions(tokens.shape[1])
        rate: float | BudgetsOf = self.rate
        if self.rates is not None:
            assert step is not None
            rate = functools.partial(self.rates.budgets, step)
        masked = mask_tokens(key, row_ids, tokens, segments, self.tables, rate, predictions)
        return Prepared(
            inputs=masked.inputs,
            segments=segments,
            positions=batch["positions"],
            predicted=masked.positions,
            targets=masked.targets,
            weights=masked.weights,
        )

    def loss(self, model: Model, params: Any, prepared: Prepared, dropout_key: jax.Array | None) -> Sums:
        """loss_sum, correct_sum and weight_sum over the predicted tokens; z_loss_sum too where there is one."""
        chosen = model.encode(
            *(params, prepared.inputs, prepared.segments, prepared.positions),
            dropout_key=dropout_key,
            predicted=prepared.predicted,
        )
        return cross_entropy_sums(
            model, params, chosen, prepared.targets, prepared.weights, z_loss=self.z_loss
        )

    def may_be_predicted(self, batch: Batch) -> Bool[Array, "B S"]:
        """Those that are neither padding nor special."""
        return maskable_tokens(batch["tokens"], batch["segments"], self.tables)

    def counts(self, batch: Batch) -> Sums:
        """maskable_sum: tokens that may be predicted."""
        return {"maskable_sum": jnp.sum(self.may_be_predicted(batch))}

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """loss, accuracy, perplexity; in training also predicted_share, the share of maskable tokens."""
        metrics = prediction_metrics(sums)
        if "maskable_sum" in sums:
            metrics["predicted_share"] = float(sums["weight_sum"]) / max(float(sums["maskable_sum"]), 1.0)
        return metrics

    def in_one_piece(self) -> Self:
        """Itself: it has no loops."""
        return self

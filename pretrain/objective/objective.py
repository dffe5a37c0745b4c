"""What an objective is: the contract that the train step, the evaluation, the reports and the plan rely on.

An objective chooses the predictions of a batch (`prepare`), and computes a network's loss on them (`loss`). All of its
results are sums. They add up over micro-batches, devices, steps and batches of an evaluation. `summarise` makes metrics
of the total. Masked language modelling is in `masked.py`, causal language modelling in `causal.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pretrain.devices.flops import causal_pairs, pairs_of_documents
from pretrain.devices.mesh import constrain
from pretrain.models import Model, lean_gradients
from pretrain.models.lean_gradients import capped

Batch = Mapping[str, Array]
"""tokens, segments and positions, int32 [B, S]; see `data.packing`."""
Sums = dict[str, Array]
"""Scalars that add up, each under a name that ends in `_sum`."""


Z_LOSS_SUM = "z_loss_sum"
"""The sum of an objective's z-loss, times its weight; `minimised` adds it to the loss."""


class Prepared(NamedTuple):
    """What the network reads of a batch, and what it is to predict. Every array has the rows as its first axis."""

    inputs: Int[Array, "B S"]
    """The tokens that the network sees."""
    segments: Int[Array, "B S"]
    """The document within the row, 0 for padding."""
    positions: Int[Array, "B S"]
    """The position within the document."""
    predicted: Int[Array, "B K"] | None
    """Where in the row the network predicts; None where it predicts at every position, K = S."""
    targets: Int[Array, "B K"]
    """The right answers."""
    weights: Float[Array, "B K"]
    """1 for a prediction, 0 for an unused place, which may have any position and target."""


class Objective(Protocol):
    """What a phase of a run learns."""

    @property
    def name(self) -> str:
        """Its value of `config.objective.name`."""

    @property
    def causal(self) -> bool:
        """Whether a token sees the tokens before it alone."""

    def predictions(self, seq_len: int) -> int:
        """The most predictions of a row of S tokens."""

    def prepare(
        self, key: jax.Array, row_ids: Int[Array, "B"], batch: Batch, step: Int[Array, ""] | None = None
    ) -> Prepared:
        """The predictions of a batch.

        Args:
          key: a threefry key, of the step or of all evaluations.
          row_ids: what tells a row from the others under this key.
          batch: the rows.
          step: of the run, from 0, in training; None in an evaluation.
        """

    def loss(self, model: Model, params: Any, prepared: Prepared, dropout_key: jax.Array | None) -> Sums:
        """loss_sum (cross-entropy, nats), correct_sum (right first guesses) and weight_sum (predictions).

        With a z-loss, z_loss_sum too (`cross_entropy_sums`).

        Args:
          model: the network.
          params: its params.
          prepared: the predictions, as `prepare` gives them.
          dropout_key: the key of the dropout masks; None drops nothing (evaluation).
        """

    def may_be_predicted(self, batch: Batch) -> Bool[Array, "B S"]:
        """Which tokens may be targets."""

    def counts(self, batch: Batch) -> Sums:
        """Further sums of a training batch, which do not depend on params."""

    def summarise(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics, by their names in logs, of the total of the sums of `loss` and, where they are there, `counts`."""

    def in_one_piece(self) -> Self:
        """The same without loops or recomputation of its own, for counting arithmetic."""


def minimised(sums: Sums) -> Array:
    """The sum that a train step minimises: of the loss, and of the z-loss where there is one."""
    return sums["loss_sum"] + sums[Z_LOSS_SUM] if Z_LOSS_SUM in sums else sums["loss_sum"]


def prediction_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """loss (nats a prediction), accuracy and perplexity of the sums of `Objective.loss`; z_loss where there is one."""
    weight = max(float(sums["weight_sum"]), 1.0)
    loss = float(sums["loss_sum"]) / weight
    return {
        "loss": loss,
        "accuracy": float(sums["correct_sum"]) / weight,
        "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.nan,
        **({"z_loss": float(sums[Z_LOSS_SUM]) / weight} if Z_LOSS_SUM in sums else {}),
    }


def attended_pairs(objective: Objective, seen: Any, tokens: Any) -> Any:
    """Pairs of tokens of which the first sees the second.

    Args:
      objective: what is learned; under a causal one a token sees itself and the tokens before it.
      seen: the pairs where a token sees both sides, a number or an array (`pretrain.devices.flops.seen_pairs`).
      tokens: the sum over documents of their lengths.
    """
    return causal_pairs(seen, tokens) if objective.causal else seen


def full_rows(objective: Objective, rows: int, seq_len: int, windows: Sequence[int] = ()) -> dict[str, float]:
    """The work of rows that each hold one document of S tokens, as `StepWork.flops` takes it.

    Args:
      objective: what is learned.
      rows: their number.
      seq_len: S.
      windows: of the network's layers (`EncoderConfig.windows`).
    """
    tokens = rows * seq_len
    return {
        "tokens": tokens,
        "attended": attended_pairs(objective, rows * float(pairs_of_documents(seq_len, windows)), tokens),
        "predictions": rows * objective.predictions(seq_len),
    }


@jax.named_scope("loss")
def cross_entropy_sums(
    model: Model,
    params: Any,
    hidden: Float[Array, "B K D"],
    targets: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    *,
    z_loss: float = 0.0,
) -> Sums:
    """loss_sum, correct_sum and weight_sum of predictions of tokens from hidden states.

    With a `z_loss` above 0 also z_loss_sum: `z_loss` times the sum of log(Z)^2, where Z is the sum of the exponentials
    of a prediction's logits (Chowdhery et al. 2022, section 5). It is no part of loss_sum.
    """
    logits = model.predict(params, constrain(hidden, "batch", None, "act_embed"))
    # A comparison fuses into the reductions around it; a gather's gradient would be a scatter into [B, K, V] zeros.
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[:, :, None]
    target_logits = jnp.sum(jnp.where(is_target, logits, 0.0), axis=2)
    highest = jnp.max(jax.lax.stop_gradient(logits), axis=2)
    # log(sum(exp)) with the maximum at hand, which also tells whether the target is the best guess.
    if lean_gradients.are_used(hidden.dtype):
        # Without it, the product that gives the logits gives the sum too, and they are read once less.
        normaliser = jnp.log(jnp.sum(jnp.exp(capped(logits)), axis=2))
        losses = normaliser - capped(target_logits)
    else:
        normaliser = jnp.log(jnp.sum(jnp.exp(logits - highest[:, :, None]), axis=2)) + highest
        losses = normaliser - target_logits
    sums = {
        "loss_sum": jnp.sum(losses * weights),
        "correct_sum": jnp.sum((target_logits >= highest) * weights),
        "weight_sum": jnp.sum(weights),
    }
    return sums | {Z_LOSS_SUM: z_loss * jnp.sum(jnp.square(normaliser) * weights)} if z_loss else sums

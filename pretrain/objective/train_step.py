"""The two compiled functions of a run, of any objective: one optimiser step, one evaluation batch.

Both are pure. Every random number of step n comes from fold_in(key(seed), n), so a step replays on any mesh and after
any resume. Losses are sums with weights; the mean is taken once, over the whole global batch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, Shaped

from pretrain.devices.mesh import constrain
from pretrain.models import Model
from pretrain.objective.objective import Objective, Prepared, Sums, attended_pairs, minimised
from pretrain.optim.finite import NONFINITE, is_bad, kept
from pretrain.optim.train_state import DROPOUT, EVALUATION, MASKS, TrainState, random_key
from pretrain.phases import Phase

Batch = dict[str, Array]
Metrics = dict[str, Array]


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    objective: Objective,
    phase: Phase,
    *,
    seed: int,
    dropout_implementation: str,
    skip_bad: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step of a phase: (state, batch) -> (state, metrics).

    A batch holds tokens, segments, positions [B, S] int32 and attended [B] float32, the pairs of tokens that see each
    other in each row (`pretrain.devices.flops.seen_pairs`). Metrics are scalars: the objective's sums before the
    update, grad_norm, learning_rate, tokens (without padding), attended (pairs of tokens of which the first sees the
    second), nonfinite (1 where the loss or the gradient is not finite).

    Args:
      model: the network.
      optimizer: the optimiser.
      schedule: its learning rates.
      objective: what the phase learns.
      phase: the phase.
      seed: the run's.
      dropout_implementation: the generator of dropout masks, by jax's name.
      skip_bad: whether a step that is not finite leaves params and moments as they were, and counts in no sum.
    """
    rows, micro_batches = jnp.arange(phase.global_batch, dtype=jnp.int32), phase.grad_accum

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        mask_key = jax.random.fold_in(random_key(seed, MASKS), state.step)
        dropout_key = jax.random.fold_in(random_key(seed, DROPOUT, dropout_implementation), state.step)
        with jax.named_scope("masking"):
            prepared = objective.prepare(mask_key, rows, batch, state.step)
        total_weight = jnp.maximum(jnp.sum(prepared.weights), 1.0)

        def loss_fn(params: Any, part: Prepared, key: jax.Array) -> tuple[Array, Sums]:
            sums = objective.loss(model, model.with_shared_table(params), part, key)
            return minimised(sums) / total_weight, sums

        grad_fn = jax.grad(loss_fn, has_aux=True)
        if micro_batches == 1:
            grads, sums = grad_fn(state.params, prepared, dropout_key)
        else:
            grads, sums = accumulate(grad_fn, state.params, prepared, dropout_key, micro_batches)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            grad_norm = optax.tree.norm(grads)
        bad = is_bad(sums["loss_sum"], grad_norm)
        sums = sums | dict(objective.counts(batch))
        if skip_bad:
            params, opt_state = kept(bad, (state.params, state.opt_state), (params, opt_state))
            sums = kept(bad, jax.tree.map(jnp.zeros_like, sums), sums)
        tokens = jnp.sum(batch["segments"] > 0)
        metrics = sums | {
            NONFINITE: bad,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "tokens": tokens,
            "attended": attended_pairs(objective, jnp.sum(batch["attended"]), tokens),
        }
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def lower(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    metrics: NamedSharding | None = None,
) -> jax.stages.Lowered:
    """Lower the step of `make_train_step`. The compiled step reuses the state's memory and keeps its layout.

    Args:
      train_step: the step.
      state: the state's shapes and shardings (`pretrain.optim.train_state.abstract_state`).
      batch: those of a batch (`pretrain.devices.global_batch.abstract_batch`).
      metrics: the layout of the metrics; None leaves it to the compiler.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, metrics)).lower(state, batch)


def accumulate(
    grad_fn: Callable[..., tuple[Any, Metrics]], params: Any, whole: Any, key: jax.Array, count: int
) -> tuple[Any, Metrics]:
    """Gradients and metrics of a batch taken in `count` micro-batches, one after another.

    The loss is already divided by the weight of the whole batch, so gradients add up. Micro-batch i takes rows i, i +
    count, ... So each device splits its own rows, and no rows move between devices.
    """

    def body(total: Any, part: tuple[Array, Any]) -> tuple[Any, None]:
        index, micro_batch = part
        result = grad_fn(params, micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    micro_batches = (jnp.arange(count), jax.tree.map(lambda x: split_rows(x, count), whole))
    shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], micro_batches[1]), key)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, micro_batches)
    return total


def split_rows(x: Shaped[Array, "B ..."], count: int) -> Shaped[Array, "N M ..."]:
    """`count` micro-batches of the rows of a batch; micro-batch i has rows i, i + count, ..."""
    parts = x.reshape(x.shape[0] // count, count, *x.shape[1:])
    return jnp.swapaxes(constrain(parts, "batch", *(None,) * x.ndim), 0, 1)


def make_eval_step(model: Model, objective: Objective) -> Callable[[Any, Batch, Int[Array, "B"]], Sums]:
    """Evaluation of one batch: (params, batch, row_ids) -> sums of the objective's loss, without dropout.

    What is predicted of a row depends on its row id alone: the same at every evaluation, on every mesh, in every run.
    """

    def eval_step(params: Any, batch: Batch, row_ids: Int[Array, "B"]) -> Sums:
        prepared = objective.prepare(random_key(0, EVALUATION), row_ids, batch)
        return objective.loss(model.evaluated(), params, prepared, None)

    return eval_step

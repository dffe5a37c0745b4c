"""The two compiled functions of fine-tuning: one step of every run, and the logits of one evaluation batch.

One program trains a population of M runs. Params, moments, batches and keys have a leading axis M, and `jax.vmap`
applies the step of a single run along this axis. Member i makes the same steps as a single run with its seed. On a CPU
each member makes its steps by a program for M = 1 (`finetune.population.in_turn`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from finetune.classifier.network import Classifier
from finetune.config import FinetuneConfig, frozen_layers
from finetune.population.state import PopulationState
from finetune.population.step_inputs import OF_MEMBERS, StepInputs, taken_from
from pretrain.devices.mesh import constrain
from pretrain.models.module_shapes import LAYERS
from pretrain.models.positions import positions_of_texts
from pretrain.objective.train_step import accumulate, split_rows
from pretrain.optim.averages import averaged
from pretrain.optim.config import OptimizerConfig as PretrainOptimizer
from pretrain.optim.finite import NONFINITE, is_bad, kept
from pretrain.optim.learning_rates import ScheduleNumbers, share_of_peak
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import DROPOUT, random_key

Batch = dict[str, Array]
Metrics = dict[str, Array]

MEMBER = "member"
"""The mesh axis over which the runs are distributed."""


def optimizer_of(config: FinetuneConfig, classifier: Classifier) -> optax.GradientTransformationExtraArgs:
    """The optimiser. Its update takes what a step has as inputs (`finetune.population.step_inputs`):

    - rate: a run's peak learning rate; the rate also depends on the depth.
    - weight_decay: the decay.
    - schedule: the learning rate of each step, as a share of the peak.
    """
    chosen = config.optimizer
    decayed, axes = classifier.decay_mask(), classifier.logical_axes()

    def of_rate_one(weight_decay: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
        settings = PretrainOptimizer(
            name=chosen.name,
            learning_rate=1.0,
            weight_decay=weight_decay,
            beta1=chosen.beta1,
            beta2=chosen.beta2,
            eps=chosen.eps,
            clip_norm=chosen.clip_norm,
            orthogonal_dtype="float32",
            orthogonal_steps="newton_schulz",
        )
        return make_optimizer(settings, schedule, decayed, axes)

    with_rate = _with_rate(of_rate_one, classifier, chosen.layer_decay, config.freeze)
    return averaged(with_rate, config.average.decay)


def _with_rate(
    optimizer: Callable[[Any, optax.Schedule], optax.GradientTransformation],
    classifier: Classifier,
    layer_decay: float,
    freeze: str,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser with its updates multiplied by the argument `rate`, and by each layer's share of it.

    It is no part of a chain. So the state has the tree of the optimiser's. Decay and schedule do not change that tree.
    """

    def update(
        gradients: Any,
        state: Any,
        params: Any = None,
        *,
        rate: Array,
        weight_decay: Array,
        schedule: optax.Schedule,
        **more: Any,
    ) -> tuple[Any, Any]:
        updates, state = optimizer(weight_decay, schedule).update(gradients, state, params)
        scales = depth_scales(classifier, layer_decay)
        if freeze:
            scales = jax.tree.map(jnp.multiply, scales, _trained(classifier, freeze))
        return jax.tree.map(lambda update, scale: update * (rate * scale), updates, scales), state

    init = optimizer(0.0, lambda count: jnp.float32(1.0)).init
    return optax.GradientTransformationExtraArgs(init, update)


def depth_scales(classifier: Classifier, decay: float) -> Any:
    """A tree like params with each leaf's share of the learning rate: decay ** (layers above) (Clark et al. 2020)."""
    top = classifier.encoder.config.num_hidden_layers + 1
    return jax.tree.map(
        lambda depth: jnp.float32(decay) ** (top - jnp.asarray(depth)), classifier.layer_depths()
    )


def _trained(classifier: Classifier, freeze: str) -> Any:
    """A tree like params with 1 where config.freeze trains, else 0; arrays [L, 1, ...] for the layers."""
    count = frozen_layers(freeze, classifier.encoder.config.num_hidden_layers)

    def trained(part: str, depth: Any) -> Array:
        depth = jnp.asarray(depth)
        if part == "head":
            return jnp.ones_like(depth)
        return jnp.zeros_like(depth) if count is None else (depth > count).astype(depth.dtype)

    depths = classifier.layer_depths()
    return {
        part: jax.tree.map(lambda depth, part=part: trained(part, depth), tree)
        for part, tree in depths.items()
    }


def trained_count(classifier: Classifier, params: Any, freeze: str) -> int:
    """The number of parameters that config.freeze leaves to be trained.

    Args:
      classifier: the network.
      params: its params.
      freeze: config.freeze.
    """
    shares = jax.tree.map(lambda trained: float(jnp.mean(trained)), _trained(classifier, freeze))
    counts = jax.tree.map(lambda share, leaf: round(share * leaf.size), shares, params)
    return sum(jax.tree.leaves(counts))


def _without_gradients(params: Any, classifier: Classifier, freeze: str) -> Any:
    """Params of which the frozen parts get no gradient; so the backward pass ends above a frozen encoder."""
    count = frozen_layers(freeze, classifier.encoder.config.num_hidden_layers)
    stop = jax.lax.stop_gradient
    if count is None:
        return {part: tree if part == "head" else stop(tree) for part, tree in params.items()}

    def below(array: Array) -> Array:
        return jnp.concatenate([stop(array[:count]), array[count:]])

    layers = jax.tree.map(below, params[LAYERS])
    tables = {part: stop(params[part]) for part in ("embeddings", "shared") if part in params}
    return {**params, **tables, LAYERS: layers}


def make_train_step(
    classifier: Classifier,
    optimizer: optax.GradientTransformationExtraArgs,
    config: FinetuneConfig,
) -> Callable[[PopulationState, Batch], tuple[PopulationState, Metrics]]:
    """Make the train step: (state, batch) -> (state, metrics).

    A batch has tokens, segments and token_types [M, B, S], weights [M, B], and labels [M, B, ...] as the classifier's
    kind has them, and the arrays of `finetune.population.step_inputs`.
    Each metric has shape [M]: loss_sum and correct_sum over the labels, weight_sum, grad_norm before clipping,
    learning_rate, and nonfinite (1 where the loss or the gradient is not finite).

    Args:
      classifier: the network.
      optimizer: that of `optimizer_of`.
      config: the fine-tuning config.
    """
    smoothing, micro_batches, skips = config.label_smoothing, config.grad_accum, config.on_nonfinite == "skip"
    kind = classifier.kind

    def loss_fn(params: Any, part: Any, key: Array) -> tuple[Array, Metrics]:
        batch, total = part
        if config.freeze:
            params = _without_gradients(params, classifier, config.freeze)
        if kind.embeds and micro_batches > 1:
            logits = vectors_in_parts(classifier, params, batch, key, micro_batches)
        else:
            logits = logits_of(classifier, params, batch, key)
        labels, weights = batch["labels"], kind.weights(batch["weights"], batch["labels"])
        losses = kind.losses_in_batch(logits, labels, batch["weights"], smoothing)
        right = kind.right(logits, labels)
        loss_sum = jnp.sum(losses * weights)
        return loss_sum / total[0], {"loss_sum": loss_sum, "correct_sum": jnp.sum(right * weights)}

    def member_step(
        params: Any, moments: Any, step: Array, inputs: StepInputs, batch: Batch
    ) -> tuple[Any, Any, Metrics]:
        seed, rate, weight_decay, numbers = inputs

        def schedule(count: jax.typing.ArrayLike) -> Array:
            return share_of_peak(config.schedule.name, ScheduleNumbers(*numbers), count)

        key = jax.random.fold_in(random_key(seed, DROPOUT), step)
        weight_sum = jnp.sum(kind.weights(batch["weights"], batch["labels"]))
        # A batch may have no label: windows inside a word that is longer than a row.
        part = (batch, jnp.broadcast_to(jnp.maximum(weight_sum, 1.0), batch["weights"].shape))
        grad_fn = jax.grad(loss_fn, has_aux=True)
        if micro_batches == 1 or kind.embeds:
            grads, sums = grad_fn(params, part, key)
        else:
            grads, sums = accumulate(grad_fn, params, part, key, micro_batches)
        updates, opt_state = optimizer.update(
            grads, moments, params, rate=rate, weight_decay=weight_decay, schedule=schedule
        )
        grad_norm = optax.tree.norm(grads)
        new = (optax.apply_updates(params, updates), opt_state)
        sums |= {"weight_sum": weight_sum}
        bad = is_bad(sums["loss_sum"], grad_norm)
        if skips:
            new, sums = kept(bad, (params, moments), new), kept(bad, jax.tree.map(jnp.zeros_like, sums), sums)
        more = {"grad_norm": grad_norm, "learning_rate": rate * schedule(step), NONFINITE: bad}
        return *new, sums | more

    every_member = jax.vmap(member_step, in_axes=(0, 0, None, OF_MEMBERS, 0), spmd_axis_name=MEMBER)

    def train_step(state: PopulationState, batch: Batch) -> tuple[PopulationState, Metrics]:
        inputs, rows = taken_from(batch)
        params, opt_state, metrics = every_member(state.params, state.opt_state, state.step, inputs, rows)
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def make_logits(classifier: Classifier) -> Callable[[Any, Batch], Float[Array, "M B ... C"]]:
    """Make the function that computes every member's logits for evaluation rows [B, S], without dropout."""

    def logits(params: Any, batch: Batch) -> Array:
        found = logits_of(classifier, params, batch, None)
        return found.reshape(len(found), -1) if classifier.kind.embeds else found

    return jax.vmap(logits, in_axes=(0, None), spmd_axis_name=MEMBER)


def logits_of(
    classifier: Classifier, params: Any, batch: Batch, dropout_key: Array | None
) -> Float[Array, "B ... C"]:
    """Logits of the rows of a batch; dropout_key None computes them without dropout.

    Where an example is T texts, they are the vectors of its texts, [B, T, D].
    """
    if batch["tokens"].ndim > 2:
        shape, names = batch["tokens"].shape, ("tokens", "segments", "token_types")
        texts = {name: batch[name].reshape(-1, shape[-1]) for name in names}
        return logits_of(classifier, params, texts, dropout_key).reshape(*shape[:-1], -1)
    tokens, segments = batch["tokens"], batch["segments"]
    positions = positions_of_texts(tokens, classifier.encoder.config)
    token_types = batch["token_types"] if classifier.token_types > 1 else None
    return classifier.logits(params, tokens, segments, positions, token_types, dropout_key=dropout_key)


def vectors_in_parts(
    classifier: Classifier, params: Any, batch: Batch, dropout_key: Array, count: int
) -> Float[Array, "B T D"]:
    """The vectors of a batch's texts, with the memory of one of `count` micro-batches.

    The backward pass computes each micro-batch again, with the same dropout (GradCache, Gao et al. 2021). So the loss
    sees all rows of the batch.
    """
    names = ("tokens", "segments", "token_types")
    parts = {name: split_rows(batch[name], count) for name in names}

    @jax.checkpoint
    def vectors(part: tuple[Array, Batch]) -> Array:
        index, rows = part
        return logits_of(classifier, params, rows, jax.random.fold_in(dropout_key, index))

    found = jnp.swapaxes(jax.lax.map(vectors, (jnp.arange(count), parts)), 0, 1)
    return constrain(found.reshape(-1, *found.shape[2:]), "batch", None, None)


def keep_better(best: Any, params: Any, better: Array) -> Any:
    """The best params of every member: the new params for members that improved, else the old best params.

    Args:
      best: the best params so far; each leaf has a leading axis M.
      params: the new params, like `best`.
      better: whether each member improved, bool [M].
    """

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, best, params)

"""The z-loss: its value, its gradient, and that the reported loss is without it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.models import lean_gradients
from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.objective import Prepared, cross_entropy_sums, minimised, prediction_metrics

B, K, D, V = 2, 5, 4, 7
WEIGHT = 0.1
MODEL = SimpleNamespace(
    predict=lambda params, hidden: (hidden @ params).astype(jnp.float32),
    encode=lambda params, inputs, *_, **__: jax.nn.one_hot(inputs, D) * 2 - 0.5,
)
"""A network whose params are the matrix [D, V] of its logits."""


def drawn():
    random = np.random.default_rng(0)
    params, hidden = (random.normal(size=shape).astype(np.float32) for shape in ((D, V), (B, K, D)))
    targets = random.integers(0, V, (B, K), dtype=np.int32)
    weights = (random.random((B, K)) < 0.7).astype(np.float32)
    return params, hidden, targets, weights


def reference(params, hidden, targets, weights):
    """Cross-entropy and WEIGHT times the squared logarithm of Z, summed."""
    logits = hidden @ params
    log_z = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum((log_z - right) * weights), WEIGHT * jnp.sum(log_z**2 * weights)


@pytest.mark.parametrize("lean", [False, True])
def test_value_and_gradient_are_those_of_the_definition(lean, monkeypatch):
    monkeypatch.setattr(lean_gradients, "are_used", lambda dtype: lean)
    params, hidden, targets, weights = drawn()

    def ours(params, hidden):
        sums = cross_entropy_sums(MODEL, params, hidden, targets, weights, z_loss=WEIGHT)
        return minimised(sums), sums

    def theirs(params, hidden):
        return sum(reference(params, hidden, targets, weights))

    gradients, sums = jax.grad(ours, argnums=(0, 1), has_aux=True)(params, hidden)
    loss, z_loss = reference(params, hidden, targets, weights)
    np.testing.assert_allclose([sums["loss_sum"], sums["z_loss_sum"]], [loss, z_loss], rtol=1e-5)
    for found, expected in zip(gradients, jax.grad(theirs, argnums=(0, 1))(params, hidden), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert z_loss > 0.1


def test_the_loss_in_reports_is_without_it():
    params, hidden, targets, weights = drawn()
    without = cross_entropy_sums(MODEL, params, hidden, targets, weights)
    sums = cross_entropy_sums(MODEL, params, hidden, targets, weights, z_loss=WEIGHT)
    assert set(sums) == {*without, "z_loss_sum"} and minimised(without) is without["loss_sum"]
    metrics = prediction_metrics({name: float(value) for name, value in sums.items()})
    before = prediction_metrics({name: float(value) for name, value in without.items()})
    assert metrics == before | {"z_loss": pytest.approx(float(sums["z_loss_sum"]) / weights.sum())}


@pytest.mark.parametrize("at_once", [None, 2])
def test_both_objectives_have_it(at_once):
    params, _, targets, weights = drawn()
    inputs = np.arange(B * K, dtype=np.int32).reshape(B, K) % D
    everywhere = np.broadcast_to(np.arange(K, dtype=np.int32), (B, K))
    hidden = MODEL.encode(params, inputs)
    expected = reference(params, hidden, targets, weights)
    masked = MaskedLM(MaskingTables(0.8, 0.1, 4, (0, 1), V), 0.15, z_loss=WEIGHT)
    causal = CausalLM(separator=2, at_once=at_once, z_loss=WEIGHT)
    for objective, predicted in ((masked, everywhere), (causal, None)):
        prepared = Prepared(inputs, inputs * 0 + 1, everywhere, predicted, targets, weights)
        sums = objective.loss(MODEL, params, prepared, None)
        found = float(sums["loss_sum"]), float(sums["z_loss_sum"])
        np.testing.assert_allclose(found, [float(each) for each in expected], rtol=1e-5)

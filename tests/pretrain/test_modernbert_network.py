"""ModernBERT's forms for TPUs and CPUs compute what its usual ones do: the rotation, the parts of a combined map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh
from pretrain.models import lean_gradients
from pretrain.models.families.rotary import rotate
from pretrain.models.layers import Linear


def _both_forms(monkeypatch: pytest.MonkeyPatch, function, *arrays):
    """Values and gradients in the usual form, and in that of a TPU, in float32."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(function, *arrays).shape))
    run = jax.value_and_grad(
        lambda *given: jnp.sum(function(*given) * weights), argnums=tuple(range(len(arrays)))
    )
    usual = run(*arrays)
    monkeypatch.setattr(lean_gradients, "are_used", lambda dtype: True)
    return jax.tree.leaves(usual), jax.tree.leaves(run(*arrays))


def test_heads_are_rotated_by_a_product(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    heads = jnp.asarray(rng.normal(size=(2, 5, 3, 8)), jnp.float32)
    angles = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
    usual, ours = _both_forms(monkeypatch, lambda heads: rotate(heads, angles), heads)
    for mine, reference in zip(ours, usual, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_heads_are_rotated_by_their_halves_in_reverse_order_on_a_cpu(dtype: str, rounding: float):
    rng = np.random.default_rng(0)
    heads = jnp.asarray(rng.normal(size=(2, 5, 3, 8)), dtype)
    angles = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)

    def gradient(heads):
        return jax.grad(lambda heads: jnp.sum(jnp.sin(rotate(heads, angles).astype(jnp.float32))))(heads)

    usual, slope = rotate(heads, angles), gradient(heads)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices("cpu")[:1])):
        program = jax.jit(gradient).lower(heads).as_text()
        ours, own_slope = jax.jit(lambda heads: rotate(heads, angles))(heads), jax.jit(gradient)(heads)
    assert "reverse" in program
    assert ours.dtype == own_slope.dtype == dtype
    for mine, reference in ((ours, usual), (own_slope, slope)):
        mine, reference = (array.astype(jnp.float32) for array in (mine, reference))
        np.testing.assert_allclose(mine, reference, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("bias", [False, True])
def test_the_parts_of_a_map_are_products_of_their_own(monkeypatch: pytest.MonkeyPatch, bias: bool):
    axes = ("embed", "matrices", "heads", None)
    linear = Linear(nnx.Rngs(0), {"D": 6}, {"P": 3, "N": 2, "H": 4}, axes, 1.0, bias=bias)
    graph, state = nnx.split(linear)
    params = nnx.to_pure_dict(jax.tree.map(lambda x: x + 0.5, state))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)

    def stacked(x, params):
        return jnp.stack(nnx.merge(graph, params).parts(x))

    usual, ours = _both_forms(monkeypatch, stacked, x, params)
    assert len(usual) == 3 + bias
    for mine, reference in zip(ours, usual, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-5)

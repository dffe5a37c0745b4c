"""AdamW against PyTorch, other optimisers by hand, and the axes of every optimiser's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pretrain.optim.config import OPTIMIZERS, OptimizerConfig
from pretrain.optim.optimizers import make_optimizer, opt_state_axes

MASK = {"layers": {"kernel": True, "bias": False}, "table": True}
AXES = {
    "layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")},
    "table": ("vocab", "embed"),
}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"layers": {"kernel": (2, 4, 6), "bias": (2, 6)}, "table": (5, 4)}
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def constant(value):
    return lambda count: value


def step_of(optimizer):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def first_update(optimizer, grads, params):
    """The updates of the first step, and the state after it."""
    return jax.jit(lambda grads, params: optimizer.update(grads, optimizer.init(params), params))(
        grads, params
    )


@pytest.mark.parametrize("clip_norm", [0.0, 1.5])
def test_adamw_follows_pytorch(clip_norm):
    config = OptimizerConfig(
        name="adamw", weight_decay=0.1, beta1=0.9, beta2=0.98, eps=1e-6, clip_norm=clip_norm
    )
    rates = [0.0, 0.01, 0.02, 0.015, 0.01]
    optimizer = make_optimizer(config, lambda count: jnp.asarray(rates)[count], MASK, AXES)
    params = draw(0)
    theirs = jax.tree.map(lambda p: torch.nn.Parameter(torch.tensor(p)), params)
    leaves, decayed = jax.tree.leaves(theirs), jax.tree.leaves(MASK)
    torch_optimizer = torch.optim.AdamW(
        [
            {"params": [p for p, d in zip(leaves, decayed) if d], "weight_decay": 0.1},
            {"params": [p for p, d in zip(leaves, decayed) if not d], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    state, step = jax.jit(optimizer.init)(params), step_of(optimizer)
    for index, rate in enumerate(rates):
        grads = draw(index + 1)
        params, state = step(params, state, grads)
        for leaf, grad in zip(leaves, jax.tree.leaves(grads)):
            leaf.grad = torch.tensor(grad)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        for group in torch_optimizer.param_groups:
            group["lr"] = rate
        torch_optimizer.step()
    for ours, other in zip(jax.tree.leaves(params), leaves):
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_stable_adamw_takes_smaller_steps_where_a_gradient_is_large_beside_its_second_moment():
    config = OptimizerConfig(name="stable_adamw", weight_decay=0.1, beta1=0.9, beta2=0.98, eps=1e-6)
    optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
    params = draw(0)
    state, step = jax.jit(optimizer.init)(params), step_of(optimizer)
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    first, second = (jax.tree.map(lambda leaf: np.zeros(leaf.shape), params) for _ in range(2))
    clipped = []
    for number, sizes in enumerate(
        [(1, 1), (1, 10), (0.3, 1)], start=1
    ):  # of the gradients of the two layers
        grads = draw(number)
        for name, leaf in grads["layers"].items():
            grads["layers"][name] = (leaf.T * np.float32(sizes)).T
        params, state = step(params, state, grads)

        def update(param, m, v, grad, decays, number=number):
            grad = grad.astype(np.float64)
            m[...], v[...] = 0.9 * m + 0.1 * grad, 0.98 * v + 0.02 * grad**2
            corrected = v / (1 - 0.98**number)
            rms = np.sqrt(np.mean(grad**2 / np.maximum(corrected, 1e-12)))
            clipped.append(rms > 1)
            direction = m / (1 - 0.9**number) / (np.sqrt(corrected) + 1e-6) + 0.1 * decays * param
            param -= 0.01 / max(1.0, rms) * direction

        for name in ("kernel", "bias"):
            for layer in range(2):
                parts = (tree["layers"][name][layer] for tree in (expected, first, second, grads))
                update(*parts, MASK["layers"][name])
        update(*(tree["table"] for tree in (expected, first, second, grads)), True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)
    assert any(clipped) and not all(clipped)


@pytest.mark.parametrize("name", ["adamw", "stable_adamw", "lamb", "muon", "normuon"])
def test_first_moments_alone_are_stored_in_the_type_asked_for(name):
    found = {}
    for dtype in ("float32", "bfloat16"):
        config = OptimizerConfig(name=name, moment_dtype=dtype)
        optimizer, params = make_optimizer(config, constant(0.01), MASK, AXES), draw(0)
        state, step = jax.jit(optimizer.init)(params), step_of(optimizer)
        for seed in (1, 2, 3):
            params, state = step(params, state, draw(seed))
        leaves = jax.tree_util.tree_flatten_with_path(state)[0]
        assert {str(leaf.dtype) for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path)} == {dtype}
        others = {str(leaf.dtype) for path, leaf in leaves if ".mu" not in jax.tree_util.keystr(path)}
        assert others == {"float32", "int32"}
        found[dtype] = params
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), found["float32"], found["bfloat16"])
    assert 0 < max(jax.tree.leaves(moved)) < 2e-3  # each update is of about 0.01 or less


def test_lamb_scales_each_layer_by_its_own_norms():
    config = OptimizerConfig(name="lamb", weight_decay=0.1, eps=1e-6)
    optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
    params, grads = draw(0), draw(1)
    updates, _ = first_update(optimizer, grads, params)

    # On the first step Adam's direction is the gradient's sign (up to eps).
    def expected(param, grad):
        direction = grad / (np.abs(grad) + 1e-6) + 0.1 * param
        return -0.01 * direction * np.linalg.norm(param) / np.linalg.norm(direction)

    kernel, kernel_grad = params["layers"]["kernel"], grads["layers"]["kernel"]
    for layer in range(2):
        np.testing.assert_allclose(
            updates["layers"]["kernel"][layer], expected(kernel[layer], kernel_grad[layer]), rtol=2e-5
        )
    np.testing.assert_allclose(updates["table"], expected(params["table"], grads["table"]), rtol=2e-5)
    bias_grad = grads["layers"]["bias"]
    np.testing.assert_allclose(
        updates["layers"]["bias"], -0.01 * bias_grad / (np.abs(bias_grad) + 1e-6), rtol=2e-5
    )


def test_lamb_without_stacked_layers_is_optax_lamb():
    config = OptimizerConfig(name="lamb", weight_decay=0.1)
    everything = jax.tree.map(lambda _: True, MASK)
    ours = make_optimizer(config, constant(0.01), everything)
    theirs = optax.lamb(0.01, b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=0.1)
    params, grads = draw(0), draw(1)
    ours_updates, _ = first_update(ours, grads, params)
    theirs_updates, _ = first_update(theirs, grads, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours_updates, theirs_updates)


def test_adafactor_first_step():
    config = OptimizerConfig(name="adafactor", weight_decay=0.1)
    optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
    params, grads = draw(0), draw(1)
    updates, _ = first_update(optimizer, grads, params)
    # Small matrices are not factored: the first direction is the gradient's sign, of rms 1.
    kernel, sign = params["layers"]["kernel"], np.sign(grads["layers"]["kernel"])
    for layer in range(2):
        scale = np.sqrt(np.mean(kernel[layer] ** 2))
        expected = -0.01 * (scale * sign[layer] + 0.1 * kernel[layer])
        np.testing.assert_allclose(updates["layers"]["kernel"][layer], expected, rtol=2e-5)
    zero_bias = {
        "layers": {**params["layers"], "bias": np.zeros((2, 6), np.float32)},
        "table": params["table"],
    }
    updates, _ = first_update(optimizer, grads, zero_bias)
    np.testing.assert_allclose(
        updates["layers"]["bias"], -0.01 * 1e-3 * np.sign(grads["layers"]["bias"]), rtol=2e-5
    )


def test_adafactor_factors_large_matrices():
    optimizer = make_optimizer(
        OptimizerConfig(name="adafactor", weight_decay=0.0), constant(0.01), {"w": True}
    )
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(128, 256)).astype(np.float32)}
    grads = {"w": rng.normal(size=(128, 256)).astype(np.float32)}
    updates, _ = first_update(optimizer, grads, params)
    squared = grads["w"].astype(np.float64) ** 2
    rows, columns = squared.mean(1, keepdims=True), squared.mean(0, keepdims=True)
    direction = grads["w"] / np.sqrt(rows * columns / rows.mean())
    direction /= max(1.0, np.sqrt(np.mean(direction**2)))
    np.testing.assert_allclose(
        updates["w"], -0.01 * np.sqrt(np.mean(params["w"] ** 2)) * direction, rtol=1e-4
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_a_quadratic(name):
    config = OptimizerConfig(name=name, weight_decay=0.0, clip_norm=1.0)
    optimizer = make_optimizer(config, constant(0.05), MASK, AXES)
    target, params = draw(7), draw(8)

    def loss(params):
        return sum(np.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target)))

    state, step, start = jax.jit(optimizer.init)(params), step_of(optimizer), loss(params)
    for _ in range(100):
        gradient = jax.tree.map(lambda p, t: 2 * (np.asarray(p) - t), params, target)
        params, state = step(params, state, gradient)
    assert loss(jax.device_get(params)) < 0.2 * start


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_acts_only_where_the_mask_says(name):
    config = OptimizerConfig(name=name, weight_decay=0.1)
    optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
    params = draw(0)
    grads = jax.tree.map(np.zeros_like, params)
    updates, _ = first_update(optimizer, grads, params)
    np.testing.assert_array_equal(updates["layers"]["bias"], 0.0)
    shrink = 1.0 if name == "lamb" else 0.1  # LAMB rescales an update of 0.1 p to the norm of p
    np.testing.assert_allclose(updates["table"], -0.01 * shrink * params["table"], rtol=1e-5)
    np.testing.assert_allclose(
        updates["layers"]["kernel"], -0.01 * shrink * params["layers"]["kernel"], rtol=1e-5
    )


def test_clipping_comes_before_the_moments():
    optimizer = make_optimizer(
        OptimizerConfig(name="adamw", beta1=0.9, clip_norm=0.5), constant(0.1), MASK, AXES
    )
    params, grads = draw(0), draw(1)
    _, state = first_update(optimizer, grads, params)
    (mu,) = [s.mu for s in state if isinstance(s, optax.ScaleByAdamState)]
    assert float(optax.tree.norm(mu)) == pytest.approx(0.1 * 0.5, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_states_tree_is_the_same_with_clipping_and_without(name):
    def tree(clip_norm):
        optimizer = make_optimizer(OptimizerConfig(name=name, clip_norm=clip_norm), constant(0.1), MASK, AXES)
        shapes = jax.eval_shape(optimizer.init, draw(0))
        return shapes, opt_state_axes(optimizer, draw(0), AXES)

    assert tree(0.0) == tree(1.0)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_moments_have_their_parameters_axes(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, clip_norm=1.0), constant(0.1), MASK, AXES)
    params = draw(0)
    axes = opt_state_axes(optimizer, params, AXES)
    state = jax.eval_shape(optimizer.init, params)
    (adam,) = [s for s in axes if isinstance(s, optax.ScaleByAdamState)]
    assert adam.mu == AXES and adam.nu == AXES and adam.count == ()
    ranks = jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, state, axes)
    assert all(jax.tree.leaves(ranks))


def test_factored_moments_have_the_axes_that_are_left():
    axes = {
        "kernel": ("layers", "embed", "mlp"),
        "square": ("embed", "heads"),
        "stacked_square": ("layers", "embed", "heads"),
        "bias": ("mlp",),
    }
    shapes = {"kernel": (2, 128, 256), "square": (128, 128), "stacked_square": (2, 128, 128), "bias": (256,)}
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    mask = jax.tree.map(lambda _: True, params)
    optimizer = make_optimizer(OptimizerConfig(name="adafactor"), constant(0.1), mask, axes)
    (factored,) = [s for s in opt_state_axes(optimizer, params, axes) if isinstance(s, optax.FactoredState)]
    assert factored.v_row["kernel"] == ("layers", "embed")
    assert factored.v_col["kernel"] == ("layers", "mlp")
    assert factored.v["kernel"] == (None,)
    assert factored.v_row["square"] == (None,)
    assert factored.v_row["stacked_square"] == ("layers", None)
    assert factored.v["bias"] == ("mlp",)
    assert factored.v_row["bias"] == (None,)

"""NorMuon against its paper's algorithm in numpy, its state, and the weight decay of matrices."""

import jax
import numpy as np
import pytest

from pretrain.optim.config import OptimizerConfig
from pretrain.optim.optimizers import make_optimizer, opt_state_axes
from tests.pretrain.test_muon import orthogonalized
from tests.pretrain.test_optimizers import AXES, MASK, constant, draw, first_update

SHAPES = {
    "up": ((2, 8, 12), ("layers", "embed", "mlp")),
    "down": ((2, 12, 8), ("layers", "mlp", "embed")),
    "query": ((2, 8, 2, 3), ("layers", "embed", "heads", None)),
    "output": ((2, 2, 3, 8), ("layers", "heads", None, "embed")),
    "fused": ((2, 8, 3, 2, 3), ("layers", "embed", "matrices", "heads", None)),
}
"""Kernels, the input side before the output side."""


def matrices(name: str, array: np.ndarray) -> list[np.ndarray]:
    """The matrices [input, output] of a kernel, as views."""
    inputs = {"output": 6, "down": 12}.get(name, 8)
    parts = [array[:, :, index] for index in range(3)] if name == "fused" else [array]
    return [part[layer].reshape(inputs, -1) for part in parts for layer in range(2)]


def normuon(gradients: list[np.ndarray], beta: float, beta2: float) -> np.ndarray:
    """The last update of Li et al. 2025, algorithm 1, for a learning rate of 1 without decay, in float64.

    The momentum that is made orthogonal is Nesterov's, as in the authors' code, with the corrections of Muon in optax.
    """
    momentum, second = np.zeros(gradients[0].shape), np.zeros(gradients[0].shape[1])
    for number, gradient in enumerate(gradients, start=1):
        momentum = beta * momentum + (1 - beta) * gradient
        ahead = beta * momentum / (1 - beta ** (number + 1)) + (1 - beta) * gradient / (1 - beta**number)
        update = orthogonalized(ahead)
        second = beta2 * second + (1 - beta2) * np.mean(update**2, axis=0)
        even = update / (np.sqrt(second) + 1e-8)
    return -0.2 * np.sqrt(even.size) / np.linalg.norm(even) * even


def test_normuon_is_the_algorithm_of_its_paper():
    axes = {name: axes for name, (_, axes) in SHAPES.items()}
    config = OptimizerConfig(name="normuon", weight_decay=0.0, muon_momentum=0.9, normuon_beta2=0.8)
    optimizer = make_optimizer(config, constant(1.0), dict.fromkeys(axes, True), axes)
    random = np.random.default_rng(0)
    # Neurons of unequal sizes, which change from step to step.
    gradients = [
        {
            name: (random.normal(size=shape) * np.exp(random.normal(size=shape[-1:]))).astype(np.float32)
            for name, (shape, _) in SHAPES.items()
        }
        for _ in range(3)
    ]
    state, update = jax.jit(optimizer.init)(gradients[0]), jax.jit(optimizer.update)
    for each in gradients:
        updates, state = update(each, state, each)
    for name in SHAPES:
        found = matrices(name, np.asarray(updates[name]))
        steps = [matrices(name, each[name]) for each in gradients]
        for index, matrix in enumerate(found):
            expected = normuon([step[index].astype(np.float64) for step in steps], 0.9, 0.8)
            np.testing.assert_allclose(matrix, expected, rtol=2e-3, atol=2e-4, err_msg=f"{name} {index}")
            assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2, rel=1e-5)


def test_normuons_second_moment_has_the_axes_of_the_output_side():
    axes = {name: axes for name, (_, axes) in SHAPES.items()}
    params = {name: np.zeros(shape, np.float32) for name, (shape, _) in SHAPES.items()}
    optimizer = make_optimizer(
        OptimizerConfig(name="normuon", clip_norm=1.0), constant(0.1), dict.fromkeys(axes, True), axes
    )
    found = opt_state_axes(optimizer, params, axes)
    state = jax.eval_shape(optimizer.init, params)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, state, found)))
    muon, by_neuron = found[0].inner_states["muon"].inner_state
    assert muon.mu == axes
    assert by_neuron.nu == {
        "up": ("layers", None, "mlp"),
        "down": ("layers", None, "embed"),
        "query": ("layers", None, "heads", None),
        "output": ("layers", None, None, "embed"),
        "fused": ("layers", None, "matrices", "heads", None),
    }
    shapes = state[0].inner_states["muon"].inner_state[1].nu
    assert {name: leaf.shape for name, leaf in shapes.items()} == {
        "up": (2, 1, 12),
        "down": (2, 1, 8),
        "query": (2, 1, 2, 3),
        "output": (2, 1, 1, 8),
        "fused": (2, 1, 3, 2, 3),
    }


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_the_matrices_of_the_layers_have_a_decay_of_their_own(name):
    params, trees = draw(0), []
    grads = jax.tree.map(np.zeros_like, params)
    for own, expected in ((None, 0.1), (0.02, 0.02), (0.0, 0.0)):
        config = OptimizerConfig(name=name, weight_decay=0.1, matrix_weight_decay=own)
        optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
        updates, state = first_update(optimizer, grads, params)
        trees.append(jax.tree.structure(state))
        kernel = params["layers"]["kernel"]
        np.testing.assert_allclose(updates["layers"]["kernel"], -0.01 * expected * kernel, rtol=1e-5)
        np.testing.assert_allclose(updates["table"], -0.01 * 0.1 * params["table"], rtol=1e-5)
        np.testing.assert_array_equal(updates["layers"]["bias"], 0.0)
    assert trees[0] == trees[1] == trees[2]


def test_the_products_have_the_compute_type_unless_another_is_set():
    settled = {
        given: OptimizerConfig(orthogonal_dtype=given).settled("bfloat16") for given in ("auto", "float32")
    }
    assert {given: each.orthogonal_dtype for given, each in settled.items()} == {
        "auto": "bfloat16",
        "float32": "float32",
    }


@pytest.mark.parametrize(("steps", "rounding"), [("minimax", 0.07), ("newton_schulz", 0.05)])
def test_products_of_bfloat16_make_updates_as_orthogonal(steps, rounding):
    rng = np.random.default_rng(0)
    axes = {
        "query": ("layers", "embed", "heads", None),
        "output": ("layers", "heads", None, "embed"),
        "fused": ("layers", "embed", "matrices", "mlp"),
    }
    shapes = {"query": (2, 32, 4, 8), "output": (2, 4, 8, 32), "fused": (2, 32, 2, 48)}
    grads = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    updates, trees = {}, {}
    for dtype in ("float32", "bfloat16"):
        config = OptimizerConfig(
            name="muon", weight_decay=0.0, orthogonal_dtype=dtype, orthogonal_steps=steps
        )
        optimizer = make_optimizer(config, constant(1.0), dict.fromkeys(axes, True), axes)
        updates[dtype], state = first_update(optimizer, grads, grads)
        trees[dtype] = jax.tree.structure(state)
    assert trees["float32"] == trees["bfloat16"]
    for name in shapes:
        exact, rounded = (np.asarray(updates[dtype][name], np.float64) for dtype in updates)
        assert rounded.shape == exact.shape
        assert 0 < np.linalg.norm(rounded - exact) < rounding * np.linalg.norm(exact), name

"""Muon: updates nearly orthogonal, which arrays have them, and the axes of its state."""

import jax
import numpy as np
import pytest

from base import schema
from pretrain.optim.config import OptimizerConfig
from pretrain.optim.muon import MINIMAX
from pretrain.optim.optimizers import make_optimizer, opt_state_axes
from tests.pretrain.test_optimizers import AXES, MASK, constant, draw, first_update


def orthogonalized(matrix, steps="minimax"):
    """A matrix with its singular values as the polynomials leave them, in float64, by its decomposition."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    values /= np.linalg.norm(values) if steps == "newton_schulz" else 1.02 * np.sum(values**4) ** 0.25
    jordan = [(3.4445, -4.7750, 2.0315)] * 5  # Jordan et al. 2024
    for first, third, fifth in jordan if steps == "newton_schulz" else MINIMAX:
        values = first * values + third * values**3 + fifth * values**5
    return left * values @ right


@pytest.mark.parametrize("steps", ["minimax", "newton_schulz"])
def test_muon_makes_each_layers_update_orthogonal_at_adamws_scale(steps):
    config = OptimizerConfig(name="muon", weight_decay=0.0, orthogonal_steps=steps)
    optimizer = make_optimizer(config, constant(0.01), MASK, AXES)
    params, grads = draw(0), draw(1)
    updates, _ = first_update(optimizer, grads, params)
    for layer in range(2):
        expected = -0.01 * 0.2 * np.sqrt(6) * orthogonalized(grads["layers"]["kernel"][layer], steps)
        np.testing.assert_allclose(updates["layers"]["kernel"][layer], expected, rtol=1e-3, atol=1e-6)


def first_muon_update(matrix, dtype, steps="minimax"):
    """The first update of one matrix [rows, columns] at a learning rate of -1, over its scale."""
    config = OptimizerConfig(name="muon", weight_decay=0.0, orthogonal_dtype=dtype, orthogonal_steps=steps)
    optimizer = make_optimizer(config, constant(-1.0), {"w": True}, {"w": ("layers", "embed", "mlp")})
    grads = {"w": np.asarray(matrix[None], np.float32)}
    updates, _ = first_update(optimizer, grads, grads)
    return np.asarray(updates["w"][0], np.float64) / (0.2 * np.sqrt(max(matrix.shape)))


def test_the_steps_of_minimax_leave_singular_values_near_1():
    values = np.geomspace(0.002, 1, 20_000)
    for first, third, fifth in MINIMAX:
        values = first * values + third * values**3 + fifth * values**5
    assert (values.min(), values.max()) == pytest.approx((0.6593, 1.3408), abs=1e-3)


def drawn(spectrum, rows, columns, seed=0):
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(size, len(spectrum))))[0] for size in (rows, columns))
    return left * spectrum @ right.T


SPECTRA = {
    "equal": np.ones(96),
    "falling": 1 / np.arange(1, 97),
    "four large": np.r_[np.ones(4), np.full(92, 0.01)],
    "one": np.r_[1, np.full(95, 0.003)],
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPECTRA)
def test_updates_of_muon_have_singular_values_near_1(name, dtype):
    matrix = drawn(SPECTRA[name], 96, 160)
    for size in (1e-3, 1.0, 1e4):
        update = first_muon_update(size * matrix, dtype)
        found = np.linalg.svd(update, compute_uv=False)
        assert found.min() > 0.6 and found.max() < 1.4, (size, found)


@pytest.mark.parametrize("name", SPECTRA)
def test_minimax_is_as_orthogonal_as_the_five_steps(name):
    matrix = drawn(SPECTRA[name], 96, 160)
    found = {steps: first_muon_update(matrix, "bfloat16", steps) for steps in ("minimax", "newton_schulz")}
    assert np.linalg.norm(found["minimax"]) > 0.8 * np.linalg.norm(found["newton_schulz"])
    for update in found.values():
        values = np.linalg.svd(update, compute_uv=False)
        assert values.max() / np.sqrt(np.mean(values**2)) < 1.5


@pytest.mark.parametrize("steps", ["minimax", "newton_schulz"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_matrix_without_a_gradient_has_no_update_by_muon(dtype, steps):
    np.testing.assert_array_equal(first_muon_update(np.zeros((24, 24)), dtype, steps), 0.0)
    # Beside optax's epsilon of 1e-8 it is nothing, and stays so.
    tiny = first_muon_update(1e-14 * np.eye(24), dtype, steps)
    assert np.linalg.norm(tiny, 2) < 0.01


def test_the_steps_do_not_change_the_tree_of_the_state():
    params, trees = {"w": np.zeros((2, 4, 6), np.float32)}, set()
    for steps in ("minimax", "newton_schulz"):
        for dtype in ("float32", "bfloat16"):
            config = OptimizerConfig(name="muon", orthogonal_dtype=dtype, orthogonal_steps=steps)
            optimizer = make_optimizer(config, constant(1.0), {"w": True}, {"w": ("layers", "embed", "mlp")})
            trees.add(jax.tree.structure(jax.eval_shape(optimizer.init, params)))
    assert len(trees) == 1


@pytest.mark.parametrize("name", ["muon", "normuon"])
def test_heads_apart_do_not_change_the_arrays_of_the_state(name):
    axes = {
        "fused": ("layers", "embed", "matrices", "heads", None),
        "output": ("layers", "heads", None, "embed"),
    }
    params = {
        "fused": np.zeros((2, 8, 3, 2, 4), np.float32),
        "output": np.zeros((2, 2, 4, 8), np.float32),
    }
    whole, apart = (
        jax.eval_shape(
            make_optimizer(
                OptimizerConfig(name=name, orthogonal_per_head=per_head),
                constant(1.0),
                dict.fromkeys(params, True),
                axes,
            ).init,
            params,
        )
        for per_head in (False, True)
    )
    assert jax.tree.structure(whole) == jax.tree.structure(apart)
    assert jax.tree.leaves(whole) == jax.tree.leaves(apart)


def test_a_run_from_before_the_field_keeps_the_five_steps():
    saved = schema.as_dict(OptimizerConfig())
    del saved["orthogonal_steps"]
    assert schema.completed(saved, OptimizerConfig)["orthogonal_steps"] == "newton_schulz"


def test_muon_takes_heads_as_one_side_of_a_matrix():
    axes = {"query": ("layers", "embed", "heads", None), "output": ("layers", "heads", None, "embed")}
    rng = np.random.default_rng(0)
    grads = {
        "query": rng.normal(size=(2, 8, 2, 3)).astype(np.float32),
        "output": rng.normal(size=(2, 2, 3, 8)).astype(np.float32),
    }
    mask = {"query": True, "output": True}
    optimizer = make_optimizer(OptimizerConfig(name="muon", weight_decay=0.0), constant(1.0), mask, axes)
    updates, _ = first_update(optimizer, grads, grads)
    scale = -0.2 * np.sqrt(8)
    for layer in range(2):
        for name, shape in (("query", (8, 6)), ("output", (6, 8))):
            expected = scale * orthogonalized(grads[name][layer].reshape(shape))
            found = np.asarray(updates[name][layer]).reshape(shape)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "steps"), [("muon", "minimax"), ("muon", "newton_schulz"), ("normuon", "minimax")]
)
def test_muon_takes_each_head_as_a_matrix_if_it_is_asked(name, steps):
    axes = {
        "query": ("layers", "embed", "heads", None),
        "fused": ("layers", "embed", "matrices", "heads", None),
        "output": ("layers", "heads", None, "embed"),
    }
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 8, 2, 3), "fused": (2, 8, 3, 2, 3), "output": (2, 2, 3, 8)}
    grads = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}

    def updates(per_head, grads, axes):
        config = OptimizerConfig(
            name=name, weight_decay=0.0, orthogonal_steps=steps, orthogonal_per_head=per_head
        )
        optimizer = make_optimizer(config, constant(1.0), dict.fromkeys(grads, True), axes)
        return jax.device_get(first_update(optimizer, grads, grads)[0])

    whole, apart = updates(False, grads, axes), updates(True, grads, axes)
    for head in range(2):
        alone = {key: grads[key][..., head : head + 1, :] for key in ("query", "fused")}
        own = updates(False, alone, {key: axes[key] for key in alone})
        for key, update in own.items():
            np.testing.assert_allclose(apart[key][..., head : head + 1, :], update, rtol=0, atol=1e-5)
    assert np.abs(apart["query"] - whole["query"]).max() > 0.05, "a head is not all heads"
    np.testing.assert_array_equal(apart["output"], whole["output"])


def test_muon_takes_each_matrix_of_a_fused_map_as_one_of_its_own():
    rng = np.random.default_rng(0)
    fused = rng.normal(size=(2, 8, 3, 2, 3)).astype(
        np.float32
    )  # layers, width, query key value, heads, head width
    apart = {name: fused[:, :, index] for index, name in enumerate(("query", "key", "value"))}
    own_axes = ("layers", "embed", "heads", None)
    found = []
    for grads, axes in (
        ({"fused": fused}, {"fused": ("layers", "embed", "matrices", "heads", None)}),
        (apart, dict.fromkeys(apart, own_axes)),
    ):
        optimizer = make_optimizer(
            OptimizerConfig(name="muon", weight_decay=0.0), constant(1.0), dict.fromkeys(grads, True), axes
        )
        state, update = jax.jit(optimizer.init)(grads), jax.jit(optimizer.update)
        for scale in (1.0, -0.3):  # the moments of both steps count
            updates, state = update({k: np.float32(scale) * g for k, g in grads.items()}, state, grads)
        found.append(updates)
    together = np.asarray(found[0]["fused"])
    np.testing.assert_allclose(
        together, np.stack([found[1][name] for name in apart], axis=2), rtol=0, atol=1e-5
    )
    one = make_optimizer(
        OptimizerConfig(name="muon", weight_decay=0.0),
        constant(1.0), {"w": True}, {"w": ("layers", "embed", None, "heads", None)},
    )  # fmt: skip
    as_one, _ = first_update(one, {"w": fused}, {"w": fused})
    assert np.abs(together - as_one["w"]).max() > 0.1, "three matrices are not one"


def test_muon_leaves_embeddings_biases_and_norms_to_adamw():
    params, grads = draw(0), draw(1)
    found = {}
    for name in ("muon", "adamw"):
        optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.1), constant(0.01), MASK, AXES)
        found[name], _ = first_update(optimizer, grads, params)
    np.testing.assert_array_equal(found["muon"]["table"], found["adamw"]["table"])
    np.testing.assert_array_equal(found["muon"]["layers"]["bias"], found["adamw"]["layers"]["bias"])
    assert np.abs(found["muon"]["layers"]["kernel"] - found["adamw"]["layers"]["kernel"]).max() > 1e-3


def test_muons_moments_have_their_parameters_axes():
    optimizer = make_optimizer(OptimizerConfig(name="muon", clip_norm=1.0), constant(0.1), MASK, AXES)
    params = draw(0)
    axes, state = opt_state_axes(optimizer, params, AXES), jax.eval_shape(optimizer.init, params)
    ranks = jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, state, axes)
    assert all(jax.tree.leaves(ranks))
    inner = axes[0].inner_states
    assert inner["muon"].inner_state[0].mu["layers"]["kernel"] == AXES["layers"]["kernel"]
    assert inner["other"].inner_state.nu["table"] == AXES["table"]

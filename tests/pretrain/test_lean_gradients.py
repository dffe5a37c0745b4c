"""Functions with gradients of their own against the references: values and gradients, and what they save."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from pretrain.models import build, build_encoder, lean_gradients
from pretrain.models.attention import KERNELS, Sight, WeightDropout
from pretrain.models.huggingface import parse_config
from pretrain.models.layers import LayerNorm, Linear, activate, gelu
from pretrain.objective.objective import cross_entropy_sums

B, S, N, H = 2, 11, 3, 8
SEGMENTS = jnp.asarray([[1, 1, 1, 1, 2, 2, 3, 3, 3, 0, 0], [1] * S], jnp.int32)


def _arrays(*shape: int, count: int = 1, dtype: str = "float32") -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(count)]


def _near(mine, reference, tolerance: float):
    """Equal to `tolerance` of the reference's largest element, in each array of two trees."""

    def compare(one, other):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())

    jax.tree.map(compare, mine, reference)


def _values_and_gradients(function, *arrays):
    """What it gives, and the gradients of a weighted sum of that."""
    value = function(*arrays)
    weights = _arrays(*value.shape)[0]
    gradients = jax.grad(
        lambda *given: jnp.sum(function(*given).astype(jnp.float32) * weights),
        argnums=tuple(range(len(arrays))),
    )(*arrays)
    assert [leaf.dtype for leaf in jax.tree.leaves(gradients)] == [
        leaf.dtype for leaf in jax.tree.leaves(arrays)
    ]
    return value, gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.02)])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(dtype: str, tolerance: float, bias: bool):
    graph = nnx.split(LayerNorm(24, 1e-5, bias=bias))[0]
    (x,), (scale, shift) = _arrays(B, S, 24, dtype=dtype), _arrays(24, count=2)

    def reference(x, scale, *shift):
        return nnx.merge(graph, {"scale": scale, "bias": shift[0]} if bias else {"scale": scale})(x)

    def lean(x, scale, *shift):
        return lean_gradients.layer_norm(x, scale, shift[0] if bias else None, 1e-5)

    params = (x, scale, shift) if bias else (x, scale)
    _near(_values_and_gradients(lean, *params), _values_and_gradients(reference, *params), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.005)])
@pytest.mark.parametrize("unrolled", [True, False])
def test_gelu(dtype: str, tolerance: float, unrolled: bool):
    x = jnp.linspace(-9, 9, 4001, dtype=dtype)
    lean = functools.partial(lean_gradients.gelu, unrolled=unrolled)
    _near(_values_and_gradients(lean, x), _values_and_gradients(gelu, x), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.03)])
@pytest.mark.parametrize(
    ("queries", "options"),
    [(S, {}), (S, {"unrolled": True}), (4, {}), (S, {"causal": True}), (S, {"window": jnp.int32(2)})],
)
def test_attention(dtype: str, tolerance: float, queries: int, options: dict):
    query, key, value = _arrays(B, S, N, H, count=3, dtype=dtype)
    sight = Sight(
        SEGMENTS, options.get("window"), options.get("causal", False), options.get("unrolled", False)
    )
    inside = (SEGMENTS[:, :queries] > 0)[..., None, None]

    def run(name: str):
        def function(query, key, value):
            return KERNELS[name].compute(query, key, value, sight, WeightDropout(0.0, None)) * inside

        return _values_and_gradients(function, query[:, :queries], key, value)

    _near(run("one_pass"), run("xla"), tolerance)


def test_attention_with_dropout_has_the_gradient_of_its_own_values():
    heads, sight = _arrays(1, 5, 2, 4, count=3), Sight(jnp.ones((1, 5), jnp.int32), None, False)
    (weights,) = _arrays(1, 5, 2, 4)

    def total(*heads):
        drop = WeightDropout(0.5, jax.random.key(3))
        return jnp.sum(KERNELS["one_pass"].compute(*heads, sight, drop) * weights)

    assert (
        abs(
            total(*heads) - jnp.sum(KERNELS["xla"].compute(*heads, sight, WeightDropout(0.0, None)) * weights)
        )
        > 0.1
    )
    check_grads(total, heads, order=1, modes=["rev"], atol=0.02, rtol=0.02)


def test_dropout_keeps_the_mean_over_many_keys():
    heads, sight = _arrays(1, 5, 2, 4, count=3), Sight(jnp.ones((1, 5), jnp.int32), None, False)

    @jax.jit
    def dropped(key):
        return KERNELS["one_pass"].compute(*heads, sight, WeightDropout(0.3, key))

    draws = jax.vmap(dropped)(jax.random.split(jax.random.key(0), 4000))
    assert np.std(draws[:, 0, 0, 0, 0]) > 0.05
    error = 5 * np.std(draws, axis=0) / np.sqrt(len(draws)) + 1e-6
    assert (
        np.abs(np.mean(draws, axis=0) - KERNELS["xla"].compute(*heads, sight, WeightDropout(0.0, None)))
        < error
    ).all()


def test_a_score_that_is_too_large_is_clipped_and_gives_finite_gradients():
    heads = [400 * x for x in _arrays(1, 5, 2, 4, count=3)]
    sight = Sight(jnp.ones((1, 5), jnp.int32), None, False)
    _, gradients = _values_and_gradients(
        lambda *heads: KERNELS["one_pass"].compute(*heads, sight, WeightDropout(0.0, None)), *heads
    )
    assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_what_is_saved_has_the_compute_type():
    """Beside one number a row, and the parameters: these are what the backward pass reads."""
    saved: list[jax.ShapeDtypeStruct] = []

    def of(function, *arrays):
        _, backward = jax.eval_shape(lambda *given: jax.vjp(function, *given), *arrays)
        saved.extend(leaf for leaf in jax.tree.leaves(backward) if leaf.size > B * S * N)

    x, scale = _arrays(B, S, 24, dtype="bfloat16")[0], _arrays(24)[0]
    of(lambda x: lean_gradients.layer_norm(x, scale, None, 1e-5), x)
    of(lambda x: lean_gradients.gelu(x, True), x)
    sight = Sight(SEGMENTS, None, False)
    of(
        lambda *heads: KERNELS["one_pass"].compute(*heads, sight, WeightDropout(0.0, None)),
        *_arrays(B, S, N, H, count=3, dtype="bfloat16"),
    )
    assert {leaf.dtype.name for leaf in saved} == {"bfloat16"}


def test_they_are_taken_on_a_tpu_in_a_short_type_alone(monkeypatch: pytest.MonkeyPatch):
    short, wide = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert not lean_gradients.are_used(short)
    monkeypatch.setattr(lean_gradients, "platform", lambda: "tpu")
    assert lean_gradients.are_used(short) and not lean_gradients.are_used(wide)
    x = jnp.linspace(-3, 3, 101)
    assert str(jax.make_jaxpr(lambda x: activate(x, "gelu"))(x.astype(short))).count("custom_vjp") == 1
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: activate(x, "gelu"))(x))
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: activate(x, "relu"))(x.astype(short)))


@pytest.mark.parametrize("apply", [Linear.__call__, Linear.parts])
def test_a_kernel_is_rounded_once(apply, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lean_gradients, "platform", lambda: "tpu")
    linear = Linear(nnx.Rngs(0), {"D": 8}, {"P": 2, "F": 6}, ("embed", "matrices", "mlp"), 0.02)
    program = jax.make_jaxpr(lambda x: apply(linear, x))(jnp.ones((B, S, 8), "bfloat16"))
    assert str(program).count("cast_once") == 1


def test_a_network_that_runs_them_is_the_network_that_does_not(monkeypatch: pytest.MonkeyPatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    values = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 16, **sizes}
    config = dataclasses.replace(parse_config(values, "test"), scan_unroll=0)
    params = build_encoder(config).init(jax.random.key(0))
    positions = jnp.broadcast_to(jnp.arange(S), (B, S))
    tokens = jnp.asarray(np.random.default_rng(0).integers(5, 40, (B, S)), jnp.int32)
    inside = (SEGMENTS > 0)[..., None]

    def run():
        encoder = build_encoder(config)

        def function(params):
            return encoder.encode(params, tokens, SEGMENTS, positions) * inside

        return jax.jit(lambda params: _values_and_gradients(function, params))(params)

    plain = run()
    monkeypatch.setattr(lean_gradients, "are_used", lambda dtype: True)
    for mine, reference in zip(jax.tree.leaves(run()), jax.tree.leaves(plain), strict=True):
        # Not relative alone: the gradient of a key's bias is 0 but for rounding.
        np.testing.assert_allclose(mine, reference, atol=1e-3 * np.abs(reference).max() + 1e-6)


@pytest.mark.parametrize("offset", [0.0, 100.0, -100.0, 1e30])
@pytest.mark.parametrize("largest", [0.0, 90.0, 300.0])
def test_logits_beyond_the_cap_have_a_loss_and_a_gradient_that_mend_them(
    offset: float, largest: float, monkeypatch: pytest.MonkeyPatch
):
    """The target's logit is large, or another's, or those of a whole vocabulary."""
    monkeypatch.setattr(lean_gradients, "platform", lambda: "tpu")
    logits = jnp.full((1, 2, 60_000), offset).at[0, 0, 1].add(largest).at[0, 1, 3].add(largest)
    targets, weights = jnp.asarray([[1, 2]]), jnp.ones((1, 2))

    class Fixed:
        def predict(self, params, hidden):
            return params

    def loss(logits):
        hidden = jnp.zeros((1, 2, 4), jnp.bfloat16)
        return cross_entropy_sums(Fixed(), logits, hidden, targets, weights)["loss_sum"]

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and value >= 0
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() <= 1.001
    assert gradient[0, 1, 2] < -0.4, "the target goes up"
    if largest and offset == 0:
        assert gradient[0, 1, 3] > 0.4, "the wrong one goes down"
        assert abs(gradient[0, 0, 1]) < 1e-3, "the right one stays"


def test_the_loss_without_a_maximum_is_the_loss_with_one(monkeypatch: pytest.MonkeyPatch):
    logits = 5 * jnp.stack(_arrays(B, 3, 20, count=1))[0]
    targets, weights = jnp.asarray([[1, 2, 3], [4, 5, 6]]), jnp.asarray([[1.0, 1, 0], [1, 1, 1]])

    class Fixed:
        def predict(self, params, hidden):
            return params.at[:, :, -1].set(jnp.finfo(jnp.float32).min)  # a padding row of the vocabulary

    def run():
        def loss(logits):
            sums = cross_entropy_sums(Fixed(), logits, jnp.zeros((B, 3, 4), jnp.bfloat16), targets, weights)
            return sums["loss_sum"], sums

        return jax.value_and_grad(loss, has_aux=True)(logits)

    (_, plain), plain_gradient = run()
    monkeypatch.setattr(lean_gradients, "platform", lambda: "tpu")
    (_, lean), gradient = run()
    _near(lean, plain, 1e-6)
    _near(gradient, plain_gradient, 1e-6)
    assert not np.any(gradient[:, :, -1])


def test_parts_and_their_gradient_are_those_of_slices():
    x, weights = (jax.random.normal(jax.random.key(seed), (2, 3, 2, 4)) for seed in (0, 1))

    def total(parts: list) -> jax.Array:
        return sum(jnp.sum(jnp.sin(part) * weights[:, :, index]) for index, part in enumerate(parts))

    def sliced(x: jax.Array) -> list:
        return [x[:, :, part] for part in range(2)]

    ours, reference = (jax.grad(lambda x, f=f: total(f(x)))(x) for f in (lean_gradients.unstack, sliced))
    np.testing.assert_array_equal(ours, reference)
    for part, expected in zip(lean_gradients.unstack(x), sliced(x), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_the_gradient_of_a_table_is_summed_in_float32():
    rows = jnp.asarray([[3] * 1000 + [1, 0]])
    table = jnp.ones((5, 2), "bfloat16")
    total = jax.grad(lambda table: jnp.sum(lean_gradients.look_up(table, rows)))(table)
    assert total.dtype == "bfloat16"
    np.testing.assert_array_equal(total[:, 0], [1, 1, 0, 1000, 0])  # a sum in bfloat16 stays at 256


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_a_shared_table_has_the_gradients_of_two(family: str, monkeypatch: pytest.MonkeyPatch):
    """The look-up and the tied head read one rounded table, whose gradient is the sum of both."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    values = {"model_type": family, "vocab_size": 40, "max_position_embeddings": 16, **sizes}
    model = build(parse_config({**values, "pad_token_id": 1}, "test"))
    params = model.init(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(5, 40, (B, S)), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(S), (B, S))
    monkeypatch.setattr(lean_gradients, "are_used", lambda dtype: True)

    def loss(params):
        hidden = model.encode(params, tokens, SEGMENTS, positions)
        return cross_entropy_sums(model, params, hidden, tokens, SEGMENTS > 0)["loss_sum"]

    def shared(params):
        return loss(model.with_shared_table(params))

    _near(jax.jit(jax.grad(shared))(params), jax.jit(jax.grad(loss))(params), 1e-5)
    casts = [str(jax.make_jaxpr(jax.grad(one))(params)).count("cast_once") for one in (shared, loss)]
    assert casts[0] == casts[1] + 1, "one more, of the table"

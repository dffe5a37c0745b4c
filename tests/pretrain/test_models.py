"""The network as functions of params: its start, its description, packed rows, meshes, types, dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from base.errors import UserError
from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.models import EncoderConfig, Model, build

CONFIG = EncoderConfig(
    model_type="roberta",
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    hidden_act="gelu",
    max_position_embeddings=20,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    initializer_range=0.1,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    tie_word_embeddings=True,
    pad_token_id=1,
)
B, S = 8, 16


def _batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(5, CONFIG.vocab_size, (B, S)).astype(np.int32)
    return tokens, np.ones((B, S), np.int32), np.tile(np.arange(S, dtype=np.int32), (B, 1))


@functools.cache
def _params():
    return jax.jit(build(CONFIG).init)(jax.random.key(0))


def _loss(model: Model, params, batch, key=None) -> jax.Array:
    logits = model.predict(params, model.encode(params, *batch, dropout_key=key))
    return -jnp.mean(jax.nn.log_softmax(logits)[..., 7])


def test_fresh_params_are_drawn_as_transformers_draws_them():
    config = dataclasses.replace(CONFIG, hidden_size=128, vocab_size=2000, tie_word_embeddings=False)
    params = jax.jit(build(config).init)(jax.random.key(0))
    kernels = [params["layers"]["attention"][name]["kernel"] for name in ("query", "key", "value", "output")]
    kernels += [
        params["layers"]["up"]["kernel"],
        params["head"]["dense"]["kernel"],
        params["head"]["decoder"],
    ]
    for array in (*kernels, params["embeddings"]["word"]):
        np.testing.assert_allclose(np.std(array), config.initializer_range, rtol=0.02)
        assert abs(np.mean(array)) < 0.003
    assert not np.any(params["embeddings"]["word"][config.pad_token_id])
    assert not np.any(params["embeddings"]["position"][config.pad_token_id])
    assert np.any(params["embeddings"]["position"][0])
    assert (params["layers"]["attention_norm"]["scale"] == 1).all()
    assert not np.any(params["layers"]["up"]["bias"]) and not np.any(params["head"]["bias"])
    layers = np.asarray(params["layers"]["up"]["kernel"])
    assert abs(np.corrcoef(layers[0].ravel(), layers[1].ravel())[0, 1]) < 0.05, "layers start alike"


def test_every_array_has_logical_axes_and_a_decision_on_decay():
    model = build(CONFIG)
    shapes, axes, decay = model.shapes(), model.logical_axes(), model.decay_mask()
    leaves = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert jax.tree.structure(shapes) == jax.tree.structure(decay)
    for shape, names in zip(jax.tree.leaves(shapes), leaves, strict=True):
        assert len(names) == len(shape.shape)
    for path, decays in jax.tree_util.tree_leaves_with_path(decay):
        assert decays == (path[-1].key not in ("bias", "scale")), path


def test_parameters_are_counted_by_part():
    count = build(CONFIG).count()
    D, F, V, L = CONFIG.hidden_size, CONFIG.intermediate_size, CONFIG.vocab_size, CONFIG.num_hidden_layers
    assert count.embeddings == (V + CONFIG.max_position_embeddings + 1) * D + 2 * D
    assert count.layers == L * (4 * (D * D + D) + 2 * D * F + F + D + 4 * D)
    assert count.head == D * D + D + 2 * D + V
    assert count.total == count.embeddings + count.layers + count.head


def test_a_packed_row_gives_each_document_what_it_gets_alone():
    model = build(CONFIG)
    params = _params()
    tokens = _batch()[0][:1]
    lengths = (6, 7)
    packed = (
        tokens,
        np.array([[1] * 6 + [2] * 7 + [0] * 3], np.int32),
        np.array([[*range(6), *range(7), 0, 0, 0]], np.int32),
    )
    encode = jax.jit(lambda *batch: model.encode(params, *batch))
    together = np.asarray(encode(*packed))
    start = 0
    for length in lengths:
        alone = (
            tokens[:, start : start + length],
            np.ones((1, length), np.int32),
            np.arange(length, dtype=np.int32)[None],
        )
        np.testing.assert_allclose(together[:, start : start + length], encode(*alone), rtol=0, atol=2e-6)
        start += length
    assert np.isfinite(together).all()


def _step(params, batch):
    """Loss and gradients of a step with dropout."""
    return jax.value_and_grad(lambda params: _loss(build(CONFIG), params, batch, jax.random.key(3)))(params)


@functools.cache
def _on_one_device():
    return _params(), jax.jit(_step)(_params(), _batch())


@pytest.mark.parametrize(
    "mesh_config",
    [
        MeshConfig(data=8),
        MeshConfig(fsdp=8, data=1),
        MeshConfig(tensor=2, fsdp=4, data=1),
    ],
    ids=["data8", "fsdp8", "tensor2_fsdp4"],
)
def test_a_mesh_changes_neither_start_nor_loss_nor_gradients(mesh_config: MeshConfig):
    model = build(CONFIG)
    params, (loss, gradients) = _on_one_device()

    mesh = make_mesh(mesh_config)
    layout = jax.tree.map(
        lambda names, shape: sharding(mesh, names, shape.shape),
        model.logical_axes(),
        model.shapes(),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    rows = sharding(mesh, ("batch", "seq"))
    with jax.set_mesh(mesh):
        spread = jax.jit(model.init, out_shardings=layout)(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, spread, params)
        meshed = jax.jit(_step, in_shardings=(layout, rows), out_shardings=(None, layout))
        spread_loss, spread_gradients = meshed(spread, jax.device_put(_batch(), rows))
    np.testing.assert_allclose(spread_loss, loss, rtol=1e-6)
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6),
        spread_gradients,
        gradients,
    )
    word = spread["embeddings"]["word"]
    assert word.addressable_shards[0].data.size * mesh_config.fsdp * mesh_config.tensor == word.size


def test_bfloat16_runs_close_to_float32_with_float32_logits():
    params = _params()
    batch = _batch()
    expected = jax.jit(lambda params: _loss(build(CONFIG), params, batch))(params)
    model = build(CONFIG, dtype="bfloat16")
    hidden = jax.eval_shape(lambda params: model.encode(params, *batch), params)
    assert hidden.dtype == jnp.bfloat16
    assert jax.eval_shape(model.predict, params, hidden).dtype == jnp.float32
    loss, gradients = jax.jit(jax.value_and_grad(lambda params: _loss(model, params, batch)))(params)
    np.testing.assert_allclose(loss, expected, rtol=0.01)
    for gradient in jax.tree.leaves(gradients):
        assert gradient.dtype == jnp.float32 and np.isfinite(gradient).all()


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_dropout_follows_its_key_and_stops_without_one(implementation: str):
    model, batch = build(CONFIG), _batch()
    params = _params()
    encode = jax.jit(lambda key: model.encode(params, *batch, dropout_key=key))
    key, other = (jax.random.key(seed, impl=implementation) for seed in (0, 1))
    np.testing.assert_array_equal(encode(key), encode(key))
    assert np.abs(encode(key) - encode(other)).max() > 0.1
    assert np.abs(encode(key) - encode(None)).max() > 0.1


def test_every_dropout_of_every_layer_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch):
    keys = []

    def record(x, rate, key, bits):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return x

    monkeypatch.setattr("pretrain.models.families.bert.network.dropout", record)
    monkeypatch.setattr("pretrain.models.attention.dropout", record)
    model = build(CONFIG)
    params = _params()
    with jax.disable_jit():
        model.encode(params, *_batch(), dropout_key=jax.random.key(0))
    assert len(set(keys)) == len(keys) == 1 + 3 * CONFIG.num_hidden_layers


def test_each_policy_of_recomputation_keeps_fewer_values_for_the_backward_pass():
    batch, params = _batch(), _params()

    def kept(policy: str) -> int:
        model = build(dataclasses.replace(CONFIG, remat=policy))
        residuals = jax.eval_shape(lambda: jax.vjp(lambda params: _loss(model, params, batch), params)[1])
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    everything, attention, full = (kept(policy) for policy in ("none", "attention", "full"))
    assert full < 0.5 * everything and full < 0.7 * attention < 0.7 * everything


@pytest.mark.parametrize("unroll", [1, 3, 0])
def test_recomputing_layers_saves_memory_however_they_are_unrolled(unroll: int):
    config = dataclasses.replace(CONFIG, num_hidden_layers=6, scan_unroll=unroll)
    batch = _batch()

    def temporary_bytes(remat: str) -> int:
        model = build(dataclasses.replace(config, remat=remat))
        gradients = jax.jit(jax.grad(lambda params: _loss(model, params, batch, jax.random.key(0))))
        return gradients.lower(model.shapes()).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes("full") < 0.7 * temporary_bytes("none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, "hidden_size=30 should be a multiple of num_attention_heads=4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 should be 1 or more"),
        ({"max_position_embeddings": 2}, "max_position_embeddings=2 should be 3 or more"),
        ({"pad_token_id": 96}, "vocab_size=96 should be above pad_token_id=96"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob=1.0 should be at least 0 and less than 1"),
        ({"scan_unroll": -1}, "scan_unroll=-1 should be 0"),
        ({"dropout_bits": 8, "hidden_dropout_prob": 0.001}, "dropout_bits=8 cannot give a dropout of 0.001"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_models_of_equal_config_are_equal_and_hashable():
    assert build(CONFIG) == build(CONFIG)
    assert hash(build(CONFIG)) == hash(build(CONFIG))
    assert build(CONFIG) != build(CONFIG, dtype="bfloat16")

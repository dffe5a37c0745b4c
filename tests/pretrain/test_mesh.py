"""The same run on every mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from base.errors import UserError
from pretrain.config import MeshConfig, ModelConfig
from pretrain.devices.global_batch import local_rows, to_devices
from pretrain.devices.mesh import RULES, gathered, make_mesh, sharding, spec
from pretrain.models import EncoderConfig, build
from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.train_step import make_train_step
from pretrain.optim.averages import averaged
from pretrain.optim.config import OptimizerConfig
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import MASKS, PARAMS, abstract_state, fresh_state, random_key
from pretrain.phases import Phase
from pretrain.reports.start_summary import bytes_per_device

B, S, V = 16, 24, 96
MESHES = {
    "one device": (MeshConfig(data=1), 1),
    "data=8": (MeshConfig(data=8), 8),
    "fsdp=8": (MeshConfig(data=1, fsdp=8), 8),
    "zero1=8": (MeshConfig(data=1, zero1=8), 8),
    "tensor=2 x fsdp=4": (MeshConfig(data=1, fsdp=4, tensor=2), 8),
}

MASKED = MaskedLM(MaskingTables(0.8, 0.1, 4, (0, 1, 2, 3, 4), V), 0.15)


def encoder(**changes):
    fields = {
        name: getattr(ModelConfig(), name) for name in ("layer_norm_eps", "initializer_range", "hidden_act")
    }
    fields |= {
        "model_type": "roberta",
        "vocab_size": V,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 34,
        "type_vocab_size": 1,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "tie_word_embeddings": True,
        "pad_token_id": 1,
    }
    return EncoderConfig(**{**fields, **changes})


def rows(seed):
    random = np.random.default_rng(seed)
    tokens = random.integers(5, V, (B, S), dtype=np.int32)
    segments = np.ones((B, S), np.int32)
    for row in range(B):  # rows of unequal weight, so that a mean of means would show
        segments[row, S - row % 5 * 4 :] = 0
    positions = np.broadcast_to(np.arange(S, dtype=np.int32), (B, S))
    return {"tokens": tokens, "segments": segments, "positions": np.ascontiguousarray(positions)}


@functools.cache
def run(
    mesh_config,
    devices,
    *,
    accum=1,
    steps=4,
    dtype="float32",
    objective=MASKED,
    jit=jax.jit,
    learner=OptimizerConfig(clip_norm=1.0),  # noqa: B008
    average=0.0,
    **changes,
):
    """Losses of some steps, the final state, and the metrics of each step; the tests take equal runs once."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    model = build(encoder(**changes), dtype=dtype)
    schedule = optax.constant_schedule(3e-3)
    optimizer = make_optimizer(learner, schedule, model.decay_mask(), model.logical_axes())
    optimizer = averaged(optimizer, average)
    phase = Phase(0, 0, steps, S, B, accum, 0.15, None)
    step = make_train_step(
        model,
        optimizer,
        schedule,
        objective,
        phase,
        seed=0,
        dropout_implementation="threefry2x32",
    )
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        abstract = abstract_state(model, optimizer, mesh)
        state = fresh_state(model, optimizer, abstract, seed=0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        jitted = jit(step, donate_argnums=0, out_shardings=(shardings, None))
        found = []
        for number in range(steps):
            state, metrics = jitted(state, to_devices(rows(number), mesh, B))
            found.append(jax.device_get(metrics))
    return [float(each["loss_sum"] / each["weight_sum"]) for each in found], state, found


@pytest.fixture(scope="module")
def on_one_device():
    return run(*MESHES["one device"])


@pytest.mark.parametrize("mesh", [name for name in MESHES if name != "one device"])
def test_losses_are_the_same_on_every_mesh(mesh, on_one_device):
    losses, state, metrics = run(*MESHES[mesh])
    np.testing.assert_allclose(losses, on_one_device[0], rtol=1e-5)
    assert [float(each["weight_sum"]) for each in metrics] == [
        float(each["weight_sum"]) for each in on_one_device[2]
    ]
    for leaf, other in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(on_one_device[1].params), strict=True
    ):
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(other), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("mesh", ["zero1=8", "tensor=2 x fsdp=4"])
def test_normuon_and_the_average_are_the_same_on_every_mesh(mesh):
    more = {"learner": OptimizerConfig(name="normuon", clip_norm=1.0), "average": 0.9}
    alone, shared = run(*MESHES["one device"], **more), run(*MESHES[mesh], **more)
    np.testing.assert_allclose(shared[0], alone[0], rtol=1e-5)
    ours, theirs = (each[1].opt_state for each in (shared, alone))
    for leaf, other in zip(jax.tree.leaves(ours.average), jax.tree.leaves(theirs.average), strict=True):
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(other), rtol=1e-3, atol=2e-5)
    split = {"zero1=8": (2, 4, 64), "tensor=2 x fsdp=4": (2, 8, 32)}[mesh]
    assert ours.average["layers"]["up"]["kernel"].addressable_shards[0].data.shape == split
    second = ours.inner[0].inner_states["muon"].inner_state[1].nu["layers"]["up"]["kernel"]
    assert second.shape == (2, 1, 64)
    assert second.addressable_shards[0].data.shape == (2, 1, 32 if "tensor" in mesh else 64)


@pytest.mark.parametrize(("mesh", "accum"), [("data=8", 1), ("tensor=2 x fsdp=4", 2)])
def test_causal_losses_are_the_same_on_every_mesh_and_in_micro_batches(mesh, accum):
    in_parts = {"objective": CausalLM(separator=2, at_once=10), "hidden_dropout_prob": 0.0}
    in_parts["attention_probs_dropout_prob"] = 0.0
    alone, shared = run(*MESHES["one device"], **in_parts), run(*MESHES[mesh], accum=accum, **in_parts)
    np.testing.assert_allclose(shared[0], alone[0], rtol=1e-5)
    assert float(shared[2][-1]["weight_sum"]) == sum(S - row % 5 * 4 - 1 for row in range(B))
    assert float(shared[2][-1]["attended"]) == sum(
        n * (n + 1) / 2 for n in (S - row % 5 * 4 for row in range(B))
    )


@pytest.mark.parametrize("mesh", ["data=8", "tensor=2 x fsdp=4"])
def test_bfloat16_takes_nearly_the_same_steps(mesh, on_one_device):
    losses = np.array(run(*MESHES[mesh], dtype="bfloat16")[0])
    np.testing.assert_allclose(losses, on_one_device[0], rtol=5e-4)
    assert np.abs(losses / on_one_device[0] - 1).max() > 1e-5, "these are the losses of float32"


def test_params_and_moments_are_split_as_the_table_says():
    state = run(*MESHES["tensor=2 x fsdp=4"])[1]
    word = state.params["embeddings"]["word"]
    assert word.addressable_shards[0].data.shape == (V // 8, 32)
    up = state.params["layers"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == (2, 32 // 4, 64 // 2)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == up.shape]
    assert [leaf.addressable_shards[0].data.shape for leaf in moments] == [(2, 8, 32)] * 2


def test_zero1_splits_the_moments_and_leaves_params_whole():
    state = run(*MESHES["zero1=8"])[1]
    up = state.params["layers"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == up.shape == (2, 32, 64)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == up.shape]
    assert [leaf.addressable_shards[0].data.shape for leaf in moments] == [(2, 4, 64)] * 2


@pytest.mark.parametrize(
    ("config", "width", "split"),
    [
        (MeshConfig(data=1, zero1=2, fsdp=4), 24, ("fsdp", "zero1")),
        (MeshConfig(data=1, zero1=2, fsdp=4), 12, ("fsdp",)),
        (MeshConfig(data=1, zero1=2, fsdp=4), 6, ("zero1",)),
        (MeshConfig(data=1, zero1=2, fsdp=4), 5, None),
    ],
)
def test_moments_are_split_over_the_axes_that_divide(config, width, split):
    assert spec(make_mesh(config), ("moment_embed",), (width,)) == jax.P(split)


@pytest.mark.parametrize(
    ("mesh", "params", "moments"),
    [
        (MeshConfig(data=1, fsdp=8), 1.1 / 8, 1.1 / 8),
        (MeshConfig(data=1, zero1=8), 1, 1.1 / 8),
        (MeshConfig(data=1, zero1=4, fsdp=2), 1.1 / 2, 1.1 / 8),
    ],
    ids=str,
)
def test_a_device_holds_its_share_of_a_base_networks_params_and_moments(mesh, params, moments):
    sizes = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    model = build(encoder(vocab_size=50265, max_position_embeddings=514, **sizes))
    state = abstract_state(model, optax.adam(1e-3), make_mesh(mesh))

    def share(tree) -> float:
        """Bytes of one device as a share of all bytes."""
        return bytes_per_device(tree) / sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    assert share(state.params) <= params and share(state.opt_state) <= moments


def test_a_kernel_is_whole_where_it_is_used_and_its_gradient_split_as_it_is_stored():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    axes = ("embed", "mlp")
    kernel = jax.device_put(jnp.ones((32, 64)), sharding(mesh, axes))
    x = jax.device_put(jnp.ones((8, 32)), sharding(mesh, ("batch", None)))
    with jax.set_mesh(mesh):
        whole = jax.jit(lambda k: gathered(k, axes))(kernel)
        gradient = jax.jit(jax.grad(lambda k: jnp.sum(x @ gathered(k, axes))))(kernel)
    assert [array.addressable_shards[0].data.shape for array in (kernel, whole, gradient)] == [
        (8, 32),
        (32, 32),
        (8, 32),
    ]
    np.testing.assert_array_equal(gradient, np.full((32, 64), 8.0))


def test_params_are_born_sharded():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    model = build(encoder())
    optimizer = optax.adam(1e-3)
    abstract = abstract_state(model, optimizer, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)
    compiled = jax.jit(model.init, out_shardings=shardings).lower(jax.random.key(0)).compile()
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(abstract.params))
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes < whole / 4
    assert memory.temp_size_in_bytes < whole / 4


@pytest.mark.parametrize("devices", [1, 4])
def test_accumulated_gradients_equal_those_of_the_large_batch(devices):
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    whole = run(MeshConfig(data=devices), devices, **off)
    parts = run(MeshConfig(data=devices), devices, accum=4, **off)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(float(parts[2][-1]["grad_norm"]), float(whole[2][-1]["grad_norm"]), rtol=1e-5)
    for name in ("weight_sum", "tokens", "correct_sum"):
        assert float(parts[2][-1][name]) == float(whole[2][-1][name])


def test_sums_count_predictions_tokens_and_pairs(on_one_device):
    metrics = on_one_device[2][0]
    lengths = [S - row % 5 * 4 for row in range(B)]
    assert float(metrics["weight_sum"]) == sum(max(1, round(0.15 * length)) for length in lengths)
    assert float(metrics["tokens"]) == sum(lengths)
    assert float(metrics["attended"]) == sum(length**2 for length in lengths)


def test_the_gradient_is_that_of_the_mean_over_all_predictions_not_of_a_mean_of_row_means():
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    step = run(MeshConfig(data=4), 4, **off)[2][0]
    model, batch = build(encoder(**off)), rows(0)
    key = jax.random.fold_in(random_key(0, MASKS), 0)
    ids = np.arange(B, dtype=np.int32)
    prepared = jax.device_get(jax.jit(MASKED.prepare)(key, ids, batch))

    @jax.jit
    def row_gradients(params):
        def loss(params, row):
            part = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, row, 1), prepared)
            return MASKED.loss(model, params, part, None)["loss_sum"]

        return jax.vmap(jax.grad(loss), (None, 0))(params, jnp.arange(B))

    with jax.default_matmul_precision("highest"):
        params = jax.jit(model.init)(random_key(0, PARAMS))
        gradients = jax.device_get(row_gradients(params))
    weights = prepared.weights.sum(1)
    total = jax.tree.map(lambda leaves: leaves.sum(0) / weights.sum(), gradients)
    mean_of_means = jax.tree.map(lambda leaves: np.tensordot(1 / weights / B, leaves, 1), gradients)
    assert float(step["grad_norm"]) == pytest.approx(float(optax.tree.norm(total)), rel=1e-5)
    assert float(step["grad_norm"]) != pytest.approx(float(optax.tree.norm(mean_of_means)), rel=1e-3)


def test_rows_of_one_process_are_all_rows():
    assert local_rows(make_mesh(MeshConfig(data=4, tensor=2)), 16) == tuple(range(16))


@pytest.mark.parametrize(
    ("shape", "split"),
    [
        ((96, 30), (("tensor", "fsdp"), None)),
        ((90, 32), (("tensor",), ("fsdp",))),
        ((95, 32), (None, ("fsdp",))),
        ((95, 30), (None, None)),
    ],
)
def test_a_table_is_split_by_rows_and_by_columns_where_rows_do_not_divide(shape, split):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    assert spec(mesh, ("vocab", "embed"), shape) == jax.P(*split)


def test_moments_of_a_table_are_split_by_columns_over_what_rows_leave():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, zero1=2))
    assert spec(mesh, ("moment_vocab", "moment_embed"), (96, 32)) == jax.P(("fsdp", "zero1"), None)
    assert spec(mesh, ("moment_vocab", "moment_embed"), (92, 32)) == jax.P(("fsdp",), ("zero1",))


def test_no_mesh_axis_is_used_twice():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        spec(mesh, ("embed", "batch"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            MeshConfig(data=3),
            "config.mesh.data=3 does not make the number of devices, 8; make the product 8, or set one axis of "
            "config.mesh to -1 to take the rest",
        ),
        (
            MeshConfig(fsdp=-1),
            "config.mesh.data=-1 and config.mesh.fsdp=-1: only one of them may be -1 (config.mesh.data is by default); "
            "set config.mesh.data=1, for example",
        ),
        (
            MeshConfig(fsdp=2, tensor=3),
            "config.mesh.fsdp=2 x config.mesh.tensor=3 does not divide the number of devices, 8, "
            "so that config.mesh.data=-1 cannot take the rest; make the product one of 1, 2, 4, 8",
        ),
        (
            MeshConfig(data=0),
            "config.mesh.data=0 should be 1 or more, or -1 to take the devices that are left",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError) as caught:
        make_mesh(config)
    assert str(caught.value) == message


def test_a_mesh_for_more_devices_than_one_is_refused_where_there_is_one():
    with pytest.raises(
        UserError, match=r"config\.mesh\.fsdp=2 does not divide the number of devices, 1, .* one of 1$"
    ):
        make_mesh(MeshConfig(fsdp=2), jax.devices()[:1])


def test_every_logical_axis_of_the_model_is_in_the_table():
    axes = jax.tree.leaves(build(encoder()).logical_axes())
    assert {axis for axis in axes if axis} <= set(RULES)

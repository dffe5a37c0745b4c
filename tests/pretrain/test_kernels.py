"""Attention kernels that never write all scores out: values and gradients are the reference's.

Those of accelerators are interpreted on the CPU.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.models.attention import KERNELS, attention
from pretrain.models.kernels import chunked
from pretrain.models.kernels.sight import Sight, WeightDropout

B, S, N, H = 2, 256, 2, 64
SEGMENTS = np.stack([np.repeat([1, 2, 3, 0], [90, 100, 40, 26]), np.ones(S, int)]).astype(np.int32)
ONE_DOCUMENT = np.stack([np.repeat([1, 0], [200, 56]), np.ones(S, int)]).astype(np.int32)

NO_DROPOUT = WeightDropout(0.0, None)


def _arrays(count: int, dtype: str = "float32", shape: tuple[int, ...] = (B, S, N, H)) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(count)]


def _run(compute, heads, segments=SEGMENTS, *, window=None, causal=False, drop=NO_DROPOUT):
    """The output within documents, and the gradients of a weighted sum of it."""
    (weights,) = _arrays(1, shape=heads[0].shape)
    weights = weights * (segments > 0)[..., None, None]

    def total(query, key, value):
        out = compute(query, key, value, Sight(segments, window, causal), drop)
        return jnp.sum(out * weights), out * (segments > 0)[..., None, None]

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*heads)
    return [out, *gradients]


def _near(mine, reference, tolerance: float) -> None:
    """Each array within a share of the reference's largest value."""
    for one, other in zip(mine, reference, strict=True):
        assert one.dtype == other.dtype
        one, other = (np.asarray(x, np.float32) for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance", "options"),
    [
        ("chunked", "float32", 1e-5, {}),
        ("chunked", "float32", 1e-5, {"causal": True, "window": jnp.int32(70)}),
        ("chunked", "bfloat16", 0.02, {}),
        ("splash", "float32", 1e-5, {}),
        ("splash", "float32", 1e-5, {"causal": True}),
        ("splash", "float32", 1e-5, {"window": 70}),
        ("splash", "bfloat16", 0.02, {}),
        ("triton", "float32", 1e-5, {}),
        ("triton", "float32", 1e-5, {"causal": True}),
        ("triton", "bfloat16", 0.02, {}),
    ],
)
def test_a_kernel_computes_what_the_reference_computes(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, tolerance: float, options: dict
):
    monkeypatch.setattr(chunked, "CHUNK", 128)
    heads = _arrays(3, dtype)
    traced = {**options, "window": options.get("window") and jnp.int32(options["window"])}
    mine = _run(KERNELS[name].compute, heads, **options)
    _near(mine, _run(KERNELS["xla"].compute, heads, **traced), tolerance)


@pytest.mark.parametrize("name", ["splash", "triton"])
def test_a_kernel_of_pallas_runs_on_the_rows_and_heads_of_each_device(name: str):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    heads, segments = _arrays(3, shape=(4, 128, 2, H)), np.tile(SEGMENTS[:, :128], (2, 1))
    split = sharding(mesh, ("batch", "seq", "act_heads", None))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, split) for x in heads]
        mine = _run(KERNELS[name].compute, placed, segments)
        assert mine[0].sharding.is_equivalent_to(split, 4)
    _near(mine, _run(KERNELS["xla"].compute, heads, segments), 1e-5)


def test_chunks_drop_weights_with_a_key_of_their_own_and_go_back_with_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(chunked, "CHUNK", 128)
    heads = _arrays(3, shape=(1, S, 1, 2))
    ones = np.ones((1, S), np.int32)
    drop = WeightDropout(0.5, jax.random.key(1))

    def total(value):
        return jnp.sum(KERNELS["chunked"].compute(*heads[:2], value, Sight(ones, None, False), drop) ** 2)

    # The output is linear in the values. So a gradient that had another mask than the output would not fit here.
    gradient = jax.grad(total)(heads[2])
    assert abs(jnp.sum(gradient * heads[2]) - 2 * total(heads[2])) < 1e-3 * total(heads[2])
    out = KERNELS["chunked"].compute(*heads[:2], jnp.ones_like(heads[2]), Sight(ones, None, False), drop)
    halves = np.split(np.asarray(out)[0, :, 0, 0], 2)
    assert np.std(halves[0]) > 0.01
    assert np.mean(out) == pytest.approx(1, abs=0.05)


def test_the_memory_of_chunks_is_linear_in_the_row():
    def temporaries(name: str, length: int) -> int:
        heads = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        total = functools.partial(
            KERNELS[name].compute,
            sight=Sight(np.ones((1, length), np.int32), None, False),
            weight_dropout=WeightDropout(0.0, None),
        )
        gradient = jax.grad(lambda *heads: jnp.sum(total(*heads) ** 2), argnums=(0, 1, 2))
        return jax.jit(gradient).lower(*heads).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("chunked", 4096) < 4.5 * temporaries("chunked", 1024)
    assert temporaries("chunked", 4096) < temporaries("xla", 4096) / 5


def test_rows_that_a_kernel_cannot_divide_are_computed_by_the_reference():
    heads = _arrays(3, shape=(2, 200, N, H))
    segments = SEGMENTS[:, :200]
    for name in ("chunked", "splash", "triton"):
        out = attention(*heads, segments, implementation=name)
        np.testing.assert_array_equal(out, attention(*heads, segments))


@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_is_given_lengths_and_never_a_bias_or_a_window(monkeypatch: pytest.MonkeyPatch, causal: bool):
    """Without a GPU: the whole call is looked at, and jax's own form of it computes the values."""
    calls = []
    original = jax.nn.dot_product_attention

    def on_the_cpu(*heads, **options):
        calls.append(options)
        return original(*heads, **{**options, "implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_the_cpu)
    heads = _arrays(3, "bfloat16")
    mine = _run(KERNELS["cudnn"].compute, heads, ONE_DOCUMENT, causal=causal)
    (options,) = calls
    lengths = options.pop("query_seq_lengths"), options.pop("key_value_seq_lengths")
    assert options == {"is_causal": causal, "implementation": "cudnn"}, "no bias, mask, scale or window"
    assert all(x.shape == (B,) and x.dtype == "int32" for x in lengths)
    _near(mine, _run(KERNELS["xla"].compute, heads, ONE_DOCUMENT, causal=causal), 0.02)


def test_what_cudnn_gives_for_padding_goes_nowhere(monkeypatch: pytest.MonkeyPatch):
    inside = (ONE_DOCUMENT > 0)[..., None, None]

    @jax.custom_vjp
    def undefined(query, key, value):
        return jnp.where(inside, value, jnp.nan)

    undefined.defvjp(
        lambda *heads: (undefined(*heads), None),
        lambda _, g: tuple(jnp.where(inside, g, jnp.nan) for _ in "qkv"),
    )
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *heads, **_: undefined(*heads))
    for array in _run(KERNELS["cudnn"].compute, _arrays(3, "bfloat16"), ONE_DOCUMENT):
        assert np.isfinite(np.asarray(array, np.float32)).all()


def test_no_kernel_of_a_gpu_is_given_a_window():
    """cuDNN's window looks ahead without a word (jax issue 39576): layers that have one run by blocks beside it."""
    for name, kernel in KERNELS.items():
        if "cpu" not in kernel.platforms and "gpu" in kernel.platforms:
            assert not kernel.windows, name
            heads = _arrays(3, "bfloat16", (1, 64, 1, 16))
            ones = np.ones((1, 64), np.int32)
            for causal, window in itertools.product([False, True], [4, jnp.int32(4)]):
                with pytest.raises(AssertionError, match="window"):
                    kernel.compute(*heads, Sight(ones, window, causal), WeightDropout(0.0, None))

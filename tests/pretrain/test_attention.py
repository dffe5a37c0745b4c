"""Attention: against a loop over documents, with padding, in both types, and which kernel is chosen."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from base.errors import UserError
from pretrain.models import build_encoder
from pretrain.models.attention import (
    KERNELS,
    LONG,
    SPLASH_FROM,
    Choice,
    Kernel,
    Needs,
    Use,
    attention,
    choose,
)
from pretrain.models.huggingface import parse_config

B, S, N, H = 2, 9, 3, 4
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]], np.int32)


def _heads(dtype: str = "float32") -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, S, N, H)), dtype) for _ in range(3)]


def _reference(query, key, value) -> np.ndarray:
    """Softmax attention of each document and head on its own, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.full((B, S, N, H), np.nan)
    for row in range(B):
        for segment in set(SEGMENTS[row]) - {0}:
            inside = np.flatnonzero(SEGMENTS[row] == segment)
            for head in range(N):
                scores = query[row, inside, head] @ key[row, inside, head].T / np.sqrt(H)
                weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
                out[row, inside, head] = weights @ value[row, inside, head]
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.03)])
def test_each_document_attends_to_itself_alone(dtype: str, tolerance: float):
    heads = _heads(dtype)
    out = attention(*heads, SEGMENTS)
    assert out.dtype == dtype
    inside = SEGMENTS > 0
    np.testing.assert_allclose(
        np.asarray(out, np.float64)[inside], _reference(*heads)[inside], atol=tolerance
    )


def test_padding_gives_finite_values_and_gradients():
    query, key, value = _heads()
    segments = np.zeros_like(SEGMENTS)

    def total(query, key, value):
        return jnp.sum(attention(query, key, value, segments) ** 2)

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(query, key, value):
        assert np.isfinite(gradient).all()
    assert np.isfinite(attention(query, key, value, segments)).all()


def test_no_gradient_reaches_another_document_or_padding():
    query, key, value = _heads()

    def first_document(value):
        return jnp.sum(attention(query, key, value, SEGMENTS)[0, :4])

    gradient = np.asarray(jax.grad(first_document)(value))
    assert (gradient[0, :4] != 0).all()
    assert (gradient[0, 4:] == 0).all() and (gradient[1] == 0).all()


def test_dropout_keeps_the_mean_over_many_keys():
    heads = _heads()

    @jax.jit
    def dropped(key):
        return attention(*heads, SEGMENTS, dropout_rate=0.3, dropout_key=key)

    draws = jax.vmap(dropped)(jax.random.split(jax.random.key(0), 4000))
    assert np.std(draws[:, 0, 0, 0, 0]) > 0.05
    error = 5 * np.std(draws, axis=0) / np.sqrt(len(draws)) + 1e-6
    assert (np.abs(np.mean(draws, axis=0) - attention(*heads, SEGMENTS)) < error).all()


ONE_DOCUMENT = Use(packed=False)
NEEDS = Needs(platform="gpu", dtype="bfloat16", dropout=0.0, head_width=64, windows=False, use=ONE_DOCUMENT)
DROPOUT = "has no dropout of attention weights, which is 0.1: set config.model.attention_probs_dropout_prob=0"
FLOAT32 = "needs config.dtype=bfloat16, not float32"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float32"}, FLOAT32),
        ({"dropout": 0.1}, DROPOUT),
        ({"dtype": "float32", "dropout": 0.1}, f"{FLOAT32}, and {DROPOUT}"),
        (
            {"head_width": 20},
            "takes heads of a multiple of 8 up to 128, not of 20: set config.model.num_attention_heads",
        ),
        (
            {"head_width": 192},
            "takes heads of a multiple of 8 up to 128, not of 192: set config.model.num_attention_heads",
        ),
        (
            {"use": Use(row_lengths=(128, 127), packed=False)},
            "takes rows of a multiple of 2 tokens, not of 127: set config.seq_len",
        ),
        (
            {"use": Use()},
            "does not keep the documents of a row apart (config.data.packing=documents or best_fit)",
        ),
    ],
)
def test_auto_takes_cudnn_only_where_it_computes_the_same_and_says_why_not(changes: dict, reason: str):
    assert choose("auto", NEEDS) == Choice("cudnn", {})
    assert choose("auto", dataclasses.replace(NEEDS, use=Use(causal=True, packed=False))) == Choice(
        "cudnn", {}
    )
    choice = choose("auto", dataclasses.replace(NEEDS, **changes))
    assert choice.refused["cudnn"] == reason
    assert str(choice).startswith(f"{choice.name}; cudnn {reason}")


def test_a_gpu_keeps_packed_documents_apart_by_their_segments():
    choice = choose("auto", dataclasses.replace(NEEDS, use=Use(row_lengths=(1024,))))
    assert choice.name == "triton" and list(choice.refused) == ["cudnn"]
    choice = choose("auto", dataclasses.replace(NEEDS, use=Use(row_lengths=(1000,))))
    assert (
        choice.refused["triton"] == "takes rows of a multiple of 64 tokens, not of 1000: set config.seq_len"
    )


@pytest.mark.parametrize(
    ("platform", "dtype", "dropout", "lengths", "name"),
    [
        ("cpu", "float32", 0.1, (128,), "xla"),
        ("cpu", "float32", 0.1, (LONG // 2,), "xla"),
        ("cpu", "float32", 0.1, (128, LONG), "chunked"),
        ("gpu", "float32", 0.0, (LONG,), "chunked"),
        ("tpu", "bfloat16", 0.0, (SPLASH_FROM // 2,), "one_pass"),
        ("tpu", "bfloat16", 0.0, (SPLASH_FROM,), "splash"),
        ("tpu", "float32", 0.0, (SPLASH_FROM,), "splash"),
        ("tpu", "bfloat16", 0.1, (SPLASH_FROM,), "one_pass"),
        ("tpu", "bfloat16", 0.1, (LONG,), "chunked"),
    ],
)
def test_long_rows_take_a_kernel_that_writes_no_scores(
    platform: str, dtype: str, dropout: float, lengths: tuple[int, ...], name: str
):
    needs = Needs(platform, dtype, dropout, 64, False, Use(row_lengths=lengths))
    choice = choose("auto", needs)
    assert choice.name == name
    if dropout and max(lengths) >= SPLASH_FROM and platform == "tpu":
        assert choice.refused["splash"].startswith("has no dropout of attention weights")


def test_a_kernel_of_other_hardware_is_no_faster_one():
    assert str(choose("auto", dataclasses.replace(NEEDS, platform="cpu"))) == "xla"
    tpu = dataclasses.replace(NEEDS, platform="tpu")
    assert str(choose("auto", tpu)) == "one_pass"
    wide = "xla; one_pass needs config.dtype=bfloat16, not float32"
    assert str(choose("auto", dataclasses.replace(tpu, dtype="float32"))) == wide


def test_a_kernel_that_is_named_is_taken():
    assert choose("cudnn", NEEDS) == Choice("cudnn", {})
    assert choose("xla", NEEDS) == Choice("xla", {})


def test_the_last_kernel_can_do_everything():
    for changes in itertools.product(
        ("cpu", "gpu", "tpu"),
        ("float32", "bfloat16", "float16"),
        (0.0, 0.1),
        (20, 512),
        (False, True),
        (Use(), Use(True, (127,))),
    ):
        assert choose(list(KERNELS)[-1], Needs(*changes)).refused == {}


def test_windows_run_by_blocks_beside_a_kernel_that_has_none():
    windows = dataclasses.replace(NEEDS, windows=True)
    assert choose("auto", windows) == choose("cudnn", windows) == Choice("cudnn", {}, by_blocks=True)
    assert choose("xla", windows) == Choice("xla", {})
    assert str(choose("auto", dataclasses.replace(windows, platform="cpu"))) == "xla, windows by blocks"
    choice = choose("auto", dataclasses.replace(windows, dtype="float32"))
    assert str(choice).startswith(f"xla, windows by blocks; cudnn {FLOAT32}; triton {FLOAT32}")


def test_a_kernel_is_added_by_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch):
    def doubled(query, key, value, sight, dropout):
        return 2 * query

    rows = {"doubled": Kernel(doubled, platforms=("cpu",), causal=False, segments=True)}
    monkeypatch.setattr("pretrain.models.attention.KERNELS", rows | KERNELS)
    cpu = dataclasses.replace(NEEDS, platform="cpu")
    assert choose("auto", cpu) == choose("doubled", cpu) == Choice("doubled", {})
    assert choose("auto", NEEDS) == Choice("cudnn", {})
    assert (
        str(choose("auto", dataclasses.replace(cpu, use=Use(causal=True, packed=False))))
        == "xla; doubled has no causal attention"
    )
    with pytest.raises(
        UserError,
        match="attention='dubbled' should be one of auto, doubled, cudnn, triton, splash, chunked, one_pass, xla",
    ):
        choose("dubbled", cpu)
    with pytest.raises(UserError, match=r"attention=doubled runs on a CPU, not on gpu; or set .*=cudnn"):
        choose("doubled", NEEDS)
    query, key, value = _heads()
    np.testing.assert_array_equal(attention(query, key, value, SEGMENTS, implementation="doubled"), 2 * query)


def test_a_kernel_that_mixes_documents_is_never_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "pretrain.models.attention.KERNELS", {"mixing": Kernel(lambda *_: None, segments=False)} | KERNELS
    )
    packed = dataclasses.replace(NEEDS, use=Use())
    assert choose("auto", packed).refused["mixing"].startswith("does not keep the documents of a row apart")
    assert choose("auto", NEEDS).name == "mixing"


def test_a_window_hides_what_is_further_away():
    query, key, value = _heads()

    def of_token(value):
        return jnp.sum(attention(query, key, value, SEGMENTS, window=jnp.int32(2))[1, 4])

    seen = np.asarray(jax.grad(of_token)(value))[1]
    assert [bool((row != 0).all()) for row in seen] == [2 <= place <= 6 for place in range(S)]
    assert not np.any(seen[[0, 1, 7, 8]])
    wide = attention(query, key, value, SEGMENTS, window=jnp.int32(S))
    np.testing.assert_array_equal(wide, attention(query, key, value, SEGMENTS))


WIDE = 41
"""Tokens of a row, in which windows of 4 hide much; no multiple of the window."""


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [WIDE, 1, 7])
def test_blocks_compute_what_the_whole_row_computes(causal: bool, queries: int):
    rng = np.random.default_rng(1)
    query, key, value = (jnp.asarray(rng.normal(size=(B, WIDE, N, H)), jnp.float32) for _ in range(3))
    segments = np.stack([np.repeat([1, 2, 3, 0], [9, 20, 2, 10]), np.ones(WIDE, int)]).astype(np.int32)
    weights = jnp.asarray(rng.normal(size=(B, queries, N, H)) * (segments[:, :queries] > 0)[..., None, None])

    def total(query, key, value, window):
        out = attention(query[:, :queries], key, value, segments, window=window, causal=causal)
        return jnp.sum(out * weights), out

    @jax.jit
    def both(*heads):
        return [
            jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*heads, window) for window in (4, jnp.int32(4))
        ]

    by_blocks, whole = both(query, key, value)
    inside = segments[:, :queries] > 0
    np.testing.assert_allclose(by_blocks[1][inside], whole[1][inside], atol=1e-6)
    assert np.any(whole[0][2])
    for mine, reference in zip(by_blocks[0], whole[0], strict=True):
        np.testing.assert_allclose(mine, reference, atol=1e-5)


def test_blocks_see_the_window_and_the_document_alone():
    query, key, value = (jnp.tile(x, (1, 4, 1, 1)) for x in _heads())
    segments = np.repeat([[1, 2], [1, 1]], 18, axis=1)

    @jax.jit
    def gradient_of(row, token):
        def of_token(value):
            return jnp.sum(attention(query, key, value, segments, window=4)[row, token])

        return jax.grad(of_token)(value)

    def seen(row: int, token: int) -> list[int]:
        gradient = np.asarray(gradient_of(row, token))
        assert not gradient[1 - row].any()
        return np.flatnonzero(np.any(gradient[row] != 0, axis=(1, 2))).tolist()

    assert seen(0, 16) == [12, 13, 14, 15, 16, 17]
    assert seen(0, 19) == [18, 19, 20, 21, 22, 23]
    assert seen(1, 16) == list(range(12, 21))
    assert seen(1, 35) == [31, 32, 33, 34, 35]


def test_the_memory_of_blocks_is_linear_in_the_row():
    def temporaries(length: int) -> int:
        heads = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        segments = np.ones((1, length), np.int32)

        def total(query, key, value):
            return jnp.sum(attention(query, key, value, segments, window=16) ** 2)

        program = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*heads).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 4.5 * temporaries(1024)


def test_dropout_by_blocks_keeps_the_mean_over_many_keys():
    heads = [jnp.tile(x[:1], (1, 2, 1, 1)) for x in _heads()]
    segments = np.ones((1, 2 * S), np.int32)

    @jax.jit
    def dropped(key):
        return attention(*heads, segments, dropout_rate=0.3, dropout_key=key, window=2)

    draws = jax.vmap(dropped)(jax.random.split(jax.random.key(0), 4000))
    assert np.std(draws[:, 0, 0, 0, 0]) > 0.05
    error = 5 * np.std(draws, axis=0) / np.sqrt(len(draws)) + 1e-6
    assert (np.abs(np.mean(draws, axis=0) - attention(*heads, segments, window=2)) < error).all()


def _seen_by(row: int, token: int, **options) -> list[int]:
    """The places of a row whose values have a gradient in what one token attends to."""
    query, key, value = _heads()

    def of_token(value):
        return jnp.sum(attention(query, key, value, SEGMENTS, **options)[row, token])

    return np.flatnonzero(np.any(np.asarray(jax.grad(of_token)(value))[row] != 0, axis=(1, 2))).tolist()


def test_causal_attention_sees_the_token_and_earlier_ones_of_its_document():
    assert _seen_by(0, 2, causal=True) == [0, 1, 2]
    assert _seen_by(0, 5, causal=True) == [4, 5]
    assert _seen_by(0, 6, causal=True) == [6]
    assert _seen_by(1, 5, causal=True, window=jnp.int32(2)) == [3, 4, 5]
    assert _seen_by(1, 5) == list(range(S))


def test_causal_padding_gives_finite_values_and_gradients():
    query, key, value = _heads()

    def total(query, key, value):
        return jnp.sum(attention(query, key, value, np.zeros_like(SEGMENTS), causal=True) ** 2)

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(query, key, value):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platform": "cpu"}, "runs on a GPU, not on cpu; or set config.model.attention=xla"),
        ({"dtype": "float32"}, f"{FLOAT32}; or set config.model.attention=xla"),
        ({"dropout": 0.1}, DROPOUT),
        (
            {"dropout": 0.1, "use": Use(dropout_field="config.model.attention_dropout")},
            "which is 0.1: set config.model.attention_dropout=0",
        ),
    ],
)
def test_cudnn_asked_for_where_it_cannot_run_is_refused(changes: dict, message: str):
    with pytest.raises(UserError, match=f"^config.model.attention=cudnn .*{message}"):
        choose("cudnn", dataclasses.replace(NEEDS, **changes))


def test_fine_tuning_names_its_own_field_of_attention_dropout():
    config = parse_config({"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4}, "here")
    with pytest.raises(UserError, match=r"which is 0\.1: set config\.model\.attention_dropout=0; or set"):
        build_encoder(
            dataclasses.replace(config, attention="cudnn"),
            dtype="bfloat16",
            platform="gpu",
            use=Use(dropout_field="config.model.attention_dropout", packed=False),
        )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("implementation", ["xla", "cudnn"])
def test_the_first_tokens_alone_attend_as_they_do_among_all(
    implementation: str, window: int | None, causal: bool
):
    query, key, value = _heads()
    out = attention(
        query[:, :2], key, value, SEGMENTS, implementation=implementation, window=window, causal=causal
    )
    among_all = attention(query, key, value, SEGMENTS, window=window, causal=causal)[:, :2]
    np.testing.assert_allclose(out, among_all, rtol=0, atol=1e-6)

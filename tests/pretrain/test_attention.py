"""Attention: against a loop over documents, with padding, in both types, and which kernel is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from base.errors import UserError
from pretrain.models.attention import attention, resolve

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

    for gradient in jax.grad(total, argnums=(0, 1, 2))(query, key, value):
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


def test_auto_takes_cudnn_only_where_it_computes_the_same():
    assert resolve("auto", "bfloat16", 0.0, "gpu") == "cudnn"
    assert resolve("auto", "float32", 0.0, "gpu") == "xla"
    assert resolve("auto", "bfloat16", 0.1, "gpu") == "xla"
    assert resolve("auto", "bfloat16", 0.0, "cpu") == "xla"
    assert resolve("auto", "bfloat16", 0.0, "tpu") == "xla"
    assert resolve("cudnn", "bfloat16", 0.0, "gpu") == "cudnn"
    assert resolve("xla", "bfloat16", 0.0, "gpu") == "xla"


def test_a_window_hides_what_is_further_away():
    query, key, value = _heads()

    def of_token(value):
        return jnp.sum(attention(query, key, value, SEGMENTS, window=jnp.int32(2))[1, 4])

    seen = np.asarray(jax.grad(of_token)(value))[1]
    assert [bool((row != 0).all()) for row in seen] == [2 <= place <= 6 for place in range(S)]
    assert not np.any(seen[[0, 1, 7, 8]])
    wide = attention(query, key, value, SEGMENTS, window=jnp.int32(S))
    np.testing.assert_array_equal(wide, attention(query, key, value, SEGMENTS))


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

    for gradient in jax.grad(total, argnums=(0, 1, 2))(query, key, value):
        assert np.isfinite(gradient).all()


def test_a_network_with_windows_runs_in_xla():
    assert resolve("auto", "bfloat16", 0.0, "gpu", has_windows=True) == "xla"
    with pytest.raises(UserError, match="has no local windows, which this network's layers have; or set"):
        resolve("cudnn", "bfloat16", 0.0, "gpu", has_windows=True)


@pytest.mark.parametrize(
    ("dtype", "rate", "platform", "message"),
    [
        ("bfloat16", 0.0, "cpu", "runs on a GPU, not on cpu; or set config.model.attention=xla"),
        ("float32", 0.0, "gpu", "needs config.dtype=bfloat16, not float32"),
        (
            "bfloat16",
            0.1,
            "gpu",
            "dropout of attention weights, which is 0.1; set it to 0 .config.model.attention_probs_dropout_prob",
        ),
    ],
)
def test_cudnn_asked_for_where_it_cannot_run_is_refused(dtype: str, rate: float, platform: str, message: str):
    with pytest.raises(UserError, match=message):
        resolve("cudnn", dtype, rate, platform)


def test_cudnn_is_asked_for_the_attention_that_xla_computes(monkeypatch: pytest.MonkeyPatch):
    """Without a GPU, jax's own XLA implementation stands in for the kernel, behind the same call."""
    kernel, asked = jax.nn.dot_product_attention, []

    def stand_in(query, key, value, *, mask, implementation):
        asked.append(implementation)
        return kernel(query, key, value, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    heads = _heads("bfloat16")
    expected = np.asarray(attention(*heads, SEGMENTS), np.float32)
    actual = np.asarray(attention(*heads, SEGMENTS, implementation="cudnn"), np.float32)
    assert asked == ["cudnn"]
    np.testing.assert_allclose(actual, expected, atol=0.02)


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

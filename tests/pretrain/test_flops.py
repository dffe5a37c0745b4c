"""FLOPs against a hand count and against the matrix products in the traced gradient of small networks."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pretrain.devices.flops import StepWork, causal_pairs, forward_flops, pairs_of_documents, seen_pairs
from pretrain.models import EncoderConfig, build, build_encoder
from pretrain.models.attention import Sight
from pretrain.models.huggingface import parse_config

SEGMENTS = np.asarray([[1, 1, 1, 2, 2, 0, 0, 0], [1] * 8, [0] * 8, [1, 2, 2, 2, 2, 2, 3, 3]], np.int32)


def test_seen_pairs_keep_documents_apart_and_leave_out_padding():
    np.testing.assert_array_equal(seen_pairs(SEGMENTS), [9 + 4, 64, 0, 1 + 25 + 4])
    np.testing.assert_array_equal(seen_pairs(np.zeros((2, 4), np.int32)), [0, 0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 2, 3, 7, 100])
def test_seen_pairs_are_those_of_the_attention_mask(window: int, causal: bool):
    sight = Sight(jnp.asarray(SEGMENTS), jnp.int32(window) if window else None, causal)
    inside = (SEGMENTS > 0)[:, :, None]
    seen = seen_pairs(SEGMENTS, (window,))
    counted = causal_pairs(seen, np.sum(SEGMENTS > 0, axis=1)) if causal else seen
    np.testing.assert_array_equal(counted, np.sum(np.asarray(sight.mask(8))[:, 0] & inside, axis=(1, 2)))


def test_layers_that_differ_are_a_mean():
    assert pairs_of_documents(8) == 64
    # A window of 1: 8 tokens see themselves and, but for the ends, two others.
    assert pairs_of_documents(8, (0, 1, 1)) == (64 + 22 + 22) / 3
    np.testing.assert_array_equal(pairs_of_documents(np.array([0, 1, 2]), (1,)), [0, 1, 4])


@pytest.mark.parametrize(("gated", "embedding"), [(False, 0), (True, 0), (False, 4), (True, 4)])
def test_forward_flops_by_hand(gated: bool, embedding: int):
    # One layer of width 2, feed-forward 3, 5 tokens in documents of 3 and 2, 1 prediction over 7 words.
    shape = SimpleNamespace(
        hidden_size=2,
        num_hidden_layers=1,
        narrow_layers=0,
        intermediate_size=3,
        vocab_size=7,
        embedding_size=embedding,
        is_gated=gated,
        num_attention_heads=1,
        key_value_heads=1,
        relative_terms=None,
    )
    projections = 5 * 4 * (2 * 2)
    feed_forward = 5 * (2 + gated) * (2 * 3)
    attention = 2 * (3 * 3 + 2 * 2) * 2
    head = 2 * (embedding or 2) + (embedding or 2) * 7
    widened = 5 * embedding * 2
    flops = forward_flops(shape, tokens=5, attended=13, predictions=1)
    assert flops == 2 * (projections + feed_forward + attention + head + widened)
    assert StepWork(shape).flops(tokens=5, attended=13, predictions=1) == 3 * flops


def products(jaxpr):
    """FLOPs of all matrix products in a jaxpr, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += repeats * products(inner)
    return total


def test_step_flops_are_the_matrix_products_of_the_traced_gradient():
    config = EncoderConfig(
        model_type="roberta", vocab_size=50, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=20, hidden_act="gelu", max_position_embeddings=16, type_vocab_size=1,
        layer_norm_eps=1e-5, initializer_range=0.02, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, tie_word_embeddings=True, pad_token_id=1,
    )  # fmt: skip
    model = build(config)
    B, S, K = 3, 10, 4
    tokens = jnp.ones((B, S), jnp.int32)
    chosen = jnp.zeros((B, K, 1), jnp.int32)

    def loss(params):
        hidden = model.encode(params, tokens, tokens, tokens)
        picked = jnp.take_along_axis(hidden, chosen, axis=1)
        return jnp.sum(jax.nn.logsumexp(model.predict(params, picked), axis=-1))

    traced = products(jax.make_jaxpr(jax.grad(loss))(model.shapes()).jaxpr)
    # The head adds its bias, and sums its gradient, as products with ones, which the objective does not need.
    with_ones = 2 * (2 * B * K * config.vocab_size)
    assert StepWork(config).flops(tokens=B * S, attended=B * S * S, predictions=B * K) == traced - with_ones


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "modernbert", "global_attn_every_n_layers": 1, "pad_token_id": 0},
        {"model_type": "electra", "embedding_size": 12},
    ],
    ids=["gated", "narrow embeddings"],
)
def test_flops_of_other_networks_are_the_matrix_products_of_their_traced_gradient(values: dict):
    config = parse_config(
        {
            "vocab_size": 50,
            "hidden_size": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "max_position_embeddings": 16,
            **values,
        },
        "here",
    )
    encoder, (B, S) = build_encoder(config), (3, 10)
    tokens = jnp.ones((B, S), jnp.int32)

    def loss(params):
        return jnp.sum(encoder.encode(params, tokens, tokens, tokens))

    traced = products(jax.make_jaxpr(jax.grad(loss))(encoder.shapes()).jaxpr)
    assert config.is_gated == (values["model_type"] == "modernbert")
    counted = StepWork(config).flops(tokens=B * S, attended=B * S * S, predictions=0)
    assert counted == traced


def test_a_windowed_layer_costs_what_its_window_holds():
    values = {"model_type": "modernbert", "local_attention": 4, "num_hidden_layers": 3, "pad_token_id": 0}
    config = parse_config({**values, "vocab_size": 50, "num_attention_heads": 12}, "here")
    assert config.windows == (0, 2, 2)
    work, width = StepWork(config), config.hidden_size

    def attention(windows: tuple[int, ...]) -> float:
        pairs = float(pairs_of_documents(100, windows))
        return work.flops(tokens=0, attended=pairs, predictions=0)

    # Of 100 tokens each sees 5, but for two at either end, which see 3 and 4.
    windowed = 100 * 5 - 2 * (1 + 2)
    assert attention(config.windows) == 3 * 2 * (2 * width) * (100**2 + 2 * windowed)
    assert attention(()) == 3 * 2 * (2 * width) * 3 * 100**2

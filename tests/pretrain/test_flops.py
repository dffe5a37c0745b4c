"""FLOPs against a hand count and against the matrix products in the traced gradient of a small network."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from pretrain.devices.flops import StepWork, forward_flops, squared_segment_lengths
from pretrain.models import EncoderConfig, build


def test_squared_lengths_keep_documents_apart_and_leave_out_padding():
    segments = np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], np.int32)
    np.testing.assert_array_equal(squared_segment_lengths(segments), [9 + 4, 36, 0])
    np.testing.assert_array_equal(squared_segment_lengths(np.zeros((2, 4), np.int32)), [0, 0])


def test_forward_flops_by_hand():
    # One layer of width 2, feed-forward 3, 5 tokens in documents of 3 and 2, 1 prediction over 7 words.
    shape = SimpleNamespace(hidden_size=2, num_hidden_layers=1, intermediate_size=3, vocab_size=7)
    projections = 5 * 4 * (2 * 2)
    feed_forward = 5 * 2 * (2 * 3)
    attention = 2 * (3 * 3 + 2 * 2) * 2
    head = 2 * 2 + 2 * 7
    flops = forward_flops(shape, tokens=5, attended=13, predictions=1)
    assert flops == 2 * (projections + feed_forward + attention + head)
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

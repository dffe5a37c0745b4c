"""Networks whose layers take turns: windows by blocks give what windows written out give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.models import build_encoder
from pretrain.models.encoder import _Order
from pretrain.models.huggingface import parse_config

CONFIG = parse_config(
    {
        "model_type": "modernbert",
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "local_attention": 8,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
    },
    "here",
)
B, S = 2, 38
"""A row, in which windows of 4 to each side hide much."""


@pytest.mark.parametrize(
    ("kinds", "turn"),
    [("xxxx", 1), ("abbabb", 3), ("abbab", 3), ("ab", 2), ("a", 1), ("aab", 3), ("abcd", 4)],
)
def test_the_turn_is_the_shortest_that_repeats(kinds: str, turn: int):
    assert _Order.of([{"kind": kind} for kind in kinds], len(kinds), 1).turn == turn


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, None),
        ({}, 1),
        ({"num_hidden_layers": 5, "remat": "full"}, None),
        ({"num_hidden_layers": 2, "scan_unroll": 0}, 5),
    ],
)
def test_windows_by_blocks_give_the_states_and_gradients_of_windows_written_out(
    changes: dict, first: int | None
):
    fields = dict(changes)
    config = CONFIG.with_layers(fields.pop("num_hidden_layers", CONFIG.num_hidden_layers))
    config = dataclasses.replace(config, **fields)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(5, 64, (B, S)), jnp.int32)
    segments = jnp.asarray(np.stack([np.repeat([1, 2, 0], [20, 12, 6]), np.ones(S)]), jnp.int32)
    positions = jnp.asarray(np.stack([np.r_[:20, :12, :6], np.arange(S)]), jnp.int32)
    inside = (segments[:, :first] > 0)[..., None]

    def states_and_gradients(kernel: str):
        encoder = build_encoder(dataclasses.replace(config, attention=kernel), platform="cpu")
        assert encoder.kernel.by_blocks == (kernel == "auto")
        params = jax.tree.map(lambda leaf: 8 * leaf, encoder.init(jax.random.key(1)))  # so that layers matter

        def total(params):
            states = encoder.encode(params, tokens, segments, positions, first=first) * inside
            return jnp.sum(jnp.sin(states)), states

        gradients, states = jax.jit(jax.grad(total, has_aux=True))(params)
        return states, gradients

    (states, gradients), (wanted, reference) = states_and_gradients("auto"), states_and_gradients("xla")
    np.testing.assert_allclose(states, wanted, atol=1e-5)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(reference))
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-5 * scale), gradients, reference
    )


def test_rows_shorter_than_the_blocks_are_written_out():
    encoder = build_encoder(CONFIG, platform="cpu")
    assert encoder.kernel.by_blocks
    assert encoder._known(12) == [{}] * 6
    assert [kind["window"] for kind in encoder._known(13)] == [None, 4, 4, None, 4, 4]

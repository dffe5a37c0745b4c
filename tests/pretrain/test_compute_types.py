"""Every family traced in bfloat16, with dropout, predicted tokens and recomputation: its types and shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.models import build, families
from pretrain.models.huggingface import encoder_config, parse_config

SPECIAL = SpecialTokens(0, 2, 1, 4, 3)
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
XLARGE = {
    "model_type": "deberta-v2",
    "vocab_size": 60,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "conv_kernel_size": 3,
    **SIZES,
}


def network(family: str):
    if family == "a convolution":
        return parse_config(XLARGE, "here")
    return encoder_config(ModelConfig(family=family, **SIZES), 60, SPECIAL)


NETWORKS = [name for name in families.pretrained() if not families.get(name).runs_as]


@pytest.mark.parametrize("family", [*NETWORKS, "a convolution"])
def test_hidden_states_have_the_compute_type_and_logits_are_float32(family: str):
    config = dataclasses.replace(network(family), narrow_layers=1, remat="full")
    model = build(config, dtype="bfloat16")
    rows, key = jax.ShapeDtypeStruct((2, 16), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    places = jax.ShapeDtypeStruct((2, 5), jnp.int32)

    def loss(params, tokens, segments, positions, predicted, key):
        hidden = model.encode(params, tokens, segments, positions, dropout_key=key, predicted=predicted)
        logits = model.predict(params, hidden)
        assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
        assert (hidden.shape, logits.shape[:2]) == ((2, 5, 32), (2, 5))
        return jnp.sum(logits)

    gradients = jax.eval_shape(jax.grad(loss), model.shapes(), rows, rows, rows, places, key)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradients) == jax.tree.map(
        lambda leaf: (leaf.shape, jnp.dtype("float32")), model.shapes()
    )
    first = jax.eval_shape(
        lambda *given: model.encoder.encode(*given, first=1), model.shapes(), rows, rows, rows
    )
    assert (first.shape, first.dtype) == ((2, 1, 32), jnp.bfloat16)

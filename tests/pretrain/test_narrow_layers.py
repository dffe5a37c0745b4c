"""Layers that compute the predicted tokens alone (model.narrow_layers)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.devices.flops import forward_flops
from pretrain.models import build
from pretrain.models.huggingface import encoder_config
from pretrain.train import train
from tests.tiny import on_one_device, tiny_config, write_corpus

SPECIAL = SpecialTokens(0, 2, 1, 4, 3)
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 34,
    "initializer_range": 0.3,
}
SEGMENTS = np.array([[1] * 12 + [2] * 15 + [0] * 5, [1] * 32], np.int32)
POSITIONS = np.array([[*range(12), *range(15), *range(5)], [*range(32)]], np.int32)
PREDICTED = np.array([[0, 3, 11, 12, 20, 26], [31, 30, 2, 2, 9, 16]], np.int32)
TOKENS = np.random.default_rng(0).integers(5, 60, (2, 32)).astype(np.int32)


def network(family, narrow):
    own = {"local_attention": 6, "global_attn_every_n_layers": 2} if family == "modernbert" else {}
    config = encoder_config(ModelConfig(family=family, **SIZES, **own), 60, SPECIAL)
    return build(dataclasses.replace(config, narrow_layers=narrow))


def params_of(model):
    """Random params of every kind, norms and biases too."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.3, 0.3, leaf.shape), jnp.float32), model.shapes()
    )


def picked(x):
    return jnp.take_along_axis(x, PREDICTED[:, :, None], axis=1)


@pytest.mark.parametrize(
    "family", ["roberta", "modernbert", "albert", "mpnet", "deberta-v2", "eurobert", "nomic_bert"]
)
def test_one_narrow_layer_changes_neither_hidden_states_nor_gradients(family):
    """Documents share rows; of modernbert, the last layer sees a window of 3 to each side."""
    narrow, whole = network(family, 1), network(family, 0)
    params = params_of(whole)

    def sums(params, model, **given):
        hidden = model.encode(params, TOKENS, SEGMENTS, POSITIONS, **given)
        hidden = hidden if given else picked(hidden)
        return jnp.sum(jnp.sin(hidden)), hidden

    @jax.jit
    def both(params):
        return (
            jax.grad(sums, has_aux=True)(params, narrow, predicted=PREDICTED),
            jax.grad(sums, has_aux=True)(params, whole),
            sums(params, whole, predicted=PREDICTED)[1],
        )

    (mine, ours), (reference, expected), few = both(params)
    np.testing.assert_allclose(few, expected, rtol=1e-6, atol=1e-6)
    assert ours.shape == (2, 6, 16)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), mine, reference)


def test_more_narrow_layers_read_what_the_layers_before_them_give():
    """As in NarrowBERT's SparseQueries: keys and values of all of them are those of the last whole layer."""
    model = network("roberta", 2)
    params = params_of(model)
    ours = jax.jit(lambda params: model.encode(params, TOKENS, SEGMENTS, POSITIONS, predicted=PREDICTED))(
        params
    )
    below = build(dataclasses.replace(model.config.with_layers(2), narrow_layers=0))
    first = {**params, "layers": jax.tree.map(lambda leaf: leaf[:2], params["layers"])}
    context = np.asarray(jax.jit(below.encode)(first, TOKENS, SEGMENTS, POSITIONS), np.float64)
    hidden = np.take_along_axis(context, PREDICTED[:, :, None], 1)
    for layer in (2, 3):
        hidden = by_hand(
            jax.tree.map(lambda leaf, at=layer: np.asarray(leaf[at], np.float64), params["layers"]),
            hidden,
            context,
        )
    np.testing.assert_allclose(ours, hidden, rtol=2e-4, atol=2e-4)


def by_hand(layer, hidden, context):
    """A layer of RoBERTa (post-norm) for some tokens, in float64."""

    def norm(x, by):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * by["scale"] + by["bias"]

    def heads(name, x):
        return (
            np.einsum("bsd,dnh->bsnh", x, layer["attention"][name]["kernel"])
            + layer["attention"][name]["bias"]
        )

    scores = np.einsum("bqnh,bsnh->bnqs", heads("query", hidden), heads("key", context)) / np.sqrt(8)
    seen = np.take_along_axis(SEGMENTS, PREDICTED, 1)[:, None, :, None] == SEGMENTS[:, None, None, :]
    weights = np.exp(np.where(seen, scores - scores.max(-1, keepdims=True), -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("bnqs,bsnh->bqnh", weights, heads("value", context))
    output = layer["attention"]["output"]
    hidden = norm(
        hidden + np.einsum("bqnh,nhd->bqd", attended, output["kernel"]) + output["bias"],
        layer["attention_norm"],
    )
    inner = jax.nn.gelu(
        jnp.asarray(hidden @ layer["up"]["kernel"] + layer["up"]["bias"], jnp.float32), approximate=False
    )
    down = np.asarray(inner, np.float64) @ layer["down"]["kernel"] + layer["down"]["bias"]
    return norm(hidden + down, layer["feed_forward_norm"])


def test_evaluations_and_callers_that_want_all_tokens_run_whole_layers():
    model = network("roberta", 3)
    assert (
        model.evaluated().config.narrow_layers == 1 == network("roberta", 1).evaluated().config.narrow_layers
    )
    assert model.encode(params_of(model), TOKENS, SEGMENTS, POSITIONS).shape == (2, 32, 16)


def test_a_run_has_the_same_losses_with_one_narrow_layer_on_any_mesh(tmp_path):
    corpus = write_corpus(tmp_path / "text.txt")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def losses(name, narrow, **changes):
        model = {**still, "narrow_layers": narrow}
        outcome = train(
            tiny_config(corpus, steps=2, model=model, eval={"every": 2}, **changes),
            epath.Path(tmp_path / name),
        )
        return [outcome.metrics[name] for name in ("train/loss", "eval/loss")]

    spread = losses("mesh", 1, mesh={"data": 2, "fsdp": 2, "tensor": 2})
    with on_one_device():
        np.testing.assert_allclose(losses("one", 1), spread, rtol=1e-5)
        np.testing.assert_allclose(losses("whole", 0), spread, rtol=1e-5)


def test_the_arithmetic_leaves_out_what_is_not_computed():
    whole, narrow = (network("roberta", each).config for each in (0, 1))
    given = {"tokens": 100.0, "attended": 3000.0, "predictions": 20.0}
    spared = forward_flops(whole, **given) - forward_flops(narrow, **given)
    D, F = 16, 24
    assert spared == 2 * (80 * (2 * D * D + 2 * D * F) + 0.8 * 3000 * 2 * D)
    given["predictions"] = 100.0  # causal: all are predicted
    assert forward_flops(whole, **given) == forward_flops(narrow, **given)


def test_at_least_one_layer_is_whole():
    with pytest.raises(
        UserError, match=r"narrow_layers=4 should be 0 \(none\) or more, and less than num_hidden_layers=4"
    ):
        network("roberta", 4)

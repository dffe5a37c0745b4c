"""A larger network from a smaller one: which element goes where."""

import dataclasses

import jax
import numpy as np
import pytest

from base.errors import UserError
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.models import build
from pretrain.models.huggingface import config_dict, encoder_config, parse_config
from pretrain.models.tiling import centred, enlarged, repeated, tiled

SPECIAL = SpecialTokens(0, 2, 1, 4, 3)
SMALL = {"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 3}
LARGE = {"hidden_size": 6, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 5}
LAYERS, WIDTH, HEADS, INNER = [0, 1, 1], [3, 0, 1, 2, 3, 0], [0, 1, 0], [2, 0, 1, 2, 0]
"""Where each element of LARGE comes from."""


def small(family="roberta", **sizes):
    model = ModelConfig(family=family, max_position_embeddings=8, vocab_multiple=1, **{**SMALL, **sizes})
    return encoder_config(model, 7, SPECIAL)


def numbered(config):
    """Params of which no two elements are equal."""
    leaves, tree = jax.tree.flatten(build(config).shapes())
    ends = np.cumsum([leaf.size for leaf in leaves])
    whole = np.arange(ends[-1], dtype=np.float32)
    return jax.tree.unflatten(
        tree, [whole[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends)]
    )


def taken(array, *sources):
    """The elements of an array, given by their places on each axis; None is the whole axis."""
    for axis, places in enumerate(sources):
        array = array if places is None else np.take(array, places, axis)
    return array


def test_layers_are_those_of_the_published_method():
    assert repeated(2, 5).tolist() == [0, 0, 1, 1, 1]
    assert repeated(3, 3).tolist() == [0, 1, 2]
    modernbert = repeated(22, 28).tolist()  # from base to large
    assert modernbert == [round(layer * 22 / 28) for layer in range(28)]
    assert modernbert[:5] == [0, 1, 2, 2, 3] and modernbert[-1] == 21


def test_an_axis_lies_in_the_middle_and_repeats_to_both_sides():
    assert centred(3, 7).tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert centred(3, 4).tolist() == [0, 1, 2, 0]
    assert centred(2, 7).tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert centred(768, 1024)[[0, 127, 128, 895, 896]].tolist() == [640, 767, 0, 767, 0]


def test_every_array_of_roberta_goes_where_it_should():
    before, config = numbered(small()), small()
    after = tiled(config, before, enlarged(config, LARGE))
    expected = {
        "embeddings": {
            "word": taken(before["embeddings"]["word"], None, WIDTH),
            "position": taken(before["embeddings"]["position"], None, WIDTH),
            "token_type": taken(before["embeddings"]["token_type"], None, WIDTH),
            "norm": jax.tree.map(lambda array: taken(array, WIDTH), before["embeddings"]["norm"]),
        },
        "layers": {
            "attention": {
                **{
                    name: {
                        "kernel": taken(kernels["kernel"], LAYERS, WIDTH, HEADS),
                        "bias": taken(kernels["bias"], LAYERS, HEADS),
                    }
                    for name, kernels in before["layers"]["attention"].items()
                    if name != "output"
                },
                "output": {
                    "kernel": taken(
                        before["layers"]["attention"]["output"]["kernel"], LAYERS, HEADS, None, WIDTH
                    ),
                    "bias": taken(before["layers"]["attention"]["output"]["bias"], LAYERS, WIDTH),
                },
            },
            "up": {
                "kernel": taken(before["layers"]["up"]["kernel"], LAYERS, WIDTH, INNER),
                "bias": taken(before["layers"]["up"]["bias"], LAYERS, INNER),
            },
            "down": {
                "kernel": taken(before["layers"]["down"]["kernel"], LAYERS, INNER, WIDTH),
                "bias": taken(before["layers"]["down"]["bias"], LAYERS, WIDTH),
            },
            **{
                name: jax.tree.map(lambda array: taken(array, LAYERS, WIDTH), before["layers"][name])
                for name in ("attention_norm", "feed_forward_norm")
            },
        },
        "head": {
            "dense": {
                "kernel": taken(before["head"]["dense"]["kernel"], WIDTH, WIDTH),
                "bias": taken(before["head"]["dense"]["bias"], WIDTH),
            },
            "norm": jax.tree.map(lambda array: taken(array, WIDTH), before["head"]["norm"]),
            "bias": before["head"]["bias"],
        },
    }
    jax.tree.map(np.testing.assert_array_equal, after, expected)


def test_query_key_and_value_and_the_gate_are_tiled_apart():
    config = small("modernbert")
    before = numbered(config)
    after = tiled(config, before, enlarged(config, LARGE))
    attention, feed_forward = (before["layers"][name] for name in ("attention", "feed_forward"))
    np.testing.assert_array_equal(
        after["layers"]["attention"]["query_key_value"]["kernel"],
        taken(attention["query_key_value"]["kernel"], LAYERS, WIDTH, None, HEADS),
    )
    np.testing.assert_array_equal(
        after["layers"]["feed_forward"]["up"]["kernel"],
        taken(feed_forward["up"]["kernel"], LAYERS, WIDTH, None, INNER),
    )
    np.testing.assert_array_equal(
        after["layers"]["feed_forward"]["down"]["kernel"],
        taken(feed_forward["down"]["kernel"], LAYERS, INNER, WIDTH),
    )
    assert after["final"]["norm"]["scale"].tolist() == taken(before["final"]["norm"]["scale"], WIDTH).tolist()


@pytest.mark.parametrize(
    ("family", "within"), [("roberta", [3, 0, 1, 2, 3, 0]), ("modernbert", [0, 1, 0, 2, 3, 2])]
)
def test_heads_that_become_wider_keep_their_rotated_pairs(family, within):
    config = small(family, hidden_size=8)
    wide = enlarged(config, {**SMALL, "hidden_size": 12})
    before = numbered(config)
    after = tiled(config, before, wide)
    np.testing.assert_array_equal(
        after["layers"]["attention"]["output"]["kernel"],
        taken(before["layers"]["attention"]["output"]["kernel"], None, None, within, centred(8, 12)),
    )


def test_the_larger_network_has_the_fields_of_the_smaller_one():
    values = config_dict(small("modernbert", num_hidden_layers=3)) | {"norm_bias": True, "local_attention": 6}
    config = parse_config(values, "here")
    wide = enlarged(config, {**LARGE, "num_hidden_layers": 5})
    assert wide.own == dataclasses.replace(
        config.own, layer_types=(*config.own.layer_types, *config.own.layer_types[:2])
    )
    assert (wide.num_hidden_layers, wide.hidden_size, wide.vocab_size) == (5, 6, 7)
    assert wide.windows == (0, 3, 3, 0, 3)


@pytest.mark.parametrize(
    ("family", "embedding", "wide"),
    [("electra", 4, 6), ("electra", 2, 2), ("albert", 4, 4), ("bert", None, 0)],
)
def test_embeddings_as_wide_as_the_network_stay_so_unless_they_are_projected_anyway(family, embedding, wide):
    config = small(family, embedding_size=embedding) if embedding else small(family)
    larger = enlarged(config, LARGE)
    assert larger.embedding_size == wide
    after = tiled(config, numbered(config), larger)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, build(larger).shapes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 2}, "hidden_size=2 should be 4 or more, as in init_from"),
        ({"num_hidden_layers": 1}, "num_hidden_layers=1 should be 2 or more"),
        ({"num_attention_heads": 6}, r"num_attention_heads=6 should be 3 or less: heads of init_from have a width"),
        ({"num_attention_heads": 4}, r"hidden_size=6 should be a multiple of num_attention_heads=4"),
    ],
)  # fmt: skip
def test_a_network_that_is_not_larger_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        enlarged(small(), {**LARGE, **changes})


def test_kinds_of_layers_without_a_rule_do_not_go_on():
    values = config_dict(small("modernbert", num_hidden_layers=3))
    values["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    with pytest.raises(UserError, match=r"num_hidden_layers=4 should be 3: the global layers"):
        enlarged(parse_config(values, "here"), {**LARGE, "num_hidden_layers": 4})


def test_heads_that_share_a_key_stay_together():
    def network(key_heads):
        values = {
            "model_type": "eurobert",
            "hidden_size": 8,
            "num_attention_heads": 4,
            "num_hidden_layers": 1,
        }
        return parse_config({**values, "num_key_value_heads": key_heads}, "here")

    def with_heads(key_heads, heads):
        sizes = {"hidden_size": 2 * heads, "num_hidden_layers": 1, "num_attention_heads": heads}
        return enlarged(
            network(key_heads), sizes | {"intermediate_size": network(key_heads).intermediate_size}
        )

    assert with_heads(2, 8).key_value_heads == 4 and with_heads(None, 6).key_value_heads == 6
    own_key = [head // 2 for head in centred(4, 8)]
    assert own_key == [centred(2, 4)[head // 2] for head in range(8)]
    with pytest.raises(
        UserError, match=r"num_attention_heads=6 should be 4 and a multiple of 4 more: 2 heads"
    ):
        with_heads(2, 6)

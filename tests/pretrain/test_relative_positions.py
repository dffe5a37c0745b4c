"""Relative positions: pairs by distance, the buckets of transformers, the kernels that cannot take them, refusals."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.deberta_v2 import modeling_deberta_v2
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from base.errors import UserError
from pretrain.models import build, relative
from pretrain.models.attention import AUTO, KERNELS, NOTHING_KNOWN, Needs, Use, choose
from pretrain.models.families.deberta_v2 import network as deberta
from pretrain.models.families.mpnet import network as mpnet
from pretrain.models.huggingface import parse_config
from pretrain.models.kernels.sight import Chosen

V3 = {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
}


@pytest.mark.parametrize(("queries", "length"), [(1, 1), (1, 5), (3, 5), (4, 5), (5, 5)])
def test_each_pair_has_the_element_of_its_distance(queries: int, length: int):
    by_distance = np.random.default_rng(0).normal(size=(2, 3, queries, 2 * length - 1)).astype(np.float32)
    found = relative.of_pairs(jnp.asarray(by_distance))
    for query in range(queries):
        for key in range(length):
            column = list(relative.distances(length)).index(key - query)
            np.testing.assert_array_equal(found[:, :, query, key], by_distance[:, :, query, column])


def test_chosen_queries_have_the_distances_of_their_places():
    length, places = 6, np.array([[5, 0, 2], [1, 1, 4]])
    by_distance = np.random.default_rng(0).normal(size=(2, 3, 3, 2 * length - 1)).astype(np.float32)
    found = relative.of_pairs(jnp.asarray(by_distance), Chosen(jnp.zeros((2, 3, 4)), jnp.asarray(places)))
    for row in range(2):
        for query, place in enumerate(places[row]):
            columns = [length - 1 + key - place for key in range(length)]
            np.testing.assert_array_equal(found[row, :, query], by_distance[row, :, query][:, columns])


def test_mpnets_buckets_are_those_of_transformers():
    distances = relative.distances(700)
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(distances), num_buckets=32)
    np.testing.assert_array_equal(mpnet.buckets(distances), expected.numpy())


@pytest.mark.parametrize(
    ("own", "length"),
    [
        ({}, 700),
        ({"position_buckets": 32, "max_relative_positions": 128}, 300),
        ({"position_buckets": -1, "max_relative_positions": 20}, 50),
    ],
)
def test_debertas_rows_are_those_of_transformers(own: dict[str, int], length: int):
    config = parse_config({**V3, **own}, "here")
    span, farthest = deberta.span(config), deberta.farthest(config)
    query = torch.zeros(1, length, 1)
    pairs = modeling_deberta_v2.build_relative_position(
        query, query, bucket_size=config.own.position_buckets, max_position=farthest
    )
    expected = torch.clamp(pairs[0] + span, 0, 2 * span - 1).numpy()  # of query and key
    rows = deberta.buckets(relative.distances(length), config)
    ours = [rows[length - 1 - query : 2 * length - 1 - query] for query in range(length)]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("platform", "faster"), [("tpu", "splash"), ("gpu", "triton"), ("cpu", "chunked")])
def test_a_network_with_relative_positions_runs_the_reference_and_the_choice_says_why(
    platform: str, faster: str
):
    config = parse_config({**V3, "attention_probs_dropout_prob": 0.0}, "here")
    needs = Needs.of(config, "bfloat16", platform, Use(row_lengths=(4096,)))
    choice = choose(AUTO, needs)
    assert choice.name == "xla"
    assert (
        f"{faster} " in str(choice)
        and "does not add relative positions to the scores" in choice.refused[faster]
    )
    with pytest.raises(
        UserError, match=rf"attention={faster} .*does not add rel.*or set config.model.attention=xla$"
    ):
        choose(faster, needs)
    plain = dataclasses.replace(needs, relative=False)
    assert "relative" not in str(choose(AUTO, plain)) and set(KERNELS) > {faster}


def test_a_convolution_refuses_to_learn_from_the_left_alone():
    config = parse_config({**V3, "conv_kernel_size": 3}, "here")
    build(config, use=NOTHING_KNOWN)
    with pytest.raises(UserError, match=r"config.objective.name=clm: the convolution of this model"):
        build(config, use=Use(causal=True))


def test_null_is_a_field_that_is_left_out_where_transformers_reads_it_so():
    nulls = {"share_att_key": None, "conv_act": None, "conv_groups": None, "pos_att_type": None}
    assert parse_config({**V3, **nulls}, "here") == parse_config(
        {name: value for name, value in V3.items() if name not in nulls}, "here"
    )


REFUSED = [
    ({**V3, "conv_kernel_size": 4}, "conv_kernel_size=4 should be odd, or 0 for no convolution"),
    ({**V3, "conv_kernel_size": 3, "conv_groups": 5}, "conv_groups=5 should divide hidden_size=32"),
    ({**V3, "conv_act": "swish"}, "conv_act='swish'; known are gelu"),
    ({**V3, "pos_att_type": ["p2p"]}, "pos_att_type=['p2p'] should be a list of c2p and p2c"),
    ({**V3, "pos_att_type": 3}, "pos_att_type=3 should be a list of c2p and p2c"),
    ({**V3, "position_buckets": 2}, "position_buckets=2 should be 4 or more, or -1 for none"),
    ({**V3, "position_buckets": 10**9}, "position_buckets=1000000000 should be 1,000,000 or less"),
    ({**V3, "position_buckets": None}, "position_buckets is null, and should be of type int; leave it out for -1"),
    ({**V3, "norm_rel_ebd": None}, "norm_rel_ebd is null, and should be of type str; leave it out for 'none'"),
    ({**V3, "pooler_hidden_size": 16}, "pooler_hidden_size=16, but by its other fields it is 32"),
    ({**V3, "embedding_size": "x"}, "embedding_size='x' should be a number from 1 on"),
    ({**V3, "cls_dropout": "x"}, "cls_dropout='x' should be a number"),
    ({**V3, "legacy": False, "tie_word_embeddings": False}, "legacy=False needs tie_word_embeddings=True"),
    ({"model_type": "mpnet", "pad_token_id": 0}, "pad_token_id=0; only 1 is known for mpnet"),
    ({"model_type": "mpnet", "relative_attention_num_buckets": 8}, "relative_attention_num_buckets=8; only 32 is"),
    ({"model_type": "albert", "num_hidden_groups": 13}, "num_hidden_groups=13 should be from 1 to num_hidden_layers"),
    ({"model_type": "albert", "inner_group_num": 2}, "inner_group_num=2; only 1 is known"),
    ({"model_type": "eurobert", "num_key_value_heads": 5}, "num_attention_heads=12 should be a multiple of num_key_v"),
    ({"model_type": "eurobert", "num_key_value_heads": 0}, "num_key_value_heads=0 should be 1 or more"),
    ({"model_type": "eurobert", "head_dim": 32}, "head_dim=32, but by its other fields it is 64"),
    ({"model_type": "eurobert", "rope_theta": -1}, "rope_theta=-1 should be a number above 0"),
    ({"model_type": "nomic_bert", "rope_scaling": {"type": "linear"}}, "rope_parameters={'type': 'linear'}; only rop"),
    ({"model_type": "nomic_bert", "rope_parameters": [1]}, "rope_parameters=[1] should be an object"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_config_json_that_is_no_network_of_transformers_is_one_line(
    values: dict[str, object], message: str
):
    with pytest.raises(UserError, match="^here: " + re.escape(message)) as error:
        parse_config(values, "here")
    assert "\n" not in str(error.value)


def test_eurobert_has_no_dropout_of_hidden_states():
    config = parse_config({"model_type": "eurobert"}, "here")
    assert config.with_hidden_dropout(0.0).hidden_dropout == 0.0
    with pytest.raises(
        UserError, match=r"hidden_dropout_prob=0\.1: eurobert has no dropout of hidden states"
    ):
        config.with_hidden_dropout(0.1)

"""What ModernBERT's config.json says of each layer: both of its forms, and what is refused."""

import json

import pytest
import transformers

from base.errors import UserError
from pretrain.models.huggingface import config_dict, parse_config

OLD_MODERNBERT = {
    "model_type": "modernbert",
    "num_hidden_layers": 5,
    "global_attn_every_n_layers": 2,
    "local_attention": 64,
    "global_rope_theta": 500.0,
    "local_rope_theta": 50.0,
}


def test_modernbert_is_read_as_older_releases_wrote_it_too():
    theirs = transformers.AutoConfig.for_model(**OLD_MODERNBERT)
    assert theirs.layer_types == ["full_attention", "sliding_attention"] * 2 + ["full_attention"]
    old = parse_config(OLD_MODERNBERT, "here")
    assert parse_config(json.loads(theirs.to_json_string(use_diff=False)), "here") == old
    assert old.own.windows == (0, 32, 0, 32, 0)
    assert old.own.thetas == (500.0, 50.0, 500.0, 50.0, 500.0)


def test_a_theta_in_rope_scaling_is_that_of_all_layers():
    values = {**OLD_MODERNBERT, "rope_scaling": {"rope_type": "default", "rope_theta": 7.0}}
    theirs = transformers.AutoConfig.for_model(**values).rope_parameters
    assert {kind["rope_theta"] for kind in theirs.values()} == {7.0}
    assert set(parse_config(values, "here").own.thetas) == {7.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layer_types": ["full_attention"]},
            "should be a list of 22 times 'full_attention' or 'sliding_attention'",
        ),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers=0 should be 1 or more"),
        ({"local_attention": 1}, "local_attention=1 should be 2 or more"),
        ({"local_rope_theta": 0.0}, "local_rope_theta=0.0 should be a number above 0"),
        (
            {"rope_scaling": {"rope_type": "yarn"}},
            "rope_scaling has rope_type='yarn'; only 'default' is known",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling has rope_type='linear'; only 'default' is known",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' should be an object"),
        ({"rope_parameters": [1]}, "rope_parameters=[1] should be an object"),
        ({"layer_types": [["full_attention"]] * 22}, "should be a list of 22 times"),
        ({"sliding_window": 3}, "sliding_window=3, but by its other fields it is 64"),
        ({"head_dim": 32}, "head_dim=32, but by its other fields it is 64"),
        ({"classifier_activation": "mish"}, "classifier_activation='mish'; known are gelu"),
        ({"hidden_size": 36}, "hidden_size=36 should be a multiple of twice num_attention_heads=12"),
    ],
)
def test_a_modernbert_that_is_not_known_is_refused_in_one_line(values: dict[str, object], message: str):
    with pytest.raises(UserError) as error:
        parse_config({"model_type": "modernbert", **values}, "there/config.json")
    assert str(error.value).startswith("there/config.json: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "every"),
    [
        ({}, 2),
        ({"layer_types": ["full_attention"] * 5, "local_attention": 7}, 1),
        ({"layer_types": ["sliding_attention", *["full_attention"] * 4]}, None),
        ({"global_attn_every_n_layers": 9}, 9),
    ],
)
def test_layers_are_written_back_as_they_were_read(fields: dict[str, object], every: int | None):
    ours = parse_config({**OLD_MODERNBERT, **fields}, "here")
    written = config_dict(ours)
    assert parse_config(json.loads(json.dumps(written)), "here") == ours
    assert written.get("global_attn_every_n_layers") == every
    theirs = transformers.AutoConfig.for_model(**{**OLD_MODERNBERT, **fields})
    again = transformers.AutoConfig.for_model(**written)
    for name in ("layer_types", "rope_parameters", "local_attention", "sliding_window"):
        assert getattr(again, name) == getattr(theirs, name), name
    assert (written["global_rope_theta"], written["local_rope_theta"]) == (500.0, 50.0)


def test_the_first_layers_of_a_network_keep_their_kinds():
    whole = parse_config(OLD_MODERNBERT, "here")
    first = whole.with_layers(2)
    assert first.num_hidden_layers == 2 and first.own.windows == (0, 32)
    assert first == parse_config({**OLD_MODERNBERT, "num_hidden_layers": 2}, "here")

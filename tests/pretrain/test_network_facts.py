"""What is said of a network before its first step: the kernel and why no faster one, and what stays whole."""

import dataclasses

import pytest

from pretrain.devices.mesh import WholeAxis, whole_axes
from pretrain.models import EncoderConfig, build
from pretrain.models.attention import Use
from pretrain.reports.network_facts import network_facts

CONFIG = EncoderConfig(
    model_type="roberta",
    vocab_size=301,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=64,
    hidden_act="gelu",
    max_position_embeddings=20,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    initializer_range=0.02,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    tie_word_embeddings=True,
    pad_token_id=1,
)


def _facts(config: EncoderConfig, sizes: dict[str, int], platform: str = "cpu") -> dict[str, str]:
    return network_facts(build(config, platform=platform), sizes)


def test_an_axis_that_the_mesh_does_not_divide_is_whole():
    axes, shape = ("layers", "embed", "heads", None), (2, 24, 3, 8)
    assert whole_axes({"tensor": 2, "fsdp": 4}, axes, shape) == [WholeAxis("heads", 3, ("tensor",))]
    assert whole_axes({"tensor": 3, "fsdp": 5}, axes, shape) == [WholeAxis("embed", 24, ("fsdp",))]
    assert whole_axes({"tensor": 1, "fsdp": 1}, axes, shape) == []


def test_what_stays_whole_is_said_once_with_the_field_to_change():
    assert _facts(CONFIG, {"data": 8}) == {"attention": "xla"}
    said = _facts(CONFIG, {"tensor": 2})["not split"].splitlines()
    assert said == [
        "vocab (301) is whole on every device, since config.mesh.tensor=2 does not divide it: change "
        "config.model.vocab_multiple",
        "heads (3) is whole on every device, since config.mesh.tensor=2 does not divide it: change "
        "config.model.num_attention_heads",
    ]
    assert "not split" not in _facts(
        dataclasses.replace(CONFIG, vocab_size=302, num_attention_heads=4), {"tensor": 2}
    )
    assert "embed (24)" in _facts(CONFIG, {"fsdp": 5})["not split"]


def test_moments_that_the_mesh_does_not_split_as_far_as_it_would_are_called_moments():
    said = _facts(CONFIG, {"zero1": 2, "fsdp": 8})["not split"].splitlines()
    assert said == [
        "embed (24) of the moments is split over config.mesh.fsdp=8 alone, since config.mesh.fsdp=8 x "
        "config.mesh.zero1=2 does not divide it: change config.model.hidden_size"
    ]
    said = _facts(CONFIG, {"zero1": 5})["not split"].splitlines()
    assert said == [
        "embed (24) of the moments is whole on every device, since config.mesh.zero1=5 does not divide it: change "
        "config.model.hidden_size"
    ]


def test_the_kernel_is_said_with_the_reason_why_a_faster_one_was_refused():
    facts = _facts(CONFIG, {"data": 1}, "gpu")
    assert list(facts) == ["attention"]
    assert facts["attention"].startswith(
        "xla; cudnn needs config.dtype=bfloat16, not float32, and has no dropout of attention weights, "
        "which is 0.1: set config.model.attention_probs_dropout_prob=0"
    )
    assert "; triton needs config.dtype=bfloat16" in facts["attention"]


def test_a_kernel_whose_scores_are_not_recomputed_is_said_to_keep_none():
    config = dataclasses.replace(CONFIG, attention="chunked", remat="attention")
    assert _facts(config, {"data": 1})["attention"] == (
        "chunked; config.model.remat=attention leaves chunked as it is in rows of more than 512 tokens: it keeps no "
        "scores"
    )
    config = dataclasses.replace(config, attention="cudnn", attention_probs_dropout_prob=0.0)
    model = build(config, dtype="bfloat16", platform="gpu", use=Use(packed=False))
    assert network_facts(model, {"data": 1})["attention"] == (
        "cudnn; config.model.remat=attention leaves cudnn as it is: it keeps no scores"
    )
    assert _facts(dataclasses.replace(CONFIG, remat="attention"), {"data": 1}) == {"attention": "xla"}


@pytest.mark.parametrize("asked", ["auto", "cudnn"])
def test_the_kernel_that_is_taken_stands_alone(asked: str):
    config = dataclasses.replace(CONFIG, attention_probs_dropout_prob=0.0, attention=asked)
    model = build(config, dtype="bfloat16", platform="gpu", use=Use(packed=False))
    assert network_facts(model, {"data": 1}) == {"attention": "cudnn"}

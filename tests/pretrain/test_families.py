"""Families beside transformers: where their weights start, what their config.json holds, what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from base import schema
from base.command_line import read
from base.errors import UserError
from base.set_fields import Given
from data.special_tokens import SpecialTokens
from pretrain import starting_network
from pretrain.config import ModelConfig, PretrainConfig
from pretrain.models import build, families
from pretrain.models.huggingface import (
    config_dict,
    encoder_config,
    load_pretrained,
    parse_config,
    write_config,
    write_weights,
)
from pretrain.models.tensor_names import to_state_dict
from pretrain.unused_fields import unused_fields
from tests.finetune.reference_models import CASES, FAMILIES, SIZES, as_stored, random_model

SPECIAL = SpecialTokens(0, 2, 1, 4, 3)

HUB = {
    "roberta": {  # FacebookAI/roberta-base
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
    },
    "xlm-roberta": {  # FacebookAI/xlm-roberta-base
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "xlm-roberta",
        "num_attention_heads": 12, "num_hidden_layers": 12, "output_past": True, "pad_token_id": 1,
        "type_vocab_size": 1, "vocab_size": 250002,
    },
    "camembert": {  # almanach/camembert-base
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 5, "eos_token_id": 6, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "camembert",
        "num_attention_heads": 12, "num_hidden_layers": 12, "output_past": True, "pad_token_id": 1,
        "type_vocab_size": 1, "vocab_size": 32005,
    },
    "bert": {  # google-bert/bert-base-uncased
        "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2,
        "use_cache": True, "vocab_size": 30522,
    },
    "distilbert": {  # distilbert/distilbert-base-uncased
        "activation": "gelu", "attention_dropout": 0.2, "dim": 768, "dropout": 0.1, "hidden_dim": 3072,
        "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "distilbert", "n_heads": 12,
        "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
    },
    "electra": {  # google/electra-small-generator
        "attention_probs_dropout_prob": 0.1, "embedding_size": 128, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 1024,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "electra",
        "num_attention_heads": 4, "num_hidden_layers": 12, "pad_token_id": 0, "type_vocab_size": 2,
        "vocab_size": 30522,
    },
    "modernbert": {  # answerdotai/ModernBERT-base
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 50281, "classifier_activation": "gelu",
        "classifier_bias": False, "classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 50281,
        "decoder_bias": True, "deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 50282,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False,
        "hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02, "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
        "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0,
        "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 12,
        "num_hidden_layers": 22, "pad_token_id": 50283, "position_embedding_type": "absolute",
        "sep_token_id": 50282, "tie_word_embeddings": True, "vocab_size": 50368,
    },
    "albert": {  # albert/albert-base-v2
        "attention_probs_dropout_prob": 0.0, "bos_token_id": 2, "classifier_dropout_prob": 0.1, "down_scale_factor": 1,
        "embedding_size": 128, "eos_token_id": 3, "gap_size": 0, "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0, "hidden_size": 768, "initializer_range": 0.02, "inner_group_num": 1,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "albert",
        "net_structure_type": 0, "num_attention_heads": 12, "num_hidden_groups": 1, "num_hidden_layers": 12,
        "num_memory_blocks": 0, "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": 30000,
    },
    "mpnet": {  # microsoft/mpnet-base
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "mpnet", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 1, "relative_attention_num_buckets": 32, "vocab_size": 30527,
    },
    "deberta-v2": {  # microsoft/deberta-v3-base
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
        "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-07,
        "max_position_embeddings": 512, "max_relative_positions": -1, "model_type": "deberta-v2",
        "norm_rel_ebd": "layer_norm", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "position_buckets": 256,
        "relative_attention": True, "share_att_key": True, "type_vocab_size": 0, "vocab_size": 128100,
    },
    "eurobert": {  # EuroBERT/EuroBERT-210m
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "classifier_pooling": "late",
        "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 768, "initializer_range": 0.02,
        "intermediate_size": 3072, "mask_token_id": 128002, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "eurobert", "num_attention_heads": 12, "num_hidden_layers": 12, "num_key_value_heads": 12,
        "pad_token_id": 128001, "rms_norm_eps": 1e-05, "rope_theta": 250000, "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "nomic_bert": {  # the sizes of nomic-ai/nomic-embed-text-v1.5 by transformers' names
        "attention_probs_dropout_prob": 0.0, "hidden_act": "silu", "hidden_dropout_prob": 0.0, "hidden_size": 768,
        "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 2048, "model_type": "nomic_bert", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 0, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
        "type_vocab_size": 2, "vocab_size": 30528,
    },
}  # fmt: skip
"""What config.json of a known model of each family says of its network."""


def test_each_family_of_the_registry_is_looked_at_here_and_can_be_pretrained():
    assert set(HUB) == set(families.names()) == set(families.pretrained())
    assert {CASES[case]["model_type"] for case in FAMILIES} == set(HUB)


@pytest.mark.parametrize("model_type", HUB)
def test_a_config_json_of_the_hub_comes_back_with_the_same_values(model_type: str):
    values = HUB[model_type]
    written = json.loads(json.dumps(config_dict(parse_config(values, "here"))))
    theirs, ours = (transformers.AutoConfig.for_model(**each) for each in (values, written))
    assert type(ours) is type(theirs)
    known = set(transformers.AutoConfig.for_model(model_type).to_dict()) - {"architectures", "dtype"}
    for name in known:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in set(written) & set(values) - {"position_embedding_type"}:
        assert written[name] == values[name], name


# Embeddings wide enough for a deviation to be known within a few percent.
WIDE = {**SIZES, "hidden_size": 96, "intermediate_size": 96, "vocab_size": 500, "initializer_range": 0.1}


@pytest.mark.parametrize("case", FAMILIES)
def test_every_tensor_starts_as_that_of_transformers(case: str):
    fields = WIDE | CASES[case] | {"tie_word_embeddings": False}
    fields |= {"embedding_size": 64} if case in ("electra", "albert") else {}
    fields |= {"hidden_dim": 96} if case == "distilbert" else {}
    torch.manual_seed(0)
    fresh = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.for_model(**fields))
    config = parse_config(json.loads(fresh.config.to_json_string(use_diff=False)), "here")
    ours = to_state_dict(config, jax.jit(build(config).init)(jax.random.key(0)))
    theirs = as_stored(fresh, {name: tensor.numpy() for name, tensor in fresh.state_dict().items()})
    assert set(ours) <= set(theirs)
    assert {name for name in set(theirs) - set(ours) if "position_ids" not in name} == set()
    for name, array in ours.items():
        expected = theirs[name]
        if array.ndim < 2:
            np.testing.assert_array_equal(array, expected, name)
            continue
        # A deviation of n numbers is off by 1/sqrt(2n) of itself, the quotient of two by sqrt(2) times that.
        np.testing.assert_allclose(array.std(), expected.std(), rtol=5 / np.sqrt(array.size), err_msg=name)
        np.testing.assert_array_equal(~array.any(axis=1), ~expected.any(axis=1), f"rows of zeros of {name}")
        if array.size > 1000:  # of so many normal numbers some are far out
            bounded = abs(expected).max() < 2.4 * expected.std()
            assert (abs(array).max() < 2.4 * array.std()) == bounded, f"{name}: what is cut off"


@pytest.mark.parametrize("case", FAMILIES)
def test_parameters_are_counted_as_transformers_counts_them(case: str):
    config = transformers.AutoConfig.for_model(**(SIZES | CASES[case]))
    theirs = transformers.AutoModelForMaskedLM.from_config(config)
    ours = build(parse_config(json.loads(config.to_json_string(use_diff=False)), "here")).count()
    assert ours.total == theirs.num_parameters()
    assert ours.final == (SIZES["hidden_size"] if case in ("modernbert", "eurobert") else 0)


@pytest.mark.parametrize("case", FAMILIES)
def test_a_classifier_gives_its_encoder_and_a_fresh_head(case: str, tmp_path: Path, caplog):
    model = random_model(case, tmp_path)
    config, params = load_pretrained(tmp_path)
    if case != "eurobert":  # whose head is its word embedding
        assert "has no masked-language-model head; a fresh one is made" in caplog.text
    ours = to_state_dict(config, params)
    theirs = as_stored(model, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    shared = [name for name in ours if name.startswith(f"{config.family.base}.")]
    assert len(shared) > 15
    for name in shared:
        np.testing.assert_array_equal(ours[name], theirs[name], name)


def test_a_discriminator_gives_its_encoder(tmp_path: Path, caplog):
    random_model("electra", tmp_path, task="PreTraining")
    load_pretrained(tmp_path)
    assert "has no masked-language-model head" in caplog.text


# ---- config.model ------------------------------------------------------------------------------------------------


def test_a_new_modernbert_has_the_fields_that_config_model_sets():
    model = ModelConfig(
        family="modernbert", num_hidden_layers=5, local_attention=32, global_attn_every_n_layers=2,
        global_rope_theta=400.0, local_rope_theta=40.0, hidden_dropout_prob=0.2,
    )  # fmt: skip
    config = encoder_config(model, 300, SPECIAL)
    assert config.windows == (0, 16, 0, 16, 0)
    assert config.own.thetas == (400.0, 40.0, 400.0, 40.0, 400.0)
    assert (config.own.embedding_dropout, config.own.mlp_dropout, config.hidden_dropout) == (0.2, 0.2, 0.2)
    assert (config.pad_token_id, config.own.cls_token_id, config.own.sep_token_id) == (1, 0, 2)
    assert (config.bos_token_id, config.eos_token_id) == (0, 2)
    plain = encoder_config(ModelConfig(family="modernbert"), 300, SPECIAL)
    assert plain.max_position_embeddings == plain.max_length == 8192, "as in transformers"
    assert (plain.hidden_dropout, plain.attention_probs_dropout_prob) == (0.0, 0.0)
    assert plain.own.local_attention == 128 and plain.windows[:4] == (0, 64, 64, 0)
    assert plain.is_gated and not encoder_config(ModelConfig(), 300, SPECIAL).is_gated
    assert encoder_config(ModelConfig(), 300, SPECIAL).windows == ()


def test_embeddings_of_an_electra_are_as_wide_as_it_unless_they_are_set():
    wide = encoder_config(ModelConfig(family="electra"), 300, SPECIAL)
    narrow = encoder_config(ModelConfig(family="electra", embedding_size=96), 300, SPECIAL)
    assert (wide.embedding_size, narrow.embedding_size) == (768, 96)
    assert build(narrow).shapes()["embeddings"]["word"].shape == (384, 96)
    assert encoder_config(ModelConfig(family="albert"), 300, SPECIAL).embedding_size == 128
    with pytest.raises(UserError, match=r"config\.model\.embedding_size=0 should be 1 or more"):
        encoder_config(ModelConfig(family="albert", embedding_size=0), 300, SPECIAL)


def test_a_new_deberta_has_the_relative_positions_of_v3_and_a_new_eurobert_its_rotation():
    config = encoder_config(ModelConfig(family="deberta-v2", max_position_embeddings=300), 300, SPECIAL)
    assert config.relative_terms == 2 and config.own.share_att_key and not config.own.position_biased_input
    model = build(config)
    assert set(model.shapes()["embeddings"]) == {"word", "token_type", "norm"}
    assert model.shapes()["shared"]["positions"].shape == (512, 768)
    assert encoder_config(ModelConfig(family="eurobert"), 300, SPECIAL).own.rope_theta == 250_000.0


def test_a_dropout_that_is_no_rate_is_refused_by_the_name_that_was_set():
    for family in ("modernbert", "bert"):
        with pytest.raises(UserError, match=r"^config.model.hidden_dropout_prob=1.5 should be at least 0"):
            encoder_config(ModelConfig(family=family, hidden_dropout_prob=1.5), 300, SPECIAL)


UNUSED = {
    "global_rope_theta=5.0": ("bert", "roberta", "distilbert", "electra"),
    "local_rope_theta=5.0": ("camembert",),
    "local_attention=8": ("bert",),
    "global_attn_every_n_layers=2": ("bert",),
    "embedding_size=8": ("bert", "modernbert", "deberta-v2"),
    "type_vocab_size=2": ("modernbert", "distilbert", "mpnet", "eurobert"),
    "hidden_dropout_prob=0.1": ("eurobert",),
    "position_init=sinusoidal": ("eurobert", "nomic_bert", "deberta-v2"),
    "layer_norm_eps=1e-3": ("distilbert",),
}


@pytest.mark.parametrize(("field", "family"), [(field, each) for field in UNUSED for each in UNUSED[field]])
def test_a_field_that_a_family_does_not_have_is_refused(tmp_path: Path, field: str, family: str):
    with pytest.raises(UserError) as error:
        _read(tmp_path, f"model.family={family}", f"model.{field}")
    message = str(error.value)
    assert message.startswith(f"config.model.{field.partition('=')[0]}=") and "\n" not in message
    assert f"has no effect: config.model.family='{family}' has no such field; unset it" in message


def test_a_generator_of_dropout_is_refused_where_a_family_drops_nothing(tmp_path: Path):
    _read(tmp_path, "model.family=bert", "dropout_rng=rbg")
    with pytest.raises(UserError, match=r"config\.dropout_rng='rbg' has no effect: nothing is dropped"):
        _read(tmp_path, "model.family=modernbert", "dropout_rng=rbg")
    _read(tmp_path, "model.family=modernbert", "dropout_rng=rbg", "model.hidden_dropout_prob=0.1")


def _read(folder: Path, *fields: str) -> None:
    recipe = folder / "recipe.py"
    recipe.write_text(
        "import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict("
        "{'steps': 8, 'data': {'source': 'files', 'path': 'text.txt'}})\n"
    )
    arguments = ["x", f"--config={recipe}", *(f"--config.{field}" for field in fields)]
    read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_a_run_of_an_xlm_r_may_call_its_network_roberta(name: str):
    network = parse_config(HUB["xlm-roberta"], "here")
    config = schema.build(PretrainConfig, {"init_from": "there", "model": {"family": name}})
    given = Given(frozenset(["model.family"]), frozenset(["init_from", "model.family"]))
    notes: list[str] = []
    assert starting_network.with_network(config, given, network, notes.append).model.family == name
    assert notes == []
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, family="bert"))
    with pytest.raises(UserError, match="which has family='xlm-roberta'; unset one of the two"):
        starting_network.with_network(other, given, network, notes.append)


def test_a_run_from_a_modernbert_says_what_it_is_of():
    network = parse_config({**HUB["modernbert"], "mlp_dropout": 0.1}, "here")
    config = schema.build(PretrainConfig, {"init_from": "there"})
    given = Given(frozenset(), frozenset(["init_from"]))
    model = starting_network.with_network(config, given, network, print).model
    assert (model.family, model.local_attention, model.global_rope_theta) == ("modernbert", 128, 160000.0)
    assert (model.hidden_dropout_prob, model.embedding_size) == (None, None)
    assert starting_network.dropout(network) == {"attention_probs_dropout_prob": 0.0}
    with pytest.raises(
        UserError, match=r"config\.model\.embedding_size=64 has no effect: .* has embedding_size=None"
    ):
        starting_network.with_network(
            dataclasses.replace(config, model=dataclasses.replace(config.model, embedding_size=64)),
            Given(frozenset(), frozenset(["init_from", "model.embedding_size"])), network, print,
        )  # fmt: skip


def test_a_family_that_is_not_known_is_refused_in_one_line(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"config\.model\.family='gpt2' is not one of 'roberta', 'xlm-roberta'"
    ):
        _read(tmp_path, "model.family=gpt2")


def test_a_family_without_a_head_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder_only = dataclasses.replace(families.get("bert"), head=None)
    monkeypatch.setattr(families, "_families", {**families._families, "encoder-only": encoder_only})
    config = parse_config({"model_type": "encoder-only"}, "here")
    message = "model_type='encoder-only' can be fine-tuned only; pretraining knows roberta, xlm-roberta"
    with pytest.raises(UserError, match=message):
        config_dict(config)
    with pytest.raises(UserError, match=r"config\.model\.family='encoder-only' is not one of 'roberta'"):
        _read(tmp_path, "model.family=encoder-only")
    write_config(tmp_path, {"model_type": "encoder-only"})
    write_weights(tmp_path, {})
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

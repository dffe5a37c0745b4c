"""Every field of a config.json, set otherwise: transformers' logits with it are ours, or it is refused in one line.

A field that acts, or may be refused, is set alone. All others of a family are set together.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

from base.errors import UserError
from finetune.classifier.pretrained import Start, load_encoder_for_classification
from pretrain.models import families
from tests.finetune.reference_models import FAMILIES, NETWORKS, inputs, pairs_of_texts, random_model

LABELS = ("no", "maybe", "yes")
KINDS = ["full_attention", "sliding_attention"]
OTHERWISE: dict[str, Any] = {
    # sizes
    "vocab_size": 62,
    "embedding_size": 24,
    "hidden_size": 16,
    "dim": 16,
    "num_hidden_layers": 1,
    "n_layers": 1,
    "num_attention_heads": 2,
    "n_heads": 2,
    "intermediate_size": 52,
    "hidden_dim": 52,
    "max_position_embeddings": 24,
    "type_vocab_size": 3,
    "head_dim": 4,
    "num_labels": 2,
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
    "num_hidden_groups": 2,
    "inner_group_num": 2,
    "num_key_value_heads": 4,
    "relative_attention_num_buckets": 64,
    "position_buckets": 6,
    "pooler_hidden_size": 16,
    "conv_kernel_size": 3,
    # what is computed
    "hidden_act": "relu",
    "activation": "relu",
    "hidden_activation": "silu",
    "layer_norm_eps": 0.1,
    "norm_eps": 0.1,
    "rms_norm_eps": 0.1,
    "relative_attention": False,
    "max_relative_positions": 7,
    "norm_rel_ebd": "none",
    "share_att_key": False,
    "pos_att_type": ["c2p"],
    "position_biased_input": True,
    "pooler_hidden_act": "relu",
    "norm_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "pad_token_id": 3,
    "position_embedding_type": "relative_key",
    "is_decoder": True,
    "add_cross_attention": True,
    "is_encoder_decoder": True,
    "layer_types": [KINDS[1], KINDS[0]],
    "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 3.0} for kind in KINDS},
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "global_rope_theta": 3.0,
    "local_rope_theta": 3.0,
    "local_attention": 8,
    "sliding_window": 1,
    "global_attn_every_n_layers": 1,
    "classifier_pooling": "mean",
    "classifier_bias": True,
    "classifier_activation": "relu",
    "tie_word_embeddings": False,
    "decoder_bias": False,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    # what training alone reads
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.3,
    "classifier_dropout": 0.3,
    "classifier_dropout_prob": 0.3,
    "pooler_dropout": 0.3,
    "dropout": 0.3,
    "attention_dropout": 0.3,
    "qa_dropout": 0.3,
    "seq_classif_dropout": 0.3,
    "embedding_dropout": 0.3,
    "mlp_dropout": 0.3,
    "summary_last_dropout": 0.3,
    "initializer_range": 0.5,
    "initializer_cutoff_factor": 3.0,
    "sinusoidal_pos_embds": True,
    "problem_type": "regression",
    # what neither reads
    "legacy": False,  # of another head
    "mask_token_id": 4,
    "pretraining_tp": 2,
    "summary_type": "last",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "use_cache": False,
    "chunk_size_feed_forward": 4,
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": True,  # how the results are handed over; ModernBERT's classifier fails without
    "deterministic_flash_attn": True,
    "sparse_prediction": True,
    "sparse_pred_ignore_index": -1,
    "pruned_heads": {"0": [1]},
    "dtype": "float64",
    "bos_token_id": 4,
    "eos_token_id": 4,
    "cls_token_id": 4,
    "sep_token_id": 4,
    "architectures": ["AnotherClass"],
    "auto_map": {"AutoModel": "modeling_own.OwnModel"},
    "transformers_version": "4.0.0",
    "_name_or_path": "elsewhere",
    "model_type": "t5",
}
"""Another value of every field that a config class has, or had in older releases."""
MAY_BE_REFUSED = {
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "dim",
    "num_hidden_layers",
    "n_layers",
    "intermediate_size",
    "hidden_dim",
    "max_position_embeddings",
    "type_vocab_size",
    "head_dim",
    "num_hidden_groups",
    "inner_group_num",
    "num_key_value_heads",
    "relative_attention_num_buckets",
    "position_buckets",
    "pooler_hidden_size",
    "conv_kernel_size",
    "relative_attention",
    "norm_rel_ebd",
    "share_att_key",
    "position_biased_input",
    "norm_bias",
    "attention_bias",
    "mlp_bias",
    "classifier_bias",
    "position_embedding_type",
    "is_decoder",
    "add_cross_attention",
    "sliding_window",
    "rope_scaling",
    "quantization_config",
    "model_type",
}
ACTS = {
    "num_attention_heads",
    "n_heads",
    "hidden_act",
    "activation",
    "hidden_activation",
    "layer_norm_eps",
    "norm_eps",
    "rms_norm_eps",
    "max_relative_positions",
    "pos_att_type",
    "pooler_hidden_act",
    "layer_types",
    "rope_parameters",
    "local_attention",
    "classifier_pooling",
    "classifier_activation",
}
"""Those that the networks which have them compute by."""
OLD = {"global_rope_theta", "local_rope_theta", "global_attn_every_n_layers", "rope_scaling"}
"""Fields of older releases, which `rope_parameters` and `layer_types` stand for."""
UNWRITTEN = {
    "position_embedding_type",
    "quantization_config",
    "pruned_heads",
    "auto_map",
    "output_attentions",
    "_name_or_path",
    "is_decoder",
    "add_cross_attention",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "problem_type",
}
"""Those to try in every family, though its config.json need not hold them."""


def _theirs(folder: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(**inputs(model, batch)).logits.numpy()


def _ours(start: Start, batch: dict[str, np.ndarray]) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(start.classifier.logits)(start.params, **batch))


@pytest.mark.parametrize("case", [case for case in FAMILIES if case in NETWORKS])
def test_every_field_of_a_config_acts_as_in_transformers_or_is_refused(case: str, tmp_path: Path):
    layers = {"n_layers": 2} if case == "distilbert" else {"num_hidden_layers": 2}
    theirs = random_model(case, tmp_path, **layers)
    batch = pairs_of_texts(getattr(theirs.config, "type_vocab_size", 0), padded=True)
    written = json.loads((tmp_path / "config.json").read_text())
    fields = {*written, *json.loads(theirs.config.to_json_string(use_diff=False)), *UNWRITTEN}
    fields |= OLD | {"head_dim", "sliding_window"} if case == "modernbert" else set()
    assert not fields - set(OTHERWISE), "a field of which nobody has said what it does"
    otherwise, refusable, acting = dict(OTHERWISE), set(MAY_BE_REFUSED), set(ACTS)
    if case != "modernbert":
        otherwise["rope_parameters"] = {"rope_type": "default", "rope_theta": 3.0}
    if (
        "head_dim" in written or case == "mpnet"
    ):  # heads of a given width, or a table of biases with a column for each
        refusable, acting = refusable | {"num_attention_heads"}, acting - {"num_attention_heads"}
    if case == "mpnet":
        refusable |= {"pad_token_id"}
    before = load_encoder_for_classification(str(tmp_path), LABELS)
    ours_before, theirs_before = _ours(before, batch), _theirs(tmp_path, batch)
    np.testing.assert_allclose(ours_before, theirs_before, atol=1e-4, rtol=1e-4)
    fields -= {"num_labels", "id2label", "label2id"}  # what a run's own labels set
    alone = fields & (refusable | acting | OLD | {"legacy"})  # DeBERTa's other head is tied
    acted = set()
    for names in (*([name] for name in sorted(alone)), sorted(fields - alone)):
        replaced = {"rope_parameters", "layer_types"} if OLD.intersection(names) else set()
        values = {key: value for key, value in written.items() if key not in replaced}
        values |= {name: otherwise[name] for name in names}
        (tmp_path / "config.json").write_text(json.dumps(values))
        try:
            start = load_encoder_for_classification(str(tmp_path), LABELS)
        except UserError as error:
            assert names[0] in refusable, f"{names}: {error}"
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            continue
        same = start.classifier == before.classifier and not start.fresh_head
        ours, expected = ours_before if same else _ours(start, batch), _theirs(tmp_path, batch)
        np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4, err_msg=f"{names}")
        if np.abs(expected - theirs_before).max() > 1e-3:
            acted.update(names)
    assert acted >= acting & fields


@pytest.mark.parametrize("family", ["xlm-roberta", "camembert"])
def test_a_family_that_runs_robertas_network_has_robertas_fields(family: str):
    ours, robertas = families.get(family), families.get("roberta")
    names = {name: getattr(robertas, name) for name in ("classes", "runs_as", "defaults")}
    assert dataclasses.replace(ours, **names) == robertas and set(ours.defaults) == set(robertas.defaults)
    theirs = [set(transformers.AutoConfig.for_model(name).to_dict()) for name in (family, "roberta")]
    assert theirs[0] == theirs[1]


def test_distilberts_sizes_go_by_either_of_their_names(tmp_path: Path):
    random_model("distilbert", tmp_path)
    file = tmp_path / "config.json"
    expected = load_encoder_for_classification(str(tmp_path), LABELS).classifier
    names = {"dim": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}
    values = json.loads(file.read_text())
    renamed = {names.get(name, name): value for name, value in values.items() if name not in names.values()}
    file.write_text(json.dumps(renamed))
    assert load_encoder_for_classification(str(tmp_path), LABELS).classifier == expected
    file.write_text(json.dumps({**renamed, "n_heads": 2}))
    with pytest.raises(UserError, match="has num_attention_heads=4 and n_heads=2, which are the same field"):
        load_encoder_for_classification(str(tmp_path), LABELS)

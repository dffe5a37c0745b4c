"""Fields of config.json that text-embeddings-inference cannot do without, in what we write for each family."""

import pytest

from pretrain.models.huggingface import config_dict, parse_config
from tests.pretrain.test_families import HUB

BERT = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "max_position_embeddings type_vocab_size initializer_range layer_norm_eps pad_token_id"
)
REQUIRED = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), BERT),
    "distilbert": "vocab_size dim n_layers n_heads hidden_dim activation max_position_embeddings pad_token_id",
    "mpnet": "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings initializer_range layer_norm_eps "
    "relative_attention_num_buckets",
    "deberta-v2": "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "max_position_embeddings type_vocab_size initializer_range layer_norm_eps relative_attention "
    "max_relative_positions position_biased_input pos_att_type",
    "modernbert": "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_activation "
    "max_position_embeddings initializer_range initializer_cutoff_factor norm_eps norm_bias pad_token_id "
    "eos_token_id bos_token_id cls_token_id sep_token_id global_rope_theta attention_bias attention_dropout "
    "global_attn_every_n_layers local_attention local_rope_theta classifier_activation",
}
"""Of its candle backend, by family."""


@pytest.mark.parametrize("family", REQUIRED)
def test_config_json_has_what_text_embeddings_inference_requires(family: str):
    written = config_dict(parse_config(HUB[family], "here"))
    assert {name: written.get(name) is not None for name in REQUIRED[family].split()} == dict.fromkeys(
        REQUIRED[family].split(), True
    )
    assert written["architectures"] and written["model_type"] == family

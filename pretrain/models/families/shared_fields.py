"""Fields of config.json that several families have, and what it means there to leave one out."""

from collections.abc import Mapping
from typing import Any

from pretrain.models.config import EncoderConfig

# `None` ids are only ever passed on.
SHARED_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "tie_word_embeddings": True,
}
SENTENCEPIECE_IDS: Mapping[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
BERT_IDS: Mapping[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


def without(defaults: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Defaults without some of them."""
    return {name: value for name, value in defaults.items() if name not in names}


def absolute_positions(_: EncoderConfig) -> Mapping[str, Any]:
    """The field that tells releases of transformers before 5 how positions are embedded."""
    return {"position_embedding_type": "absolute"}

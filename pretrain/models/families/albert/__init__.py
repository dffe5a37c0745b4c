"""ALBERT (Lan et al. 2020): BERT's layer, whose weights all layers of a group share, and narrow embeddings."""

from pretrain.models.families.albert import fields
from pretrain.models.families.albert.network import AlbertLayer, Embeddings
from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.shared_fields import SHARED_DEFAULTS

LAYER = "encoder.albert_layer_groups.{}.albert_layers.0"

FAMILY = Family(
    classes="Albert",
    base="albert",
    parts=Parts(Embeddings, AlbertLayer),
    head=MaskedLMHead,
    head_modules={
        "head": "predictions",
        "head/dense": "predictions.dense",
        "head/norm": "predictions.LayerNorm",
        "head/decoder": "predictions.decoder",
    },
    decoder="predictions.decoder",
    classifier=ClassifierHead(
        names={"head/dense": "albert.pooler", "head/out": "classifier"},
        activation="tanh",
        dropout="classifier_dropout_prob",
        rate=0.1,
    ),
    token_classifier=ClassifierHead(
        names={"head/out": "classifier"}, activation="gelu", dropout="classifier_dropout_prob", rate=0.1
    ),
    defaults={
        **SHARED_DEFAULTS,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    own_defaults=fields.DEFAULTS,
    resolve=fields.with_own_fields,
    written=fields.written,
    modules={
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/position": "embeddings.position_embeddings",
        "embeddings/token_type": "embeddings.token_type_embeddings",
        "embeddings/norm": "embeddings.LayerNorm",
        "embeddings/projection": "encoder.embedding_hidden_mapping_in",
        "layers/attention/query": f"{LAYER}.attention.query",
        "layers/attention/key": f"{LAYER}.attention.key",
        "layers/attention/value": f"{LAYER}.attention.value",
        "layers/attention/output": f"{LAYER}.attention.dense",
        "layers/attention_norm": f"{LAYER}.attention.LayerNorm",
        "layers/up": f"{LAYER}.ffn",
        "layers/down": f"{LAYER}.ffn_output",
        "layers/feed_forward_norm": f"{LAYER}.full_layer_layer_norm",
    },
)

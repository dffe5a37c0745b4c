"""ModernBERT (Warner et al. 2024): rotary positions, pre-norm layers, gates, local attention."""

from dataclasses import replace

from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.modernbert import fields, network
from pretrain.models.families.modernbert.bigrams import start_at_bigrams
from pretrain.models.families.modernbert.head import MaskedLMHead
from pretrain.models.families.modernbert.neighbours import start_at_neighbours
from pretrain.models.families.shared_fields import SHARED_DEFAULTS, without

HEAD = ClassifierHead(
    names={"head/dense": "head.dense", "head/norm": "head.norm", "head/out": "classifier"},
    activation="gelu",
    rate=0.0,
    extra={
        "activation": ("classifier_activation", "gelu"),
        "pooling": ("classifier_pooling", "cls"),
        "has_bias": ("classifier_bias", False),
    },
    norm=network.norm,
    start=network.classifier_start,
)

TOKEN_HEAD = replace(HEAD, extra={name: of for name, of in HEAD.extra.items() if name != "pooling"})

FAMILY = Family(
    classes="ModernBert",
    base="model",
    parts=Parts(
        network.Embeddings, network.EncoderLayer, network.FinalNorm, start_at_neighbours, start_at_bigrams
    ),
    head=MaskedLMHead,
    head_modules={
        "head": "decoder",
        "head/dense": "head.dense",
        "head/norm": "head.norm",
        "head/decoder": "decoder",
    },
    decoder="decoder",
    classifier=HEAD,
    token_classifier=TOKEN_HEAD,
    question_head=TOKEN_HEAD,
    defaults={
        **without(SHARED_DEFAULTS, "type_vocab_size", "hidden_dropout_prob"),
        "vocab_size": 50368,
        "num_hidden_layers": 22,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 50283,
        "bos_token_id": 50281,
        "eos_token_id": 50282,
    },
    own_defaults=fields.DEFAULTS,
    resolve=fields.with_own_fields,
    written=fields.written,
    hidden_dropouts=("embedding_dropout", "mlp_dropout"),
    modules={
        "embeddings/word": "embeddings.tok_embeddings",
        "embeddings/norm": "embeddings.norm",
        "layers/attention_norm": "layers.{}.attn_norm",
        "layers/attention/query_key_value": "layers.{}.attn.Wqkv",
        "layers/attention/output": "layers.{}.attn.Wo",
        "layers/feed_forward_norm": "layers.{}.mlp_norm",
        "layers/feed_forward/up": "layers.{}.mlp.Wi",
        "layers/feed_forward/down": "layers.{}.mlp.Wo",
        "final/norm": "final_norm",
    },
    renamed={
        "hidden_act": "hidden_activation",
        "layer_norm_eps": "norm_eps",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    constants={"type_vocab_size": 0, "hidden_dropout_prob": 0.0},
    first_layer_lacks=frozenset({"layers/attention_norm"}),
    has_position_table=False,
    is_rotary=True,
)

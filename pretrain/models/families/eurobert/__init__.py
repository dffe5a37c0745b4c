"""EuroBERT (Boizard et al. 2025): RMS norms, rotary positions, grouped heads and gates, as Llama has them."""

from pretrain.models.families.eurobert import fields, network
from pretrain.models.families.eurobert.head import MaskedLMHead
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.shared_fields import SHARED_DEFAULTS, without

FAMILY = Family(
    classes="EuroBert",
    base="model",
    parts=Parts(network.Embeddings, network.EncoderLayer, network.FinalNorm),
    head=MaskedLMHead,
    head_modules={"head": "lm_head", "head/decoder": "lm_head"},
    decoder="lm_head",
    classifier=ClassifierHead(
        names={"head/dense": "dense", "head/out": "classifier"},
        activation="gelu",
        rate=0.0,
        poolings={"bos": "cls", "mean": "mean", "late": "late"},
        extra={"pooling": ("classifier_pooling", "late")},
    ),
    token_classifier=ClassifierHead(names={"head/out": "classifier"}, activation="gelu", rate=0.0),
    question_head=None,
    defaults={
        **without(SHARED_DEFAULTS, "type_vocab_size", "hidden_dropout_prob"),
        "vocab_size": 128256,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "attention_probs_dropout_prob": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": 128001,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    own_defaults=fields.DEFAULTS,
    resolve=fields.with_own_fields,
    written=fields.written,
    new={"rope_theta": 250_000.0},
    modules={
        "embeddings/word": "embed_tokens",
        "layers/attention_norm": "layers.{}.input_layernorm",
        "layers/attention/query": "layers.{}.self_attn.q_proj",
        "layers/attention/key": "layers.{}.self_attn.k_proj",
        "layers/attention/value": "layers.{}.self_attn.v_proj",
        "layers/attention/output": "layers.{}.self_attn.o_proj",
        "layers/feed_forward_norm": "layers.{}.post_attention_layernorm",
        "layers/feed_forward/gate": "layers.{}.mlp.gate_proj",
        "layers/feed_forward/up": "layers.{}.mlp.up_proj",
        "layers/feed_forward/down": "layers.{}.mlp.down_proj",
        "final/norm": "norm",
    },
    renamed={"layer_norm_eps": "rms_norm_eps", "attention_probs_dropout_prob": "attention_dropout"},
    constants={"type_vocab_size": 0, "hidden_dropout_prob": 0.0},
    ignored=("dense.",),
    has_position_table=False,
    is_rotary=True,
)

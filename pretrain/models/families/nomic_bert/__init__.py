"""NomicBERT (Nussbaum et al. 2024) as transformers has it: BERT with rotary positions and gates, without biases."""

from pretrain.models.families.bert import names
from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.nomic_bert import fields, network
from pretrain.models.families.shared_fields import BERT_IDS, SHARED_DEFAULTS

FAMILY = Family(
    classes="NomicBert",
    base="nomic_bert",
    parts=Parts(network.Embeddings, network.EncoderLayer),
    head=MaskedLMHead,
    head_modules={**names.HEAD, "head/norm": "cls.predictions.transform.layer_norm"},
    decoder="cls.predictions.decoder",
    classifier=ClassifierHead(
        names={"head/dense": "nomic_bert.pooler.dense", "head/out": "classifier"},
        activation="tanh",
    ),
    question_head=None,
    defaults={
        **SHARED_DEFAULTS,
        **BERT_IDS,
        "vocab_size": 30528,
        "hidden_act": "silu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 2048,
    },
    resolve=fields.with_own_fields,
    written=fields.written,
    modules={
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/token_type": "embeddings.token_type_embeddings",
        # The names in files, those of the first implementation, which transformers reads and writes too.
        "embeddings/norm": "emb_ln",
        "layers/attention/query_key_value": "encoder.layers.{}.attn.Wqkv",
        "layers/attention/output": "encoder.layers.{}.attn.out_proj",
        "layers/attention_norm": "encoder.layers.{}.norm1",
        "layers/feed_forward/up": "encoder.layers.{}.mlp.fc11",
        "layers/feed_forward/gate": "encoder.layers.{}.mlp.fc12",
        "layers/feed_forward/down": "encoder.layers.{}.mlp.fc2",
        "layers/feed_forward_norm": "encoder.layers.{}.norm2",
    },
    has_position_table=False,
    is_rotary=True,
)

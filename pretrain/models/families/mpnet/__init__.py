"""MPNet (Song et al. 2020): RoBERTa's network with a bias of relative positions in all layers.

What is pretrained here is a masked language model, without MPNet's permutation.
"""

from pretrain.models.families.bert.head import GeluHead
from pretrain.models.families.bert.network import Embeddings
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.mpnet import fields
from pretrain.models.families.mpnet.network import MPNetLayer, PositionBias
from pretrain.models.families.shared_fields import SENTENCEPIECE_IDS, SHARED_DEFAULTS, without

FAMILY = Family(
    classes="MPNet",
    base="mpnet",
    parts=Parts(Embeddings, MPNetLayer, shared=PositionBias),
    head=GeluHead,
    head_modules={
        "head": "lm_head",
        "head/dense": "lm_head.dense",
        "head/norm": "lm_head.layer_norm",
        "head/decoder": "lm_head.decoder",
    },
    decoder="lm_head.decoder",
    classifier=ClassifierHead(
        names={"head/dense": "classifier.dense", "head/out": "classifier.out_proj"},
        activation="tanh",
        drops_input=True,
        dropout="hidden_dropout_prob",
    ),
    token_classifier=ClassifierHead(
        names={"head/out": "classifier"}, activation="gelu", dropout="hidden_dropout_prob"
    ),
    defaults={**without(SHARED_DEFAULTS, "type_vocab_size"), **SENTENCEPIECE_IDS, "vocab_size": 30527},
    own_defaults=fields.DEFAULTS,
    resolve=fields.with_own_fields,
    written=fields.written,
    modules={
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/position": "embeddings.position_embeddings",
        "embeddings/norm": "embeddings.LayerNorm",
        "shared/relative": "encoder.relative_attention_bias",
        "layers/attention/query": "encoder.layer.{}.attention.attn.q",
        "layers/attention/key": "encoder.layer.{}.attention.attn.k",
        "layers/attention/value": "encoder.layer.{}.attention.attn.v",
        "layers/attention/output": "encoder.layer.{}.attention.attn.o",
        "layers/attention_norm": "encoder.layer.{}.attention.LayerNorm",
        "layers/up": "encoder.layer.{}.intermediate.dense",
        "layers/down": "encoder.layer.{}.output.dense",
        "layers/feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
    },
    constants={"type_vocab_size": 0},
    positions_skip_padding=True,
)

"""DeBERTa-v2 and v3 (He et al. 2021, 2023): attention in which content and relative position are disentangled.

What is pretrained here is a masked language model. The discriminators of v3 are loaded for fine-tuning.
"""

import dataclasses

from pretrain.models.config import EncoderConfig
from pretrain.models.families.bert import names
from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.deberta_v2 import fields, network
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.shared_fields import BERT_IDS, SHARED_DEFAULTS

OWN_HEAD = {
    "head": "lm_predictions.lm_head",
    "head/dense": "lm_predictions.lm_head.dense",
    "head/norm": "lm_predictions.lm_head.LayerNorm",
    "head/decoder": "lm_predictions.lm_head.decoder",
}
"""The names of the head with legacy=False."""


def as_config_has_it(config: EncoderConfig, family: Family) -> Family:
    """The names of the head, and whether there is a position embedding, by the config."""
    own = config.own
    if not isinstance(own, fields.DebertaFields):
        return family
    family = dataclasses.replace(family, has_position_table=own.position_biased_input)
    if own.legacy:
        return family
    return dataclasses.replace(family, head_modules=OWN_HEAD, decoder=OWN_HEAD["head/decoder"])


FAMILY = Family(
    classes="DebertaV2",
    base="deberta",
    parts=Parts(network.Embeddings, network.DebertaLayer, shared=network.Shared),
    head=MaskedLMHead,
    head_modules=names.HEAD,
    decoder="cls.predictions.decoder",
    classifier=ClassifierHead(
        names={"head/dense": "pooler.dense", "head/out": "classifier"},
        activation="gelu",
        dropout="cls_dropout",
        extra={"activation": ("pooler_hidden_act", "gelu"), "input_dropout": ("pooler_dropout", 0.0)},
    ),
    token_classifier=ClassifierHead(
        names={"head/out": "classifier"}, activation="gelu", dropout="hidden_dropout_prob"
    ),
    defaults={
        **SHARED_DEFAULTS,
        **BERT_IDS,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
    },
    own_defaults=fields.DEFAULTS,
    nulls=frozenset({"share_att_key", "conv_act", "conv_groups"}),
    resolve=fields.with_own_fields,
    written=fields.written,
    new=fields.V3,
    variant=as_config_has_it,
    modules={
        **{
            ours: theirs
            for ours, theirs in names.MODULES.items()
            if ours not in ("layers/attention/query", "layers/attention/key", "layers/attention/value")
        },
        "embeddings/projection": "embeddings.embed_proj",
        "layers/attention/query": "encoder.layer.{}.attention.self.query_proj",
        "layers/attention/key": "encoder.layer.{}.attention.self.key_proj",
        "layers/attention/value": "encoder.layer.{}.attention.self.value_proj",
        "layers/attention/position_key": "encoder.layer.{}.attention.self.pos_key_proj",
        "layers/attention/position_query": "encoder.layer.{}.attention.self.pos_query_proj",
        "shared/positions": "encoder.rel_embeddings",
        "shared/norm": "encoder.LayerNorm",
        "shared/convolution": "encoder.conv.conv",
        "shared/convolution_norm": "encoder.conv.LayerNorm",
    },
    ignored=("position_embeddings", "mask_predictions.", "lm_predictions."),
    has_position_table=False,
)

"""ELECTRA (Clark et al. 2020): BERT's encoder, whose embeddings may be of another width.

What is pretrained here is its generator, a masked language model.
"""

from pretrain.models.families import bert
from pretrain.models.families.bert import names
from pretrain.models.families.bert.head import GeluHead
from pretrain.models.families.family import ClassifierHead, Family
from pretrain.models.families.shared_fields import BERT_IDS, SHARED_DEFAULTS, absolute_positions

FAMILY = Family(
    classes="Electra",
    base="electra",
    parts=bert.PARTS,
    head=GeluHead,
    head_modules={
        "head": "generator_lm_head",
        "head/dense": "generator_predictions.dense",
        "head/norm": "generator_predictions.LayerNorm",
        "head/decoder": "generator_lm_head",
    },
    decoder="generator_lm_head",
    classifier=ClassifierHead(
        names={"head/dense": "classifier.dense", "head/out": "classifier.out_proj"},
        activation="gelu",
        drops_input=True,
    ),
    defaults={
        **SHARED_DEFAULTS,
        **BERT_IDS,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    modules={**names.MODULES, "embeddings/projection": "embeddings_project"},
    written=absolute_positions,
    has_causal_class=True,
    embeds_as_wide=True,
)

"""BERT (Devlin et al. 2019)."""

from pretrain.models.families.bert import names, network
from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.bert.neighbours import start_at_neighbours
from pretrain.models.families.family import ClassifierHead, Family, Parts
from pretrain.models.families.shared_fields import BERT_IDS, SHARED_DEFAULTS, absolute_positions

PARTS = Parts(network.Embeddings, network.EncoderLayer, neighbours=start_at_neighbours)

FAMILY = Family(
    classes="Bert",
    base="bert",
    parts=PARTS,
    head=MaskedLMHead,
    head_modules=names.HEAD,
    decoder="cls.predictions.decoder",
    classifier=ClassifierHead(
        names={"head/dense": "bert.pooler.dense", "head/out": "classifier"},
        activation="tanh",
    ),
    defaults={**SHARED_DEFAULTS, **BERT_IDS},
    modules=names.MODULES,
    written=absolute_positions,
    has_causal_class=True,
)

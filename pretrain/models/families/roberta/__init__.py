"""RoBERTa (Liu et al. 2019): BERT's encoder with positions that count from after the padding id."""

from typing import Any

from pretrain.models.families import bert
from pretrain.models.families.bert import names
from pretrain.models.families.bert.head import GeluHead
from pretrain.models.families.family import ClassifierHead, Family
from pretrain.models.families.shared_fields import SENTENCEPIECE_IDS, SHARED_DEFAULTS, absolute_positions


def roberta(classes: str, *, runs_as: str = "", **defaults: Any) -> Family:
    """A family that runs RoBERTa's network: its base is called roberta in all of them.

    Args:
      classes: what the names of its classes begin with.
      runs_as: "roberta" in the others.
      defaults: defaults of its config.json that differ from `SHARED_DEFAULTS` and `SENTENCEPIECE_IDS`.
    """
    return Family(
        classes=classes,
        base="roberta",
        parts=bert.PARTS,
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
        ),
        defaults={**SHARED_DEFAULTS, **SENTENCEPIECE_IDS, **defaults},
        modules=names.MODULES,
        written=absolute_positions,
        positions_skip_padding=True,
        has_causal_class=True,
        runs_as=runs_as,
    )


FAMILY = roberta("Roberta", vocab_size=50265)

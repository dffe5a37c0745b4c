"""CamemBERT (Martin et al. 2020): RoBERTa's network."""

from pretrain.models.families.roberta import roberta

FAMILY = roberta("Camembert", runs_as="roberta")

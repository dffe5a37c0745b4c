"""XLM-R (Conneau et al. 2020): RoBERTa's network."""

from pretrain.models.families.roberta import roberta

FAMILY = roberta("XLMRoberta", runs_as="roberta")

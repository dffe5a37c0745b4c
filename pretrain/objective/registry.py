"""Which objective a phase trains with, and which it is evaluated with."""

import dataclasses
from collections.abc import Callable, Mapping

from pretrain.config import EvalConfig
from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.objective import Objective
from pretrain.phases import Phase

MAKERS: Mapping[str, Callable[..., MaskedLM | CausalLM]] = {
    MaskedLM.name: lambda tables, rate, separator, rates=None: MaskedLM(tables, rate, rates),
    CausalLM.name: lambda tables, rate, separator, rates=None: CausalLM(separator),
}
"""The objectives by name: made of the masking's tables, the largest mask rate, the token that closes a document, and
the rate of each step if it is not constant."""


def training_objective(phase: Phase, tables: MaskingTables, separator: int, z_loss: float = 0.0) -> Objective:
    """What a phase learns.

    Args:
      phase: the phase.
      tables: what masking knows of the config and the tokenizer.
      separator: the token that closes a document.
      z_loss: `config.objective.z_loss`.
    """
    made = MAKERS[phase.objective](tables, phase.masking_rate, separator, phase.mask_rates)
    return dataclasses.replace(made, z_loss=z_loss)


def evaluation_objective(
    phase: Phase, config: EvalConfig, tables: MaskingTables, separator: int
) -> Objective:
    """What a phase is evaluated with: its own objective, under masks of the evaluation's rate.

    So evaluations of phases and of runs that mask at different rates compare. Arguments as in `training_objective`;
    `config` is the run's `config.eval`.
    """
    return MAKERS[phase.objective](tables, config.masking_rate or phase.masking_rate, separator)

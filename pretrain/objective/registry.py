"""Which objective a phase trains with, and which it is evaluated with."""

from collections.abc import Callable, Mapping

from pretrain.config import EvalConfig
from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.objective import Objective
from pretrain.phases import Phase

MAKERS: Mapping[str, Callable[[MaskingTables, float, int], Objective]] = {
    MaskedLM.name: lambda tables, rate, separator: MaskedLM(tables, rate),
    CausalLM.name: lambda tables, rate, separator: CausalLM(separator),
}
"""The objectives by name: made of the masking's tables, a mask rate and the token that closes a document."""


def training_objective(phase: Phase, tables: MaskingTables, separator: int) -> Objective:
    """What a phase learns.

    Args:
      phase: the phase.
      tables: what masking knows of the config and the tokenizer.
      separator: the token that closes a document.
    """
    return MAKERS[phase.objective](tables, phase.masking_rate, separator)


def evaluation_objective(
    phase: Phase, config: EvalConfig, tables: MaskingTables, separator: int
) -> Objective:
    """What a phase is evaluated with: its own objective, under masks of the evaluation's rate.

    So evaluations of phases and of runs that mask at different rates compare. Arguments as in `training_objective`;
    `config` is the run's `config.eval`.
    """
    return MAKERS[phase.objective](tables, config.masking_rate or phase.masking_rate, separator)

"""The checks of how a run learns: of its optimiser, its loss and its average of weights."""

import math

from base.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.optim.config import AverageConfig


def check_learning(config: PretrainConfig) -> None:
    """Refuse values out of their range.

    Raises:
      UserError: a value is wrong; the message says what would be right.
    """
    optimizer = config.optimizer
    decay = optimizer.matrix_weight_decay
    if decay is not None and not 0 <= decay < math.inf:
        raise UserError(
            f"config.optimizer.matrix_weight_decay={decay} should be 0 or more, or None (weight_decay)"
        )
    if not 0 <= optimizer.normuon_beta2 < 1:
        raise UserError(
            f"config.optimizer.normuon_beta2={optimizer.normuon_beta2} should be 0 or more, and less than 1"
        )
    if optimizer.reference_batch < 0:
        raise UserError(
            f"config.optimizer.reference_batch={optimizer.reference_batch} should be a number of tokens, or 0 (off)"
        )
    if not 0 <= optimizer.batch_exponent <= 1:
        raise UserError(
            f"config.optimizer.batch_exponent={optimizer.batch_exponent} should be between 0 and 1"
        )
    if not 0 <= config.objective.z_loss < math.inf:
        raise UserError(
            f"config.objective.z_loss={config.objective.z_loss} should be 0 (off) or more, such as 1e-4"
        )
    check_average(config.average)


def check_average(config: AverageConfig) -> None:
    """Refuse a decay out of its range; the same in both stages.

    Args:
      config: `config.average`.

    Raises:
      UserError: it is; the message says what would be right.
    """
    if not 0 <= config.decay < 1:
        raise UserError(
            f"config.average.decay={config.decay} should be 0 (off) or more, and less than 1, such as 0.999"
        )

"""What a model card says of the optimiser's moments, and of averages of weights."""

from collections.abc import Mapping
from typing import Any

from pretrain.optim import muon


def moments_rows(optimizer: Mapping[str, Any]) -> dict[str, str]:
    """The rows of an optimiser's moments, where it has any, and of what only some optimisers have.

    Args:
      optimizer: `config.optimizer`, as a dict.
    """
    if optimizer["name"] == "adafactor":
        return {}
    rows = {"betas, eps": f"{optimizer['beta1']}, {optimizer['beta2']}, {optimizer['eps']}"}
    if optimizer["name"] in muon.NAMES:
        rows["muon momentum"] = f"{optimizer['muon_momentum']}"
        if optimizer["matrix_weight_decay"] is not None:
            rows["weight decay of the layers' matrices"] = f"{optimizer['matrix_weight_decay']}"
    if optimizer["name"] == "normuon":
        rows["normuon beta2"] = f"{optimizer['normuon_beta2']}"
    if optimizer["moment_dtype"] != "float32":
        rows["first moments"] = optimizer["moment_dtype"]
    return rows


def rate_text(optimizer: Mapping[str, Any], peaks: str) -> str:
    """The peak learning rates, and how batches scale them where they do.

    Args:
      optimizer: `config.optimizer`, as a dict.
      peaks: those of the run's phases.
    """
    reference = optimizer["reference_batch"]
    scaling = f" x (tokens of the batch / {reference:,})^{optimizer['batch_exponent']}" if reference else ""
    return f"{peaks}{scaling}"


def loss_row(objective: Mapping[str, Any]) -> dict[str, str]:
    """The row of what is minimised beside the cross-entropy, where there is any.

    Args:
      objective: `config.objective`, as a dict.
    """
    return {"z-loss": f"{objective['z_loss']}"} if objective["z_loss"] else {}


def weights_row(config: Mapping[str, Any], weights: str, mean_of: int) -> dict[str, str]:
    """The row that says which weights are exported, where they are not those of one step.

    Args:
      config: the run's, as nested dicts.
      weights: "raw" or "average".
      mean_of: the number of checkpoints whose mean is exported.
    """
    kinds = [f"moving average, decay {config['average']['decay']}"] if weights == "average" else []
    kinds += [f"mean of {mean_of} checkpoints"] if mean_of > 1 else []
    return {"weights": "; ".join(kinds)} if kinds else {}


def export_flags(weights: str, mean_of: int) -> str:
    """The flags of `pretrain.export` that choose these weights, each with a space before it."""
    return f" --weights={weights}" * (weights != "raw") + f" --mean_of={mean_of}" * (mean_of > 1)

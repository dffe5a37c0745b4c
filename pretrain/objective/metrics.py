"""The metrics of masked language modelling, made of sums that add up over steps, micro-batches and processes."""

import math
from collections.abc import Mapping


def masked_language_model_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Make the metrics of training steps of their sums.

    Args:
      sums: loss_sum (nats), correct_sum and weight_sum over predicted tokens; maskable_sum, the number of tokens that
        may be predicted.

    Returns:
      loss (nats per predicted token), accuracy, perplexity, and predicted_share (of the tokens that may be predicted).
    """
    weight = max(float(sums["weight_sum"]), 1.0)
    loss = float(sums["loss_sum"]) / weight
    return {
        "loss": loss,
        "accuracy": float(sums["correct_sum"]) / weight,
        "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.nan,
        "predicted_share": float(sums["weight_sum"]) / max(float(sums["maskable_sum"]), 1.0),
    }

"""What a run takes on a TPU pod, before one is rented: `python -m pretrain.plan`."""

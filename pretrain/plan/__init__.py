"""An estimate of a run's memory and time on a TPU pod, before the pod is rented: `python -m pretrain.plan`."""

"""What a population reports: its metrics made of sums [M], its speed, and the folders of its members' metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from base import schema
from finetune.job import Job
from pretrain.reports.recorder import Interval


def classification_metrics(sums: Mapping[str, Any], *, classes: bool) -> dict[str, Any]:
    """Make the metrics [M] of training steps of their sums [M]: the loss, and the accuracy where there are classes."""
    weight = np.maximum(sums["weight_sum"], 1.0)
    metrics = {"loss": sums["loss_sum"] / weight}
    return metrics | ({"accuracy": sums["correct_sum"] / weight} if classes else {})


def speed(interval: Interval) -> dict[str, float]:
    """Examples and tokens a second, of all members together."""
    return {
        f"train/{name}_per_second": float(interval.totals[name]) / interval.seconds
        for name in ("examples", "tokens")
    }


def metric_folders(job: Job, workdir: epath.Path) -> list[tuple[epath.Path, dict[str, Any] | None]]:
    """Where metrics go, and the hyperparameters that TensorBoard shows of each folder; None shows none.

    The metrics of a single run go to WORKDIR/metrics.jsonl and WORKDIR/tensorboard. If there are several runs, each has
    a folder WORKDIR/runs/NAME of its own, and WORKDIR holds the means.
    """
    config = job.config
    values = schema.flatten(schema.as_dict(config))
    own = [
        {**values, "seed": member.seed, "optimizer.learning_rate": member.learning_rate}
        for member in config.members
    ]
    if len(own) == 1:
        return [(workdir, own[0])]
    return [(workdir, None), *((workdir / "runs" / name, each) for name, each in zip(member_names(job), own))]


def member_names(job: Job) -> list[str]:
    """A name for each run of the population: by seed, and by learning rate where there are several."""
    several = len(job.config.learning_rates) > 1
    return [
        f"seed{member.seed}" + (f"_lr{member.learning_rate:g}" if several else "")
        for member in job.config.members
    ]

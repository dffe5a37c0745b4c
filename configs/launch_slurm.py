"""Slurm: two nodes of eight GPUs, one process for each GPU. The job goes back to the queue until the run has finished.

python -m launch.slurm NAME --config=configs/launch_slurm.py --submit \
    -- python -m pretrain --config=configs/roberta_base.py --workdir=runs/NAME \
    --config.data.source=files --config.data.path='corpus/*.jsonl.zst'

Without --submit the script is printed. Set partition, account, GPUs of a node and time limit to values of your cluster.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The launch config's fields."""
    config = ml_collections.ConfigDict()
    config.slurm = {
        "nodes": 2,
        "gpus_per_node": 8,
        "cpus_per_task": 8,
        "time": "24:00:00",
        "setup": ("source .venv/bin/activate",),
    }
    return config

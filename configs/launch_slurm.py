"""Slurm: two nodes of eight GPUs, one process a GPU, queued again until the run has finished.

python -m launch.slurm NAME --config=configs/launch_slurm.py --submit \
    -- python -m pretrain --config=configs/roberta_base.py --workdir=runs/NAME \
    --config.data.source=files --config.data.path='corpus/*.jsonl.zst'

Without --submit the script is printed. Set to what your cluster has: partition, account, the GPUs of a node, the limit.
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

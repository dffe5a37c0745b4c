"""GKE with GPUs: two spot machines with eight H100 each; each machine runs one process.

python -m launch.kubernetes NAME --config=configs/launch_gke_gpu.py \
    --config.kubernetes.image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/unmask:cuda --out=run.yaml \
    -- python -m pretrain --config=configs/roberta_base.py --workdir=gs://BUCKET/NAME \
    --config.data.source=files --config.data.path='gs://BUCKET/corpus/*.jsonl.zst'
kubectl apply -f run.yaml

The field `accelerator` is the node pool's label cloud.google.com/gke-accelerator: nvidia-l4, nvidia-tesla-a100, ...
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The launch config's fields."""
    config = ml_collections.ConfigDict()
    config.kubernetes = {
        "accelerator": "nvidia-h100-80gb",
        "nodes": 2,
        "gpus_per_node": 8,
        "spot": True,
        "service_account": "unmask",
    }
    return config

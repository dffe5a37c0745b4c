"""GKE with TPUs: one spot slice of TPU7x with 16 chips on 4 machines. For v4 to v6e, set `accelerator`.

python -m launch.kubernetes NAME --config=configs/launch_gke_tpu.py \
    --config.kubernetes.image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/unmask:tpu --out=run.yaml \
    -- python -m pretrain --config=configs/roberta_base.py --workdir=gs://BUCKET/NAME \
    --config.data.source=files --config.data.path='gs://BUCKET/corpus/*.jsonl.zst'
kubectl apply -f run.yaml

For two slices: --config.kubernetes.slices=2 and --config.mesh.replica=2. The cluster needs JobSet for them.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The launch config's fields."""
    config = ml_collections.ConfigDict()
    config.kubernetes = {
        "accelerator": "tpu7x-32",  # for TPU7x the number counts TensorCores; a chip has two
        "spot": True,
        "service_account": "unmask",
    }
    return config

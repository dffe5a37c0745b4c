"""Two v5e slices of 256 chips, joined over the data-centre network, for `python -m launch.tpu`.

python -m launch.tpu up roberta-large --config=configs/launch_tpu_multislice.py --config.tpu.zone=us-west4-a \
    --config.workdir=gs://BUCKET/{name} -- python -m pretrain --config=configs/roberta_large.py \
    --config.mesh.replica=2 --config.data.streams=512

The slices are one queued resource: both come, or neither. mesh.replica is their number, so that only gradients cross
between them; each of the 512 chips has a stream of its own. Costs and everything else: docs/tpu.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The machines' fields."""
    config = ml_collections.ConfigDict()
    config.workdir = ""  # gs://BUCKET/{name}: for a command that names no --workdir
    config.secrets = ()  # ("HF_TOKEN=hf-token",) reads the secret hf-token on each machine
    config.tpu = {
        "accelerator": "v5litepod-256",
        "slices": 2,
        "capacity": "spot",
        "service_account": "",  # NAME@PROJECT.iam.gserviceaccount.com, which may use the bucket and the secrets
    }
    return config

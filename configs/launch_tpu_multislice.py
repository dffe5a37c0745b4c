"""Two v5e slices of 256 chips, joined over the data-centre network, for `python -m launch.tpu`.

python -m launch.tpu up roberta-large --config=configs/launch_tpu_multislice.py --config.tpu.zone=us-west4-a \
    --config.workdir=gs://BUCKET/{name} -- python -m pretrain --config=configs/roberta_large.py \
    --config.mesh.replica=2 --config.data.streams=512

One queued resource requests both slices, so that both come or neither. mesh.replica is the number of slices: only
gradients cross the slow network between them. Each of the 512 chips reads its own stream. Costs and everything else:
docs/tpu.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The machines' fields."""
    config = ml_collections.ConfigDict()
    config.workdir = ""  # gs://BUCKET/{name}, used for a command without --workdir
    config.secrets = ()  # ("HF_TOKEN=hf-token",) sets HF_TOKEN from the secret hf-token on each machine
    config.tpu = {
        "accelerator": "v5litepod-256",
        "slices": 2,
        "capacity": "spot",
        "service_account": "",  # NAME@PROJECT.iam.gserviceaccount.com; it needs access to the bucket and the secrets
    }
    return config

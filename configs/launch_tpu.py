"""A TPU pod of one slice, for `python -m launch.tpu`.

python -m launch.tpu up roberta-no --config=configs/launch_tpu.py --config.tpu.zone=europe-west4-a \
    --config.workdir=gs://BUCKET/{name} -- python -m pretrain --config=configs/roberta_base_oscar_no.py

Project and zone are gcloud's own where they are not set here. Costs and everything else: docs/tpu.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The machines' fields."""
    config = ml_collections.ConfigDict()
    config.workdir = ""  # gs://BUCKET/{name}: for a command that names no --workdir
    config.source = "commit"  # "archive" sends the working tree as it is
    config.secrets = ()  # ("HF_TOKEN=hf-token",) reads the secret hf-token on each machine
    config.tpu = {
        "accelerator": "v3-8",
        "capacity": "spot",
        "service_account": "",  # NAME@PROJECT.iam.gserviceaccount.com, which may use the bucket and the secrets
    }
    return config

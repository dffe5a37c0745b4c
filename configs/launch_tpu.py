"""A TPU pod of one slice, for `python -m launch.tpu`.

python -m launch.tpu up roberta-no --config=configs/launch_tpu.py --config.tpu.zone=europe-west4-a \
    --config.workdir=gs://BUCKET/{name} -- python -m pretrain --config=configs/roberta_base_oscar_no.py

Without a project and a zone in the config, gcloud's own settings are used. Costs and everything else: docs/tpu.md.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The machines' fields."""
    config = ml_collections.ConfigDict()
    config.workdir = ""  # gs://BUCKET/{name}, used for a command without --workdir
    config.source = "commit"  # "archive" sends the working tree with its uncommitted changes
    config.secrets = ()  # ("HF_TOKEN=hf-token",) sets HF_TOKEN from the secret hf-token on each machine
    config.tpu = {
        "accelerator": "v3-8",
        "capacity": "spot",
        "service_account": "",  # NAME@PROJECT.iam.gserviceaccount.com; it needs access to the bucket and the secrets
    }
    return config

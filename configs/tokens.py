"""Entities or parts of speech: fine-tune a pretrained model to give each word a class.

python -m finetune --config=configs/tokens.py --config.init_from=runs/base --workdir=runs/entities \
    --config.data.train=train.conll --config.data.validation=dev.conll --config.data.test=test.conll \
    --config.data.text=0 --config.data.label=2

Files: columns (a word a line), jsonl or parquet, all but parquet also .gz or .zst. Or a data set of the hub:
--config.data.source=hub --config.data.name=NAME
Hardware: one GPU or a few CPU cores. With 125M parameters, 15,000 sentences take some minutes on a GPU.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.kind = "tokens"
    config.epochs = 3
    config.global_batch = 32
    config.data = {"source": "files", "train": "", "validation": "", "test": ""}
    config.optimizer = {"learning_rate": 5e-5, "weight_decay": 0.01}
    config.schedule = {"warmup_ratio": 0.06}
    return config

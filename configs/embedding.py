"""Vectors of texts: fine-tune a pretrained model on pairs of texts that belong together.

python -m finetune --config=configs/embedding.py --config.init_from=runs/base --workdir=runs/vectors \
    --config.data.train=pairs.tsv --config.data.validation=dev.tsv \
    --config.data.text=question --config.data.text_pair=answer

Files: csv, tsv, json, jsonl or parquet, all but parquet also .gz or .zst. Or a data set of the hub:
--config.data.source=hub --config.data.name=NAME. A hard negative of each pair: --config.data.negative=COLUMN
Hardware: one GPU, or CPU cores for models of some 10M parameters. The larger the batch, the harder the task of the
model; config.grad_accum=8 takes an eighth of the memory.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.kind = "embedding"
    config.epochs = 1
    config.global_batch = 64
    config.data = {"source": "files", "train": "", "validation": "", "test": ""}
    config.embedding = {"temperature": 0.05}
    config.optimizer = {"learning_rate": 5e-5, "weight_decay": 0.01}
    config.schedule = {"warmup_ratio": 0.1}
    return config

"""Your own files: fine-tune a pretrained model to predict your classes or your scores.

python -m finetune --config=configs/classify.py --config.init_from=runs/base --workdir=runs/mine \
    --config.data.train=train.csv --config.data.validation=dev.csv --config.data.test=test.csv \
    --config.data.text=review --config.data.label=stars

Files: csv, tsv, json or jsonl, plain, .gz or .zst. Pairs of texts: --config.data.text_pair=COLUMN
Scores instead of classes: --config.data.regression=true
Hardware: one GPU or a few CPU cores. With 125M parameters, 10,000 texts take some minutes on a GPU.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.epochs = 3
    config.global_batch = 32
    config.data = {
        "source": "files",
        "train": "",
        "validation": "",
        "test": "",
        "text": "text",
        "label": "label",
    }
    config.optimizer = {"learning_rate": 2e-5, "weight_decay": 0.01}
    config.schedule = {"warmup_ratio": 0.06}
    return config

"""Answers to questions: fine-tune a pretrained model to find the span of a context that answers a question.

python -m finetune --config=configs/questions.py --config.init_from=runs/base --workdir=runs/answers \
    --config.data.train=train-v2.0.json --config.data.validation=dev-v2.0.json

Files: SQuAD's json (1.1 or 2.0), or jsonl or parquet with question, context and answers. Or a data set of the hub:
--config.data.source=hub --config.data.name=rajpurkar/squad_v2
Hardware: one GPU. With 125M parameters, SQuAD's 130,000 questions take some hours on a GPU, and days on a CPU.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.kind = "questions"
    config.epochs = 2
    config.global_batch = 32
    config.data = {"source": "files", "train": "", "validation": "", "test": ""}
    config.questions = {"stride": 0, "max_answer_length": 30}
    config.optimizer = {"learning_rate": 3e-5, "weight_decay": 0.01}
    config.schedule = {"warmup_ratio": 0.1}
    return config

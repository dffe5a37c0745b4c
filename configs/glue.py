"""GLUE: fine-tunes a pretrained model and reports best, mean and standard deviation over seeds.

python -m finetune --config=configs/glue.py:mrpc --config.init_from=runs/base --workdir=runs/mrpc --config.seeds=5
python -m finetune --config=configs/glue.py:all --config.init_from=runs/base --workdir=runs/glue --config.seeds=5

Tasks: cola, mnli, mnli-mm, mrpc, qnli, qqp, rte, sst2, stsb, wnli; all is the nine of the benchmark, one after another.
Files of your own: configs/classify.py
MRPC, RTE and STS-B from the best model of MNLI: --config.benchmark.from_mnli=true
From the official tsv files instead of the hub: --config.data.source=folder --config.data.path=GLUE_FOLDER
Hardware: one GPU or a few CPU cores. A model of 125M parameters takes minutes a task on a GPU (MNLI and QQP: an hour).
"""

import ml_collections

EPOCHS = {"mrpc": 5, "wnli": 5}  # the two small ones, as in the Flax example's table
BY_SIZE = ("wnli", "rte", "mrpc", "stsb", "cola", "sst2", "qnli", "qqp", "mnli")


def get_config(task: str = "mrpc") -> ml_collections.ConfigDict:
    """The recipe's fields for a task, or for all."""
    config = ml_collections.ConfigDict()
    if task == "all":
        config.epochs = 3
        tasks = [{"task": name, **({"epochs": EPOCHS[name]} if name in EPOCHS else {})} for name in BY_SIZE]
        config.benchmark = {"tasks": tasks}
    else:
        config.task = task
        config.epochs = EPOCHS.get(task, 3)
    config.global_batch = 32
    config.data = {"source": "hub"}
    config.optimizer = {"learning_rate": 2e-5, "weight_decay": 0.01}
    config.schedule = {"warmup_ratio": 0.06}
    return config

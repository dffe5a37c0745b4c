"""GLUE: fine-tune a pretrained model, and report best, mean and standard deviation over seeds.

python -m finetune --config=configs/glue.py:mrpc --config.init_from=runs/base --workdir=runs/mrpc --config.seeds=5
python -m finetune --config=configs/glue.py:all --config.init_from=runs/base --workdir=runs/glue --config.seeds=5

Tasks: cola, mnli, mnli-mm, mrpc, qnli, qqp, rte, sst2, stsb, wnli. `all` runs the nine tasks of the benchmark in turn.
For your own files use configs/classify.py.
To start MRPC, RTE and STS-B from the best model of MNLI: --config.benchmark.from_mnli=true
To read the official tsv files instead of the hub: --config.data.source=folder --config.data.path=GLUE_FOLDER
Hardware: one GPU or a few CPU cores. With 125M parameters, a task takes minutes on a GPU (MNLI and QQP: an hour).
"""

import ml_collections

EPOCHS = {"mrpc": 5, "wnli": 5}  # these two tasks are small; the numbers are from the Flax example's table
BY_SIZE = ("wnli", "rte", "mrpc", "stsb", "cola", "sst2", "qnli", "qqp", "mnli")


def get_config(task: str = "mrpc") -> ml_collections.ConfigDict:
    """The recipe's fields for one task, or for all tasks."""
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

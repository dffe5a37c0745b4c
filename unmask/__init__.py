"""The Python API: what the commands do, as functions for programs and notebooks.

    import unmask

    result = unmask.finetune("configs/glue.py:mrpc", "runs/mrpc", overrides={"init_from": "runs/base"})
    unmask.predict(result.workdir, [("A cat sleeps.", "The cat is asleep.")])

Each function is the same engine as its command: the same workdirs, files and messages. docs/api.md has an example of
each.
"""

from base.errors import UserError
from finetune.results.results_file import Summary
from finetune.search.trials_table import Trial
from finetune.train import Evaluation
from unmask.examples import Rows
from unmask.inference import evaluate, load_examples, look, predict
from unmask.messages import show_messages
from unmask.publishing import export, push_to_hub
from unmask.results import (
    STOP,
    EvaluateResult,
    FinetuneResult,
    Prediction,
    PretrainResult,
    RunResult,
    SearchResult,
)
from unmask.settings import finetune_config, pretrain_config
from unmask.training import finetune, pretrain, search

__all__ = [
    "STOP",
    "EvaluateResult",
    "Evaluation",
    "FinetuneResult",
    "Prediction",
    "PretrainResult",
    "Rows",
    "RunResult",
    "SearchResult",
    "Summary",
    "Trial",
    "UserError",
    "evaluate",
    "export",
    "finetune",
    "finetune_config",
    "load_examples",
    "look",
    "predict",
    "pretrain",
    "pretrain_config",
    "push_to_hub",
    "search",
    "show_messages",
]

"""What comparisons with transformers' Trainer have in common: its arguments, a random start, and their statistics."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def trainer_arguments(folder: str, **values: Any) -> Any:
    """transformers' TrainingArguments for a run on a CPU with a linear schedule that keeps and reports nothing."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **values,
    )


def write_random_weights(model: str, folder: Path, max_length: int) -> None:
    """A folder with the model's config and tokenizer, and weights as transformers draws them."""
    import torch
    from etils import epath
    from transformers import AutoConfig, AutoModel

    from finetune.job import sources
    from pretrain.models.huggingface import read_config
    from pretrain.runtime.workdir import MODEL_FILE, is_workdir
    from tokenizer import load as tokenizers

    weights, tokenizer = sources(model)
    path = epath.Path(weights)
    values = read_config(str(path / MODEL_FILE) if is_workdir(path) else weights)
    config = AutoConfig.for_model(**values)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizers.load(tokenizer).save(epath.Path(folder), model_max_length=max_length)


def shown(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, times 100."""
    if not values:
        return ""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):.2f} ± {100 * std:.2f}"


def distance(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """The difference of the means in units of the runs' standard deviation (that of both pooled)."""
    if min(len(mine), len(theirs)) < 2:
        return ""
    std = math.sqrt((statistics.variance(mine) + statistics.variance(theirs)) / 2)
    difference = statistics.fmean(mine) - statistics.fmean(theirs)
    return f"{difference / std:+.2f}" if std else ("0" if not difference else "no spread")


def p_value(mine: Sequence[float], others: Sequence[float]) -> str:
    """The p-value of Welch's test that the means are the same; '' below two runs, or if no run differs from another."""
    from scipy.stats import ttest_ind

    if min(len(mine), len(others)) < 2 or len({*mine}) == len({*others}) == 1:
        return ""
    return f"{ttest_ind(mine, others, equal_var=False).pvalue:.2g}"

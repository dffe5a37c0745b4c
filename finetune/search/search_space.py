"""The search space: check the ranges before any training, and make the config of a trial from the drawn values."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from base import schema
from base.errors import UserError
from base.suggestions import Names, unknown_field
from finetune.config import FinetuneConfig, SearchConfig, check_values
from finetune.population.early_stopping import no_metric

if TYPE_CHECKING:
    from finetune.job import Job

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "learning_rate": "optimizer.learning_rate",
        "global_batch": "global_batch",
        "epochs": "epochs",
        "warmup_ratio": "schedule.warmup_ratio",
        "weight_decay": "optimizer.weight_decay",
    }
)
"""Fields of config.search that set a range, and the config field that takes the drawn value."""
NAMES = Names.of(FinetuneConfig, ())
CHOICES = ("global_batch",)
"""Names of FIELDS whose value is drawn from a list. The other values are drawn between a low and a high value."""


def ranges(config: FinetuneConfig) -> dict[str, tuple[Any, ...]]:
    """The range of each searched value, by names of FIELDS: (low, high), or the choices."""
    given = {name: getattr(config.search, name) for name in FIELDS}
    return {name: values for name, values in given.items() if values}


def check_ranges(config: FinetuneConfig, *, own_space: bool = False) -> None:
    """Refuse an impossible search before any file is read.

    Args:
      config: the config of the search.
      own_space: whether a function of the user's draws the values, and not the ranges of the config.

    Raises:
      UserError: a range is wrong, or another field contradicts config.search.
    """
    wanted = config.search
    if wanted.trials < 0:
        raise UserError(f"config.search.trials={wanted.trials} should be 0 (no search) or more")
    if config.benchmark.tasks:
        raise UserError(
            "config.search works on one task; leave config.benchmark.tasks empty, set config.task"
        )
    if config.learning_rates:
        raise UserError(
            f"config.learning_rates={list(config.learning_rates)} and a search exclude each other; "
            "set config.search.learning_rate to its low and high"
        )
    given = ranges(config)
    if own_space and given:
        raise UserError(
            f"config.search.{next(iter(given))} and hp_space both say what is searched; leave one of them out"
        )
    if not given and not own_space:
        raise UserError(
            "the search has no range; set one of " + ", ".join(f"config.search.{name}" for name in FIELDS)
        )
    check_values(with_values(config, {}))
    for name, values in given.items():
        where = f"config.search.{name}={list(values)}"
        if name not in CHOICES and not (len(values) == 2 and values[0] < values[1] < math.inf):
            raise UserError(f"{where} should be two values, a low and a higher one")
        if name in CHOICES and len(set(values)) < len(values):
            raise UserError(f"{where} lists a value twice")
        if name == "weight_decay" and values[0] < 0:
            raise UserError(f"{where} should be 0 or more")
        for value in values:
            try:
                check_values(with_values(config, {name: value}))
            except UserError as error:
                raise UserError(f"{where}: {error}") from error


def with_values(config: FinetuneConfig, values: Mapping[str, Any]) -> FinetuneConfig:
    """The config of a trial: the config without its search, and with the drawn values.

    Args:
      config: the config of the search.
      values: the drawn values, by names of FIELDS or by paths of fields.

    Raises:
      UserError: there is no such field, or it does not take the value.
    """
    tree = schema.as_dict(replace(config, search=SearchConfig()))
    for name, value in values.items():
        *groups, leaf = FIELDS.get(name, name).removeprefix("config.").split(".")
        holder: Any = tree
        for group in groups:
            holder = holder.get(group) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or leaf not in holder:
            raise UserError(unknown_field(f"config.{name}", list(schema.flatten(tree)), NAMES))
        holder[leaf] = value
    return schema.build(FinetuneConfig, tree)


def objective_of(job: "Job", given: str) -> str:
    """The metric that a search optimises: `given`, or else the metric that chooses the job's best model.

    Raises:
      UserError: the task has no such metric.
    """
    prefixes = [f"{each.name}/" if each.name else "" for each in job.evaluations]
    known = [f"{prefix}{name}" for prefix in prefixes for name in (*job.data.task.scores, "loss")]
    if given and given not in known:
        evaluated = next(iter(job.data.evaluations.values())).origin
        raise no_metric("config.search.objective", given, job.data.task, evaluated, known)
    return given or job.metric

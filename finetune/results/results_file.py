"""The results of a run: results.json, a table, and a summary over seeds for every metric."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from rich.table import Table
from rich.text import Text

from base import formatting, schema
from base.json_files import json_object, warn_once
from data.labelled.config import HUB_NAME
from finetune.population.early_stopping import is_better
from finetune.report.pages import RESULTS_FILE
from finetune.train import Outcome
from pretrain.publish.public_names import hub_id
from pretrain.runtime.workdir import write_text

WANTED: Mapping[str, Any] = {
    **dict.fromkeys(("config", "examples", "summary"), dict),
    **dict.fromkeys(("runs", "history", "classes"), list),
    **dict.fromkeys(("task", "title", "metric"), str),
    **dict.fromkeys(("best_run", "steps"), int),
    "seconds": (int, float),
}
"""What a results.json has at least, and the types of it."""


@dataclass(frozen=True)
class Summary:
    """One metric over the runs of a population, each at its chosen evaluation."""

    best: float
    mean: float
    std: float
    """Sample standard deviation (n - 1); 0 of a single run. NaN, as the mean is, where a run has diverged."""

    @classmethod
    def of(cls, values: Sequence[float], metric: str) -> "Summary":
        """Of the runs' values."""
        best = values[0]
        for value in values[1:]:
            best = value if is_better(metric, value, best) else best
        if not all(map(math.isfinite, values)):  # a run has diverged
            return cls(best, math.nan, math.nan)
        return cls(best, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


def results(outcome: Outcome) -> dict[str, Any]:
    """All results of a finished run, for JSON.

    Metrics are shares (accuracy 0.91), not percent.
    """
    job, tracking = outcome.job, outcome.tracking
    chosen = [tracking.history[index if job.config.eval.restore_best else -1] for index in tracking.best]
    members = [
        {
            "seed": member.seed,
            "learning_rate": member.learning_rate,
            "step": evaluation["step"],
            "epoch": evaluation["epoch"],
            "metrics": evaluation["members"][index],
            "last": tracking.history[-1]["members"][index],
        }
        for index, (member, evaluation) in enumerate(zip(job.config.members, chosen, strict=True))
    ]
    groups = {
        rate: [m for m in members if m["learning_rate"] == rate]
        for rate in dict.fromkeys(member.learning_rate for member in job.config.members)
    }
    train, data = job.data.train, job.data
    assert train is not None
    return {
        "task": data.task.name,
        "title": data.task.title,
        "init_from": job.config.init_from,
        **names_on_the_hub(job.config.init_from, schema.as_dict(job.config.data)),
        "model": {
            "model_type": job.classifier.encoder.config.model_type,
            "width": job.classifier.encoder.config.hidden_size,
            "parameters": job.parameters,
        },
        "kind": job.kind.name,
        "classes": list(job.labels),
        "look": job.look(),
        "texts": len(data.task.texts),
        "metric": job.metric,
        "best_run": best_member(outcome),
        "runs": members,
        "summary": {
            f"{rate:g}": {
                metric: vars(Summary.of([m["metrics"][metric] for m in group], metric))
                for metric in group[0]["metrics"]
                if metric.rpartition("/")[2] != "threshold"  # no value of it is better than another
            }
            for rate, group in groups.items()
        },
        "examples": {
            "train": {"count": len(train), "origin": train.origin, "official": train.official},
            **{
                name: {"count": len(examples), "origin": examples.origin, "official": examples.official}
                for name, examples in data.evaluations.items()
            },
        },
        "steps": outcome.step,
        "seconds": round(outcome.seconds, 1),
        "history": tracking.history,
        "config": schema.as_dict(job.config),
    }


def names_on_the_hub(init_from: str, data: Mapping[str, Any]) -> dict[str, str]:
    """Ids on the hub of the model that a run starts from and of its data set; '' of one that is elsewhere.

    Args:
      init_from: config.init_from.
      data: config.data, as a dict.
    """
    dataset = hub_id(data["name"] or HUB_NAME) if data["source"] == "hub" else ""
    return {"base_model": hub_id(init_from), "dataset": dataset}


def best_member(outcome: Outcome) -> int:
    """The index of the run with the best chosen evaluation."""
    tracking, metric = outcome.tracking, outcome.job.metric
    values = [
        tracking.history[index if outcome.job.config.eval.restore_best else -1]["members"][member][metric]
        for member, index in enumerate(tracking.best)
    ]
    best = 0
    for member, value in enumerate(values):
        best = member if is_better(metric, value, values[best]) else best
    return best


def write_results(found: Mapping[str, Any], workdir: epath.Path) -> None:
    """Write WORKDIR/results.json; a score that is no number, of a run that has diverged, is null."""
    write_text(workdir / RESULTS_FILE, as_json(found))


def as_json(found: Mapping[str, Any]) -> str:
    """A JSON file of scores, in which one that is no number is null."""
    return json.dumps(_exchanged(found, _null), indent=2, allow_nan=False) + "\n"


def read_results(workdir: epath.Path) -> dict[str, Any] | None:
    """WORKDIR/results.json; None where there is none, or with a warning, where it is damaged."""
    file = workdir / RESULTS_FILE
    try:
        found = json_object(file)
        if lacking := [name for name, kind in WANTED.items() if not isinstance(found.get(name), kind)]:
            raise ValueError(f"it has no {lacking[0]}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        warn_once(f"{file} is damaged ({error}); the run's own command makes it again")
        return None
    return {
        name: _exchanged(value, _nan) if name in ("runs", "summary", "history", "onnx", "tests") else value
        for name, value in found.items()
    }


def _exchanged(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A JSON value with each of its leaves exchanged."""
    if isinstance(value, Mapping):
        return {name: _exchanged(each, leaf) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_exchanged(each, leaf) for each in value]
    return leaf(value)


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan(value: Any) -> Any:
    return math.nan if value is None else value


def table(found: Mapping[str, Any]) -> Table:
    """Best, mean and standard deviation of each metric for each learning rate, and the best model's test scores."""
    runs = "1 run" if len(found["runs"]) == 1 else f"{len(found['runs'])} runs"
    title = f"{found['title']}: {runs}, {formatting.duration(found['seconds'])}"
    shown = Table(title=Text(title, style="table.title"))
    several = len(found["summary"]) > 1
    if several:
        shown.add_column("learning rate")
    shown.add_column("metric")
    for name in ("best", "mean", "std"):
        shown.add_column(name, justify="right")
    for rate, metrics in found["summary"].items():
        for metric, summary in metrics.items():
            chosen = " *" if metric == found["metric"] else ""
            values = [score(metric, summary[name]) for name in ("best", "mean", "std")]
            shown.add_row(*([rate] if several else []), metric + chosen, *values)
    for split, metrics in found.get("tests", {}).items():
        shown.add_section()
        for metric, value in metrics.items():
            shown.add_row(*([""] if several else []), f"{split} {metric}", score(metric, value), "", "")
    unofficial = [name for name, examples in found["examples"].items() if not examples["official"]]
    caption = "* chooses the best model"
    if unofficial and found["task"]:
        caption += f"; not the official {', '.join(unofficial)} set"
    for split, tested in found.get("test_examples", {}).items():
        some = f"{tested['labelled']} of " if tested["labelled"] < tested["count"] else ""
        caption += f"; {split}: the best model on {some}{tested['count']} examples"
    shown.caption = caption
    return shown


def score(metric: str, value: float) -> str:
    """A metric as tables show it: shares times 100; losses, and numbers that are no shares, as they are."""
    plain = metric.rpartition("/")[2] in ("loss", "threshold") or abs(value) > 1
    return f"{value:.4f}" if plain else f"{100 * value:.2f}"

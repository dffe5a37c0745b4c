"""The results of a search: a table of its trials, and a config file that repeats the best trial."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath
from rich import box
from rich.table import Table

from base import formatting, schema
from base.command_line import python
from finetune.config import FinetuneConfig
from finetune.results.results_file import score
from finetune.search.search_space import FIELDS, with_values

CAPTION = (
    "* best trial; - no score: the trial diverged, its objective is NaN, or it ended early (worse than the median of "
    "earlier trials)"
)
DIVERGED, NO_NUMBER, ENDED_EARLY = "diverged", "NaN", "ended early"


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int
    """Number of the trial, from 1. Its folder is WORKDIR/search/trial-NUMBER."""
    values: Mapping[str, Any]
    """The drawn values, by names of FIELDS or by paths of fields."""
    score: float | None
    """The objective; None if the trial was ended early or its score is NaN."""
    epochs: float
    """Number of passes over the training examples."""
    seconds: float
    without_score: str = ""
    """Why it has no score: DIVERGED, NO_NUMBER (the loss is a number, and the objective is none), ENDED_EARLY."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    objective: str
    trials: tuple[Trial, ...]
    best: Trial | None
    """The best trial; None if no trial has a score."""
    interrupted: str
    """The signal that stopped the search before its end; empty if it finished."""


def rerun_command(recipe: epath.Path, workdir: epath.Path) -> str:
    """The command that repeats the best trial's run, in the folder WORKDIR/best."""
    return shlex.join([python(), "-m", "finetune", f"--config={recipe}", f"--workdir={workdir / 'best'}"])


def best_recipe(config: FinetuneConfig, values: Mapping[str, Any], heading: str) -> str:
    """The text of a config file that repeats a run with these values. It sets only fields without their defaults.

    Args:
      config: the config of the search.
      values: the values of the best trial, by names of FIELDS.
      heading: text of the comment at the top of the file.
    """
    changed = schema.changed(schema.as_dict(with_values(config, values)), schema.as_dict(FinetuneConfig()))
    lines = [f"    config.{name} = {value!r}" for name, value in changed.items()]
    return "\n".join(
        [
            *(f"# {line}" for line in heading.splitlines()),
            "",
            "import ml_collections",
            "",
            "",
            "def get_config() -> ml_collections.ConfigDict:",
            '    """The fields that differ from the defaults."""',
            "    config = ml_collections.ConfigDict()",
            *lines,
            "    return config",
            "",
        ]
    )


def table(result: Found) -> Table:
    """A table of the trials for the terminal: drawn values, score, epochs and time."""
    header, rows = _cells(result)
    title = f"{len(rows)} trials: {result.objective}"
    shown = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in header:
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(result: Found) -> str:
    """The same table as a page of Markdown."""
    header, rows = _cells(result)
    lines = [header, ["---:"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# {len(rows)} trials: {result.objective}\n\n{body}\n\n{CAPTION}\n"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _cells(result: Found) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a row of texts for each trial."""
    drawn = dict.fromkeys(name for trial in result.trials for name in trial.values)
    names = sorted(drawn, key=lambda name: list(FIELDS).index(name) if name in FIELDS else len(FIELDS))
    header = ["trial", *(name.replace("_", " ") for name in names), "score", "epochs made", "time"]
    rows = []
    for trial in result.trials:
        value = "-" if trial.score is None else score(result.objective, trial.score)
        rows.append(
            [
                str(trial.number),
                *(_shown(trial.values.get(name)) for name in names),
                f"{value} *" if trial == result.best else value,
                f"{trial.epochs:g}",
                formatting.duration(trial.seconds),
            ]
        )
    return header, rows

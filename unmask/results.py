"""What the functions of the API return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from finetune.config import FinetuneConfig
from finetune.results.results_file import Summary
from finetune.search.trials_table import Trial

STOP: Final = "stop"
"""What a callback returns to end the run after the evaluation at hand."""


@dataclass(frozen=True)
class PretrainResult:
    """A pretraining run that has finished."""

    workdir: str
    """Its folder, which `finetune` takes as init_from."""
    step: int
    """Steps that it has made."""
    metrics: Mapping[str, float]
    """The last value of each metric that this call has logged; {} where nothing was left to do."""
    report: str
    """The report, an HTML page."""


@dataclass(frozen=True)
class RunResult:
    """One run of those that were fine-tuned together, at the evaluation that was chosen."""

    seed: int
    learning_rate: float
    step: int
    epoch: float
    metrics: Mapping[str, float]
    """Shares, not percent."""


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuning run that has finished."""

    workdir: str
    """Its folder, which `predict`, `evaluate` and `push_to_hub` take."""
    model: str
    """The folder of the best model, as transformers reads it."""
    report: str
    """The report, an HTML page."""
    metric: str
    """The metric that has chosen the best model."""
    runs: tuple[RunResult, ...]
    """Each seed and learning rate."""
    best: RunResult
    """The run whose model is kept."""
    summary: Mapping[float, Mapping[str, Summary]]
    """Learning rate -> metric -> best, mean and standard deviation over seeds."""
    tests: Mapping[str, Mapping[str, float]]
    """Scores of the best model on test sets that have labels, by set."""
    history: tuple[Mapping[str, Any], ...]
    """All evaluations: step, epoch, and the metrics of each run (`members`)."""
    seconds: float
    config: FinetuneConfig

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the best run."""
        return self.best.metrics


@dataclass(frozen=True)
class SearchResult:
    """A search that has finished."""

    workdir: str
    objective: str
    """The metric that was optimised, or `objective` for a function of one's own."""
    trials: tuple[Trial, ...]
    best: Trial
    config: FinetuneConfig
    """The config of the best trial, for `finetune`."""
    recipe: str
    """The same config as a recipe's file."""
    report: str
    """The report, an HTML page."""


@dataclass(frozen=True)
class EvaluateResult:
    """How a model scores."""

    model: str
    task: str
    metrics: Mapping[str, float]
    examples: Mapping[str, str]
    """The name of each set -> where its examples come from."""


@dataclass(frozen=True)
class Prediction:
    """A model's answer to one text, to a pair of texts, or to the words of a sentence."""

    labels: tuple[str, ...] = ()
    """The class; all that reach the threshold, of a model that gives any number; or the class of each word."""
    probabilities: Mapping[str, float] | None = None
    """Of each class; None of scores and of words."""
    score: float | None = None
    """Of a model that gives scores; of an answer to a question, its score less that of no answer."""
    answer: str | None = None
    """The answer to a question, '' for no answer; None of other models."""

    @property
    def label(self) -> str:
        """The only class.

        Raises:
          ValueError: there is none, or there are several.
        """
        (label,) = self.labels
        return label

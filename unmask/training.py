"""Pretraining, fine-tuning and searches."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from base import schema, terminal
from base.errors import UserError
from base.places import place_of
from finetune import train as finetuning
from finetune.config import FinetuneConfig
from finetune.job import MODEL
from finetune.report.pages import FILE as REPORT
from finetune.results.final_outputs import finish, finished
from finetune.results.own_metrics import ComputeMetrics
from finetune.results.results_file import Summary
from finetune.search import trials as searching
from finetune.search.own_functions import DIRECTIONS, ComputeObjective, HpSpace, OwnFunctions
from finetune.search.search_space import with_values
from finetune.train import Evaluation
from finetune.unused_fields import unused_fields as unused_in_finetuning
from pretrain import train as pretraining
from pretrain.config import PretrainConfig
from pretrain.unused_fields import unused_fields as unused_in_pretraining
from unmask.examples import Kept, Rows, check_train, with_files
from unmask.results import STOP, FinetuneResult, PretrainResult, RunResult, SearchResult
from unmask.settings import NOTHING, Overrides, Source, prepare, read, stopping

Workdir = str | os.PathLike[str]
Callback = Callable[[Evaluation], str | None]
"""Is called after each evaluation. It returns `STOP` to end the run there, and None to go on."""


def pretrain(
    config: Source | PretrainConfig,
    workdir: Workdir,
    *,
    overrides: Overrides = NOTHING,
    train: Rows | None = None,
    validation: Rows | None = None,
    accept_changes: bool = False,
) -> PretrainResult:
    """Pretrain a model, or go on with the run in `workdir`.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      workdir: the run's folder, local or gs://.
      overrides: values that are set on top, by the paths of their fields.
      train: the text in place of config.data's source, in rows with the field config.data.text_field.
      validation: text to evaluate on, in place of a share of `train`.
      accept_changes: go on although the config differs from the one the run was made with.

    Raises:
      UserError: bad config, bad input, or a workdir that holds another run.
      KeyboardInterrupt: the run was stopped; what it has made is saved.
    """
    folder = _folder(workdir)
    rows = Kept.of({"train": train, "validation": validation}, folder)
    given: dict[str, Any] = dict(overrides)
    if "train" in rows.files:
        given |= {"data.source": "files", "data.path": rows.files["train"]}
    if "validation" in rows.files:
        given |= {"data.eval_source.source": "files", "data.eval_source.path": rows.files["validation"]}
    settled, set_fields = read(PretrainConfig, config, given, unused_in_pretraining)
    prepare(settled)
    with stopping(folder):
        rows.write()
        outcome = pretraining.train(settled, folder, accept_changes=accept_changes, given=set_fields)
        _raise_interrupted(outcome.interrupted, outcome.step)
    return PretrainResult(str(folder), outcome.step, dict(outcome.metrics), str(folder / REPORT))


def finetune(
    config: Source | FinetuneConfig,
    workdir: Workdir,
    *,
    overrides: Overrides = NOTHING,
    train: Rows | None = None,
    validation: Rows | None = None,
    test: Rows | None = None,
    compute_metrics: ComputeMetrics | None = None,
    callbacks: Sequence[Callback] = (),
    accept_changes: bool = False,
) -> FinetuneResult:
    """Fine-tune a model, or go on with the run in `workdir`; of a complete run its results are read.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      workdir: the run's folder, local or gs://.
      overrides: values that are set on top, by the paths of their fields.
      train: examples in place of those that config.data names; so are `validation` and `test`.
      validation: examples to evaluate on; without them a share of `train` is held out.
      test: examples to predict; they are scored if they have labels.
      compute_metrics: (predictions, labels) -> {name: value}, called on each evaluation; see
        `finetune.results.own_metrics.ComputeMetrics`. Its names may stand in config.eval.metric; higher is better.
      callbacks: called after each evaluation, with its step, its epoch and the metrics of each run.
      accept_changes: go on although the config or the examples differ from those the run was made with.

    Raises:
      UserError: bad config, bad input, a workdir that holds another run, or a function that fails.
      KeyboardInterrupt: the run was stopped; what it has made is saved.
    """
    folder = _folder(workdir)
    rows = Kept.of({"train": train, "validation": validation, "test": test}, folder)
    settled, given = read(FinetuneConfig, config, with_files(overrides, rows.files), unused_in_finetuning)
    check_train(rows.files, settled)
    for name, is_set in (("search", settled.search.trials), ("benchmark", settled.benchmark.tasks)):
        if is_set:
            way = "unmask.search makes searches" if name == "search" else "python -m finetune trains them all"
            raise UserError(f"config.{name} asks for several runs, and finetune makes one; {way}")
    prepare(settled)
    after_evaluation = _stopping_by(callbacks)
    with stopping(folder):
        rows.write()
        found = finished(settled, folder, given, own_metrics=compute_metrics is not None)
        if found is None:
            outcome = finetuning.train(
                settled,
                folder,
                after_evaluation,
                accept_changes=accept_changes,
                given=given,
                compute_metrics=compute_metrics,
            )
            _raise_interrupted(outcome.interrupted, outcome.step)
            found = finish(outcome, folder)
        else:
            terminal.say(
                f"{folder} is complete: its results are read, and nothing is trained or evaluated again"
            )
    return _result(found, folder)


def search(
    config: Source | FinetuneConfig,
    workdir: Workdir,
    *,
    trials: int = 0,
    overrides: Overrides = NOTHING,
    train: Rows | None = None,
    validation: Rows | None = None,
    hp_space: HpSpace | None = None,
    compute_objective: ComputeObjective | None = None,
    direction: str = DIRECTIONS[0],
    compute_metrics: ComputeMetrics | None = None,
) -> SearchResult:
    """Search for hyperparameters with optuna, or go on with the search in `workdir`.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      workdir: the search's folder, local.
      trials: the number of trials; 0 takes config.search.trials.
      overrides: values that are set on top, by the paths of their fields.
      train: examples in place of those that config.data names; so is `validation`.
      validation: examples to evaluate on; without them a share of `train` is held out.
      hp_space: takes an optuna trial, and returns values by the paths of their fields:
        {"optimizer.learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-4, log=True)}. Without it the ranges
        of config.search are searched.
      compute_objective: makes the number that is optimised of the metrics of an evaluation (means over seeds). Without
        it config.search.objective is optimised.
      direction: "maximize" or "minimize", for compute_objective.
      compute_metrics: as in `finetune`.

    Raises:
      UserError: bad config, bad input, a workdir that holds another search, a function that fails, or no trial has a
        score.
      KeyboardInterrupt: the search was stopped; what it has made is saved.
    """
    folder = _folder(workdir)
    rows = Kept.of({"train": train, "validation": validation}, folder)
    asked = {"search.trials": trials} if trials else {}
    given = with_files({**overrides, **asked}, rows.files)
    settled, _ = read(FinetuneConfig, config, given, unused_in_finetuning)
    check_train(rows.files, settled)
    if not settled.search.trials:
        raise UserError("trials=0 is no search; set it to the number of trials, or config.search.trials")
    prepare(settled)
    own = OwnFunctions(hp_space, compute_objective, direction, compute_metrics)
    with stopping(folder):
        rows.write()
        found = searching.search(settled, folder, own)
        if found.interrupted:
            raise KeyboardInterrupt(f"{found.interrupted}: {len(found.trials)} trials are made and saved")
    best = searching.best_of(found)
    return SearchResult(
        workdir=str(folder),
        objective=found.objective,
        trials=found.trials,
        best=best,
        config=with_values(settled, best.values),
        recipe=str(folder / searching.FOLDER / searching.BEST),
        report=str(folder / REPORT),
    )


def _folder(workdir: Workdir) -> epath.Path:
    if not os.fspath(workdir):
        raise UserError("workdir is empty; name the folder that holds everything of the run")
    return place_of(os.fspath(workdir), "workdir")


def _raise_interrupted(interrupted: str, step: int) -> None:
    """Raise the signal that has stopped a run.

    Raises:
      KeyboardInterrupt: there was one.
    """
    if interrupted:
        raise KeyboardInterrupt(f"{signal.Signals[interrupted].name}: step {step} is saved")


def _stopping_by(callbacks: Sequence[Callback]) -> Callable[[Evaluation], bool] | None:
    """What a run calls after each evaluation: all callbacks, also after one that ends the run."""
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise UserError("callbacks should be a list of functions: callbacks=[FUNCTION]")

    def call(evaluation: Evaluation) -> bool:
        answers = [callback(evaluation) for callback in callbacks]
        for answer in answers:
            if answer not in (None, STOP):
                raise UserError(
                    f"a callback returned {answer!r:.60}; it should return unmask.STOP to end the run, or None"
                )
        return STOP in answers

    return call if callbacks else None


def _result(found: Mapping[str, Any], folder: epath.Path) -> FinetuneResult:
    runs = tuple(
        RunResult(each["seed"], each["learning_rate"], each["step"], each["epoch"], each["metrics"])
        for each in found["runs"]
    )
    rates = {f"{run.learning_rate:g}": run.learning_rate for run in runs}  # results.json has them rounded
    summary = {
        rates[rate]: {metric: Summary(**values) for metric, values in metrics.items()}
        for rate, metrics in found["summary"].items()
    }
    return FinetuneResult(
        workdir=str(folder),
        model=str(folder / MODEL),
        report=str(folder / REPORT),
        metric=found["metric"],
        runs=runs,
        best=runs[found["best_run"]],
        summary=summary,
        tests=found.get("tests", {}),
        history=tuple(found["history"]),
        seconds=found["seconds"],
        config=schema.restored(FinetuneConfig, found["config"]),
    )

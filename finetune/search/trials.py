"""A search for hyperparameters: optuna draws the values, each trial is a run, and hopeless trials end early.

optuna writes each event to WORKDIR/search/study.log, as one line of JSON. So a stopped search continues where it
stopped, and its last trial continues at the last checkpoint. The drawn values of a trial depend only on the seed and on
the earlier trials. So a search that was stopped makes the same trials as a search that was not.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from rich.console import Console

from base import schema
from base.errors import UserError
from finetune.config import FinetuneConfig
from finetune.job import Job, assemble, check_batch
from finetune.population.early_stopping import is_better, is_loss
from finetune.report.kept import keep_trials
from finetune.report.pages import write_report
from finetune.results.results_file import results, write_results
from finetune.resume import check_same_input, check_unchanged
from finetune.run_steps import Programs
from finetune.search.own_functions import OBJECTIVE, OwnFunctions
from finetune.search.search_space import check_ranges, objective_of, ranges, with_values
from finetune.search.trials_table import (
    DIVERGED,
    ENDED_EARLY,
    NO_NUMBER,
    Found,
    Trial,
    best_recipe,
    markdown,
    rerun_command,
    table,
)
from finetune.train import Evaluation, train
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.changes import SAFE_IN_FINETUNING
from pretrain.runtime.optional_outputs import attempt

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

FOLDER = "search"
"""Folder in the workdir with the study, its trials and the config of the best trial."""
LOG = "study.log"
BEST = "best.py"
TRIALS = "trials.md"
SAFE_TO_CHANGE_IN_SEARCH = (*(name for name in SAFE_IN_FINETUNING if name != "search."), "search.trials")
UNPRUNED_TRIALS = 5
"""Number of trials that must end regularly before a trial may be ended early."""
GOES_ON = "goes_on"
"""Name of a trial's attribute in optuna: the number of the stopped trial that this trial continues."""
OWN = "own"
"""Name of the study's attribute in optuna that says how it was asked for: see `_Search._own_facts`."""
VALUES = "values"
"""Name of a trial's attribute in optuna: its values, by names of FIELDS or by paths of fields."""
WITHOUT_SCORE = "without_score"
"""Name of a trial's attribute in optuna: why it has no score, if it has none."""
NO_FUNCTIONS = OwnFunctions()


def run_search(config: FinetuneConfig, workdir: epath.Path, console: Console) -> str:
    """Run the search, and print its result.

    Returns:
      The signal that stopped the search; '' if it finished.

    Raises:
      UserError: as in `search`, or no trial has a score.
    """
    result = search(config, workdir)
    if result.trials:
        console.print(table(result))
    if result.best is None and not result.interrupted:
        best_of(result)
    if result.best is not None:
        command = rerun_command(workdir / FOLDER / BEST, workdir)
        console.print(f"to train the best: {command}", soft_wrap=True)
    return result.interrupted


def best_of(result: Found) -> Trial:
    """The best trial of a search.

    Raises:
      UserError: no trial has a score.
    """
    if result.best is not None:
        return result.best
    own = "give another compute_objective"
    remedy = own if result.objective == OBJECTIVE else "set config.search.objective to another metric"
    reasons = {
        DIVERGED: "diverged (lower config.search.learning_rate)",
        NO_NUMBER: f"had no {result.objective}, which is NaN though the loss is a number ({remedy})",
        ENDED_EARLY: "ended early",
    }
    count = Counter(trial.without_score for trial in result.trials)
    said = "; ".join(f"{count[why]} {reason}" for why, reason in reasons.items() if count[why])
    raise UserError(f"none of {len(result.trials)} trials has a score: {said}")


def search(config: FinetuneConfig, workdir: epath.Path, own: OwnFunctions = NO_FUNCTIONS) -> Found:
    """Make the missing trials of config.search, and write the table of trials and the config of the best trial.

    Args:
      config: the search's.
      workdir: its folder.
      own: functions of the user's own.

    Raises:
      UserError: a range or the input is wrong, the workdir holds another search, or optuna is not installed.
    """
    if processes.count() > 1:
        raise UserError(
            f"config.search.trials={config.search.trials} under {processes.count()} processes: a search is made by "
            "one process, which uses all devices; start it without a launcher"
        )
    own.check(config.search.objective)
    check_ranges(config, own_space=own.hp_space is not None)
    _optuna()
    if "://" in str(workdir):
        raise UserError(f"--workdir={workdir} should be a local folder: optuna keeps a search's trials there")
    folder = workdir / FOLDER
    workdirs.prepare(folder)
    first = {name: values[0] for name, values in ranges(config).items()}
    job = assemble(with_values(config, first), own.compute_metrics)
    for batch in config.search.global_batch:
        check_batch(with_values(config, {"global_batch": batch}), job.mesh)
    running, interrupted = _Search(config, folder, job, own), ""
    while len(running.over) < config.search.trials and not interrupted:
        interrupted = running.run_trial()
        _write(config, running.found(interrupted), folder)
    return running.found(interrupted)


def _write(config: FinetuneConfig, result: Found, folder: epath.Path) -> None:
    """Write the table of the trials so far, and the config of the best trial."""
    workdirs.write_text(folder / TRIALS, markdown(result))
    attempt("trials.json", keep_trials, result, folder)
    attempt("report.html", write_report, folder.parent)
    if result.best is not None and result.best.score is not None:
        mean = f", the mean of {config.seeds} runs" if config.seeds > 1 else ""
        heading = (
            f"Trial {result.best.number} of {len(result.trials)}: {result.objective} {result.best.score:.6g}{mean}\n"
            f"{rerun_command(folder / BEST, folder.parent)}"
        )
        workdirs.write_text(folder / BEST, best_recipe(config, result.best.values, heading))


class _Search:
    """The study of one call of `search`, and the objective that its trials share."""

    def __init__(self, config: FinetuneConfig, folder: epath.Path, job: Job, own: OwnFunctions):
        self._optuna, self._config, self._folder, self._own = _optuna(), config, folder, own
        self._programs = Programs()
        self.objective = OBJECTIVE if own.compute_objective else objective_of(job, config.search.objective)
        self._minimises = (
            own.direction == "minimize" if own.compute_objective else is_better(self.objective, 0.0, 1.0)
        )
        self.study = self._open(job)
        self._put_back()

    def _open(self, job: Job) -> "optuna.Study":
        """Open the study in the folder, or make a new one. A study of another config or other examples is refused."""
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        log = self._folder / LOG
        if log.exists():
            _drop_cut_off_line(log)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(log)))
        study = optuna.create_study(
            storage=storage,
            study_name="unmask",
            direction="minimize" if self._minimises else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
            load_if_exists=True,
        )
        saved = study.user_attrs
        if "config" in saved:
            check_unchanged(saved["config"], self._config, SAFE_TO_CHANGE_IN_SEARCH, room=job.room)
            check_same_input(saved["fingerprints"], job, self._folder)
            self._check_own({"direction": study.direction.name.lower(), **saved.get(OWN, {})})
        else:
            study.set_user_attr(OWN, self._own_facts)
            study.set_user_attr("fingerprints", job.fingerprints)
            study.set_user_attr("config", schema.as_dict(self._config))
        return study

    @property
    def _own_facts(self) -> dict[str, str]:
        """What a search must be asked for again: its objective, direction, and where its values are drawn from."""
        return {
            "objective": self.objective,
            "direction": "minimize" if self._minimises else "maximize",
            "what draws the values": "hp_space" if self._own.hp_space else "config.search",
        }

    def _check_own(self, saved: Mapping[str, str]) -> None:
        """Refuse to go on with another objective: optuna would take its numbers for the same.

        Raises:
          UserError: the search was made with another one.
        """
        for name, now in self._own_facts.items():
            before = saved.get(name, now)  # a search of an earlier version has the direction alone
            if before != now:
                raise UserError(
                    f"this search was made with another {name}: it was {before}, and is {now}; call it as before, or "
                    "set another workdir"
                )

    def _put_back(self) -> None:
        """Put a stopped trial back into the queue, with its drawn values."""
        states = self._optuna.trial.TrialState
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            self.study.tell(trial.number, state=states.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs={GOES_ON: trial.number})

    @property
    def over(self) -> "list[optuna.trial.FrozenTrial]":
        """The trials that have ended, in order. Trial N of the search is the Nth of them."""
        states = self._optuna.trial.TrialState
        return self.study.get_trials(states=(states.COMPLETE, states.PRUNED))

    def run_trial(self) -> str:
        """Make one trial. Returns the signal that stopped it; '' if it ended.

        Raises:
          UserError: its values or its training fail. The trial has failed then, and another one takes its place.
        """
        number = len(self.over) + 1
        seed = np.random.SeedSequence((self._config.seed, number)).generate_state(1)[0]
        self.study.sampler = self._optuna.samplers.TPESampler(seed=int(seed))
        trial = self.study.ask(None if self._own.hp_space else self._distributions())
        try:
            return self._make(trial, number)
        except UserError:
            self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            raise

    def _make(self, trial: "optuna.Trial", number: int) -> str:
        """Train trial `number`, and tell its score."""
        config, folder = self._config, self._folder / f"trial-{number}"
        values = self._own.draw(trial) if self._own.hp_space else trial.params
        chosen = with_values(config, values)
        failed = self.study.get_trials(states=(self._optuna.trial.TrialState.FAIL,))
        before = [each.user_attrs[VALUES] for each in failed if VALUES in each.user_attrs]
        if before and before[-1] != values and folder.exists():
            folder.rmtree()  # of a trial that has failed, of other values
        trial.set_user_attr(VALUES, values)
        drawn = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )
        logger.info("trial %d of %d: %s", number, config.search.trials, drawn)
        watch = _Watch(trial, self._value, chosen.epochs, self._reported(trial))
        outcome = train(
            chosen,
            folder,
            watch,
            compute_metrics=self._own.compute_metrics,
            look=False,
            programs=self._programs,
        )
        if outcome.interrupted and not watch.pruned:
            return outcome.interrupted
        value, told_to_end = math.nan, watch.pruned or outcome.tracking.told_to_end  # also before a kill
        if not told_to_end:
            content = results(outcome)
            write_results(content, folder)
            (by_metric,) = content["summary"].values()
            means = {metric: summary["mean"] for metric, summary in by_metric.items()}
            value = self._value(means)
            has_diverged = any(math.isnan(each) for name, each in means.items() if is_loss(name))
            trial.set_user_attr(WITHOUT_SCORE, DIVERGED if has_diverged else NO_NUMBER)
        else:
            trial.set_user_attr(WITHOUT_SCORE, ENDED_EARLY)
        trial.set_user_attr("seconds", outcome.seconds)
        trial.set_user_attr("epochs", outcome.tracking.history[-1]["epoch"])
        if math.isnan(value):
            self.study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, value)
        (folder / "checkpoints").rmtree()  # several times the model's size, and not needed any more
        return outcome.requested if len(self.over) < config.search.trials else ""

    def found(self, interrupted: str) -> Found:
        """The result of the search so far."""
        trials = tuple(
            Trial(
                number,
                trial.user_attrs.get(VALUES, trial.params),  # a search of an earlier version has no such note
                trial.value if trial.state.name == "COMPLETE" else None,
                trial.user_attrs["epochs"],
                trial.user_attrs["seconds"],
                # A search of an earlier version has no such note.
                "" if trial.state.name == "COMPLETE" else trial.user_attrs.get(WITHOUT_SCORE, DIVERGED),
            )
            for number, trial in enumerate(self.over, 1)
        )
        best: Trial | None = None
        for trial in trials:
            if trial.score is not None and (
                best is None
                or best.score is None
                or (trial.score < best.score if self._minimises else trial.score > best.score)
            ):
                best = trial
        return Found(self.objective, trials, best, interrupted)

    def _value(self, metrics: Mapping[str, float]) -> float:
        """The number that is optimised, of the metrics of an evaluation."""
        return self._own.value(metrics) if self._own.compute_objective else metrics[self.objective]

    def _distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        """optuna's distribution of each searched value, by names of FIELDS."""
        kinds = self._optuna.distributions
        possible = {
            "learning_rate": lambda low, high: kinds.FloatDistribution(low, high, log=True),
            "global_batch": lambda *choices: kinds.CategoricalDistribution(choices),
            "epochs": kinds.IntDistribution,
            "warmup_ratio": kinds.FloatDistribution,
            "weight_decay": kinds.FloatDistribution,
        }
        return {name: possible[name](*values) for name, values in ranges(self._config).items()}

    def _reported(self, trial: "optuna.Trial") -> dict[int, float]:
        """The objective that the stopped trial had reported, by epoch, if this trial continues one."""
        before = trial.user_attrs.get(GOES_ON)
        return {} if before is None else self.study.trials[before].intermediate_values


class _Watch:
    """A callback that reports a trial's objective after each epoch. It ends a trial that is worse than the median."""

    def __init__(
        self,
        trial: "optuna.Trial",
        value_of: Callable[[Mapping[str, float]], float],
        epochs: int,
        reported: Mapping[int, float],
    ):
        self._trial, self._value_of, self._epochs = trial, value_of, epochs
        self._reported = set(reported)
        self.pruned = False
        for epoch, value in reported.items():
            trial.report(value, epoch)

    def __call__(self, evaluation: Evaluation) -> bool:
        epoch = evaluation.epoch
        # Epochs before the last reported one need no decision: the trial has already passed them.
        if epoch.is_integer() and int(epoch) >= max(self._reported, default=0):
            if int(epoch) not in self._reported:
                self._trial.report(self._value_of(evaluation.mean), int(epoch))
            self.pruned = epoch < self._epochs and self._trial.should_prune()
        return self.pruned


def _drop_cut_off_line(log: epath.Path) -> None:
    """Remove an incomplete last line, which a crash may leave. optuna could not read it."""
    content = log.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        workdirs.write_bytes(log, whole)


def _optuna() -> ModuleType:
    """Import optuna.

    Raises:
      UserError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("a search needs optuna: pip install -c constraints.txt -e .[search]") from None
    return optuna

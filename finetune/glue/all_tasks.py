"""Fine-tune several GLUE tasks one after another, each in WORKDIR/TASK, and report all of them together.

A complete task is not trained again, and a stopped task continues. So the same command trains the remaining tasks.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from etils import epath
from rich.console import Console

from base.errors import UserError
from data.labelled.open import open_labelled
from data.labelled.tasks import TASKS, find_task
from finetune import submission
from finetune.config import FROM_MNLI, BenchmarkConfig, BenchmarkTask, FinetuneConfig, check_values
from finetune.glue.benchmark_table import NINE, Row, row_of, table, write_reports
from finetune.population.early_stopping import choosing_metric
from finetune.report.pages import write_report
from finetune.results import predicted_labels
from finetune.results.final_outputs import finish, finished, room_in
from finetune.results.results_file import read_results
from finetune.resume import check_unchanged
from finetune.train import train
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.optional_outputs import attempt

logger = logging.getLogger(__name__)

SUBMISSION = "submission.zip"
REPORT = "glue.json"


def run_benchmark(config: FinetuneConfig, workdir: epath.Path, console: Console) -> str:
    """Train the remaining tasks, then print and write the table of all tasks, and write the submission.

    Returns:
      The signal that stopped the benchmark; '' if all tasks are done.

    Raises:
      UserError: a task or its input is wrong, or a folder holds another run.
    """
    configs = task_configs(config, workdir)
    workdirs.prepare(workdir)
    results_of = processes.from_first(
        lambda: {task: finished(each, workdir / task) for task, each in configs.items()}
    )
    _check(configs, results_of, workdir)
    if processes.is_first() and None in results_of.values():
        # Files of an earlier run cover fewer tasks. A launcher that looks for them would count this run as finished.
        for name in (REPORT, workdirs.FINISHED_FILE):
            (workdir / name).unlink(missing_ok=True)
    for number, (task, each) in enumerate(configs.items(), 1):
        title = TASKS[task].title
        if results_of[task] is not None:
            logger.info("%s (%d of %d) is complete", title, number, len(configs))
            continue
        logger.info("%s (%d of %d)", title, number, len(configs))
        outcome = train(each, workdir / task)
        if outcome.interrupted:
            return outcome.interrupted
        results_of[task] = finish(outcome, workdir / task)
        if outcome.requested and None in results_of.values():
            return outcome.requested
    if processes.is_first():
        _close([row_of(results) for results in results_of.values() if results is not None], workdir, console)
    return ""


def task_configs(config: FinetuneConfig, workdir: epath.Path) -> dict[str, FinetuneConfig]:
    """The config of each task's run, in the order of the runs.

    Raises:
      UserError: config.benchmark is wrong, or another field contradicts it.
    """
    benchmark = config.benchmark
    names = [each.task for each in benchmark.tasks]
    _check_names(config, names)
    tasks = list(benchmark.tasks)
    if benchmark.from_mnli:
        place = names.index("mnli")
        moved = [each for each in tasks[:place] if each.task in FROM_MNLI]
        kept = [each for each in tasks[: place + 1] if each not in moved]
        tasks = [*kept, *moved, *tasks[place + 1 :]]
    configs = {}
    for each in tasks:
        own = _config_of(config, each)
        if benchmark.from_mnli and each.task in FROM_MNLI:
            own = replace(own, init_from=str(workdir / "mnli"))
        check_values(own)
        choosing_metric(own.eval.metric, find_task(each.task))
        configs[each.task] = own
    return configs


def _check_names(config: FinetuneConfig, names: list[str]) -> None:
    for name in names:
        if name not in NINE:
            raise UserError(
                f"config.benchmark.tasks has {name!r}, which is none of the nine tasks: {', '.join(NINE)}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"config.benchmark.tasks names a task twice: {', '.join(names)}")
    if config.task:
        raise UserError(
            f"config.task={config.task!r} and config.benchmark.tasks exclude each other; leave one of them empty"
        )
    if config.search.trials:
        raise UserError(
            "config.search works on one task; leave config.benchmark.tasks empty, set config.task"
        )
    if config.benchmark.from_mnli and "mnli" not in names:
        raise UserError("config.benchmark.from_mnli=True needs mnli among config.benchmark.tasks")
    rates = [each.task for each in config.benchmark.tasks if each.learning_rate is not None]
    if rates and config.learning_rates:
        raise UserError(
            f"config.learning_rates={list(config.learning_rates)} is for all tasks, but config.benchmark.tasks sets "
            f"learning_rate of {rates[0]}; leave one of them out"
        )


def _config_of(config: FinetuneConfig, own: BenchmarkTask) -> FinetuneConfig:
    """The config of a task's run, equal to a config for this task alone."""
    rate = config.optimizer.learning_rate if own.learning_rate is None else own.learning_rate
    return replace(
        config,
        task=own.task,
        benchmark=BenchmarkConfig(),
        epochs=config.epochs if own.epochs is None else own.epochs,
        global_batch=config.global_batch if own.global_batch is None else own.global_batch,
        optimizer=replace(config.optimizer, learning_rate=rate),
    )


def _check(configs: Mapping[str, FinetuneConfig], results_of: Mapping[str, Any], workdir: epath.Path) -> None:
    """Check all tasks before the first one is trained, because training may take hours."""
    for task, config in configs.items():
        if results_of[task] is not None:
            continue
        before = read_results(workdir / task)
        if before is not None:
            check_unchanged(before["config"], config, room=room_in(workdir / task))
        open_labelled(config.data, task)


def _close(rows: list[Row], workdir: epath.Path, console: Console) -> None:
    """Print and write the table, and zip the predictions of the test sets."""
    written = write_reports(rows, workdir)
    attempt("report.html", write_report, workdir)
    workdirs.write_finished(workdir, len(rows), len(rows))
    console.print(table(rows))
    places = ", ".join(str(workdir / name) for name in written)
    console.print(f"the table: {places}", soft_wrap=True)
    console.print(write_submission(workdir, [row.task for row in rows]), soft_wrap=True)


def write_submission(workdir: epath.Path, tasks: list[str]) -> str:
    """Zip the predictions of GLUE's test sets if all of them exist. Returns one line about the result for the user."""
    gathered = workdir / predicted_labels.FOLDER
    gathered.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        for file in (workdir / task / predicted_labels.FOLDER).glob("*.tsv"):
            (gathered / file.name).write_bytes(file.read_bytes())
    missing = [name for name in submission.FILES if not (gathered / name).exists()]
    if missing:
        return f"no submission: the predictions of {', '.join(missing)} are missing, GLUE wants all"
    submission.write_zip(gathered, workdir / SUBMISSION)
    faults = submission.check_submission(str(workdir / SUBMISSION))
    if faults:
        return f"submission: {workdir / SUBMISSION}, but GLUE would refuse it: {'; '.join(faults)}"
    return f"submission: {workdir / SUBMISSION}, as GLUE takes it"

"""`python -m finetune --config=configs/classify.py --config.init_from=SRC --workdir=DIR`: fine-tune, or go on."""

from base import kept_memory

if __name__ == "__main__":
    kept_memory.start_again()  # before jax is imported

import contextlib
import functools
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from base import terminal
from base.command_line import python, read
from base.errors import UserError
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from base.set_fields import say_all
from data.labelled.tasks import EMBEDDING, QUESTIONS, SIMILARITY
from finetune.config import FinetuneConfig
from finetune.glue.all_tasks import run_benchmark
from finetune.job import MODEL, Job, assemble
from finetune.report.pages import FILE as REPORT
from finetune.report.pages import RESULTS_FILE
from finetune.results.final_outputs import finish, finished, push
from finetune.results.predicted_labels import FOLDER
from finetune.results.results_file import score, table
from finetune.search.trials import run_search
from finetune.step_pushes import Models
from finetune.train import train
from finetune.unused_fields import unused_fields
from pretrain import step_pushes
from pretrain.publish import hub_upload
from pretrain.runtime import goodput, processes, train_command
from pretrain.runtime.checkpointer import newest_step
from pretrain.step_pushes import StepPushes


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", "", "the run's folder, local or gs://; made if need be", flag_values=values
    )
    flags.DEFINE_string(
        "push_to_hub",
        "",
        "upload the best model to this model repository at the end, USER/NAME",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "push_every",
        0,
        "also upload the model at every so many steps while it trains, as branch step-N; 0: none",
        flag_values=values,
    )
    train_command.define_accept_changes(values, "the config or the examples have changed")
    flags.DEFINE_bool(
        "public", False, "make the repository public if it is new, not private", flag_values=values
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0 when the run has finished or has saved itself on a signal."""
    line = read(FinetuneConfig, argv, _flags, unused=unused_fields)
    config, values, given = line.config, line.values, line.given
    if not values.workdir:
        raise UserError("no --workdir given: the folder that holds everything of the run")
    hub_upload.check_flags(values.push_to_hub, public=values.public)
    if config.distributed:
        processes.join()
    step_pushes.check(values.push_every, values.push_to_hub, config.checkpoint.every)
    if processes.is_first():
        say_all(given)
    if values.push_to_hub:
        processes.from_first(
            lambda: hub_upload.check(values.push_to_hub)
        )  # it pushes, the others need no token
    train_command.log_to_stderr()
    train_command.use_compilation_cache(config.compilation_cache)
    workdir = place_of(values.workdir, "--workdir")
    if config.benchmark.tasks or config.search.trials:
        _refuse_flags_of_one_run(values)
        return _run_several(config, workdir, argv)
    pushes: list[StepPushes] = []
    try:
        with sigterm_as_ctrl_c(), contextlib.ExitStack() as stack:

            def push_steps(job: Callable[[], Job]) -> None:
                pushes.append(stack.enter_context(_pushes(values, workdir, job)))

            found = processes.from_first(lambda: finished(config, workdir, given))
            if found is not None:
                if processes.is_first():
                    terminal.say(f"the run in {workdir} is complete")
                if values.push_every:
                    push_steps(functools.cache(lambda: assemble(config)))  # what an earlier call has left out
            else:
                outcome = train(
                    config,
                    workdir,
                    accept_changes=values.accept_changes,
                    given=given,
                    assembled=(lambda job: push_steps(lambda: job)) if values.push_every else None,
                )
                if outcome.interrupted:
                    return train_command.stopped(
                        "finetune", signal.Signals[outcome.interrupted], outcome.step, argv
                    )
                if processes.is_first():
                    terminal.say("trained; the best model is evaluated and written")
                found = finish(outcome, workdir)
            if processes.is_first():
                _show(found, workdir)
                for each in pushes:
                    each.finish()
                if values.push_to_hub:
                    url = push(found, workdir, values.push_to_hub, private=not values.public)
                    terminal.say(f"on the hub: {url}")
    except KeyboardInterrupt as error:
        if finished(config, workdir, given) is not None:
            train_command.say_complete("finetune", signal_of(error).name, argv)
            return processes.end_all(128 + signal_of(error) if values.push_to_hub else 0)
        return processes.end_all(
            train_command.stopped("finetune", signal_of(error), newest_step(workdir), argv)
        )
    return 0


def _refuse_flags_of_one_run(values: flags.FlagValues) -> None:
    """Refuse flags that a search and a benchmark do not have.

    Raises:
      UserError: there is one.
    """
    if values.push_to_hub:
        raise UserError(
            "--push_to_hub uploads the model of one run; train it by config.task, without a search"
        )
    if values.accept_changes:
        raise UserError(
            "--accept_changes is for one run; go on with it by config.task, or set another --workdir"
        )


def _pushes(values: flags.FlagValues, workdir: epath.Path, job: Callable[[], Job]) -> StepPushes:
    """The thread that pushes the checkpoints of a run; `job` gives its parts."""
    return StepPushes(
        workdir,
        values.push_to_hub,
        values.push_every,
        private=not values.public,
        write=Models(job, workdir),
    )


def _run_several(config: FinetuneConfig, workdir: epath.Path, argv: Sequence[str]) -> int:
    """Make the runs of a benchmark or a search; the exit status."""
    run_all = run_benchmark if config.benchmark.tasks else run_search
    try:
        with sigterm_as_ctrl_c():
            stopped = run_all(config, workdir, terminal.console())
    except KeyboardInterrupt as error:
        train_command.say_stopped("finetune", signal_of(error).name, "what is done is saved", argv)
        return processes.end_all(0)
    if stopped:
        train_command.say_stopped("finetune", stopped, "what is done is saved", argv)
    return 0


def _show(found: Mapping[str, Any], workdir: epath.Path) -> None:
    """The table, and where everything is."""
    console = terminal.console()
    console.print(table(found))
    if "onnx" in found:
        metric = found["metric"]
        console.print(
            f"model.onnx: {metric} {score(metric, found['onnx']['metrics'][metric])}, logits differ by "
            f"{found['onnx']['largest_difference']:.1e} at most"
        )
    places = {
        name: workdir / file
        for name, file in (("model", MODEL), ("results", RESULTS_FILE), ("report", REPORT))
    }
    if found.get("predictions"):
        places["predictions of test sets"] = workdir / FOLDER
    for name, place in places.items():
        console.print(f"{name}: {place}", soft_wrap=True)
    command, what = ["finetune.predict", "--file=FILE"], "to label texts"
    if found.get("kind") in (EMBEDDING, SIMILARITY):
        command, what = ["finetune.embed", "--text=FILE", "--out=vectors.npy"], "for vectors of texts"
    if found.get("kind") == QUESTIONS:
        what = "to answer questions"
    line = shlex.join([python(), "-m", command[0], f"--model={workdir}", *command[1:]])
    console.print(f"{what}: {line}", soft_wrap=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    goodput.count_from_process_start()
    processes.run(main)

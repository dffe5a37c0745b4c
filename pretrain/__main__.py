"""`python -m pretrain --config=configs/X.py --workdir=DIR [--config.FIELD=VALUE ...]`: train, or go on training."""

from base import kept_memory

if __name__ == "__main__":
    kept_memory.start_again()  # before jax is imported

import contextlib
import os
import shlex
import signal
from collections.abc import Sequence

import jax
from absl import flags
from etils import epath
from rich.console import Console

from base import terminal
from base.command_line import python, read
from base.errors import UserError
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from pretrain import fill_mask, step_pushes
from pretrain.config import PretrainConfig
from pretrain.objective.names import TRAITS
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, verdict
from pretrain.phases import objective_at, objective_since
from pretrain.publish import hub_upload
from pretrain.report import pages
from pretrain.reports import end_summary
from pretrain.reports.metric_writer import FILE_NAME as METRICS_FILE
from pretrain.reports.metric_writer import read_metrics
from pretrain.runtime import goodput, processes, train_command
from pretrain.runtime.checkpointer import newest_step
from pretrain.runtime.optional_outputs import attempt
from pretrain.step_pushes import StepPushes
from pretrain.train import Outcome, train
from pretrain.unused_fields import unused_fields

REMEDY = "run the same command again to have it"


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", "", "the run's folder, local or gs://; made if need be", flag_values=values
    )
    train_command.define_accept_changes(values, "the config, tokenizer or corpus has changed")
    flags.DEFINE_string(
        "push_to_hub",
        "",
        "upload the last checkpoint to this model repository at the end, USER/NAME",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "push_every",
        0,
        "also upload the checkpoint of every so many steps while it trains, as branch step-N; 0: none",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "public", False, "make the repository public if it is new, not private", flag_values=values
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0 when the run has finished or has saved itself on a signal."""
    line = read(PretrainConfig, argv, _flags, unused=unused_fields)
    config, values = line.config, line.values
    if not values.workdir:
        raise UserError("no --workdir given: the folder that holds everything of the run")
    hub_upload.check_flags(values.push_to_hub, public=values.public)
    if config.distributed:
        processes.join()
    step_pushes.check(values.push_every, values.push_to_hub, config.checkpoint.every)
    if values.push_to_hub:
        processes.from_first(lambda: hub_upload.check(values.push_to_hub))
    train_command.log_to_stderr()
    train_command.use_compilation_cache(config.compilation_cache)
    workdir = place_of(values.workdir, "--workdir")
    complete = False
    try:
        with sigterm_as_ctrl_c(), contextlib.ExitStack() as stack:
            pushes = None
            if values.push_every:
                pushes = stack.enter_context(
                    StepPushes(
                        workdir,
                        values.push_to_hub,
                        values.push_every,
                        private=not values.public,
                        write=step_pushes.exports_of(workdir),
                    )
                )
            outcome = train(config, workdir, accept_changes=values.accept_changes, given=line.given)
            if outcome.interrupted:
                return train_command.stopped(
                    "pretrain", signal.Signals[outcome.interrupted], outcome.step, argv
                )
            complete = True
            if processes.is_first():
                _close(outcome, workdir)
                _push(workdir, pushes, values.push_to_hub, private=not values.public)
    except KeyboardInterrupt as error:
        if complete:
            train_command.say_complete("pretrain", signal_of(error).name, argv)
            return processes.end_all(128 + signal_of(error) if values.push_to_hub else 0)
        return processes.end_all(
            train_command.stopped("pretrain", signal_of(error), newest_step(workdir), argv)
        )
    return 0


def _push(workdir: epath.Path, pushes: StepPushes | None, repo_id: str, *, private: bool) -> None:
    """Upload what is left of a run that has finished, and its last checkpoint to the main branch."""
    if pushes is not None:
        pushes.finish()
    if repo_id:
        write = step_pushes.exports_of(workdir)
        url = step_pushes.push_step(write, "last", repo_id, private=private)
        terminal.say(f"on the hub: {url}")


def _close(outcome: Outcome, workdir: epath.Path) -> None:
    """Show what the run came to, and what to do next."""
    console = terminal.console()
    since = objective_since(outcome.job.phases, outcome.step)
    lines = [line for line in read_metrics(workdir / METRICS_FILE) if line["step"] > since]
    attempt("the run's table", lambda: console.print(end_summary.summary(lines)), remedy=REMEDY)
    evaluations = [line for line in lines if FREQUENCY_LOSS in line]
    if evaluations and (said := verdict(evaluations[-1])):
        console.print(said, soft_wrap=True)
    if end_summary.draw_loss_curve(workdir, workdir, remedy=REMEDY):
        console.print(f"loss curve: {workdir / end_summary.LOSS_CURVE}", soft_wrap=True)
    attempt("the model's guesses", _show_predictions, outcome, workdir, console, remedy=REMEDY)
    console.print(f"report: {workdir / pages.FILE}", soft_wrap=True)
    export = shlex.join([python(), "-m", "pretrain.export", f"--workdir={workdir}", "--out=HF_DIR"])
    console.print(f"to hand it over: {export}", soft_wrap=True)


def _show_predictions(outcome: Outcome, workdir: epath.Path, console: Console) -> None:
    """Let the model fill blanks in sentences that it was not trained on."""
    job = outcome.job
    if not TRAITS[objective_at(job.phases, outcome.step)].hides_tokens:
        return  # it does not fill blanks
    if processes.count() > 1:
        return  # params may be spread over hosts; python -m pretrain.fill_mask reads them from the checkpoint
    try:
        texts = fill_mask.held_out_texts(workdir, job.config, job.phases[-1], job.tokenizer)
    except UserError:
        return  # nothing is held out
    examples = fill_mask.choose_examples(texts, job.tokenizer, max_length=job.encoder.max_length)
    if examples:
        params = jax.device_get(outcome.state.params)
        filled = fill_mask.fill_mask(
            job.models[-1], params, job.tokenizer, [example.text for example in examples]
        )
        console.print(fill_mask.prediction_table(examples, filled))
        texts, answers = ([getattr(each, name) for each in examples] for name in ("text", "answer"))
        attempt(pages.EXAMPLES_FILE, pages.keep_examples, workdir, texts, answers, filled)
        attempt(pages.FILE, pages.write_report, workdir)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    goodput.count_from_process_start()
    processes.run(main)

"""`python -m pretrain --config=configs/X.py --workdir=DIR [--config.FIELD=VALUE ...]`: train, or go on training."""

import logging
import os
import shlex
import signal
from collections.abc import Sequence

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath
from rich.console import Console

from data.command_line import parse, python, run
from data.errors import UserError
from pretrain import fill_mask, report
from pretrain.checkpoint import newest_step
from pretrain.config import PretrainConfig
from pretrain.metrics import FILE_NAME as METRICS_FILE
from pretrain.metrics import read_metrics
from pretrain.train import Outcome, train
from tokenizer.interruptible import signal_of, sigterm_as_ctrl_c


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", "", "the run's folder, local or gs://; made if need be", flag_values=values
    )
    flags.DEFINE_bool(
        "accept_changes",
        False,
        "resume although the config, tokenizer or corpus has changed",
        flag_values=values,
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0 when the run has finished or has saved itself on a signal."""
    config, values = parse(PretrainConfig, argv, _flags)
    if not values.workdir:
        raise UserError("no --workdir given: the folder that holds everything of the run")
    _log_to_stderr()
    if config.compilation_cache:
        cache = str(epath.Path(config.compilation_cache).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    if config.distributed:
        _join_processes()
    workdir = epath.Path(values.workdir).expanduser()
    try:
        with sigterm_as_ctrl_c():
            outcome = train(config, workdir, accept_changes=values.accept_changes)
    except KeyboardInterrupt as error:
        return _stopped(signal_of(error), newest_step(workdir), argv)
    if outcome.interrupted:
        return _stopped(signal.Signals[outcome.interrupted], outcome.step, argv)
    if jax.process_index() == 0:
        _close(outcome, workdir)
    return 0


def _stopped(by: signal.Signals, step: int, argv: Sequence[str]) -> int:
    """Say what is saved and how to go on; the exit status is 0 where a step is saved."""
    if jax.process_index() == 0:
        saved = f"step {step} is saved" if step else "stopped before step 1, nothing is saved"
        command = shlex.join([python(), "-m", "pretrain", *argv[1:]])
        print(f"{by.name}: {saved}. To go on, run the same command:\n  {command}", flush=True)
    return 0 if step else 128 + by


def _join_processes() -> None:
    """Join the other processes of the run, which jax finds by the cluster's variables (TPU pod, Slurm, Open MPI)."""
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"config.distributed=True, but the processes of the run could not be joined: {reason}; "
            "outside a cluster that jax knows, leave it False"
        ) from error


def _log_to_stderr() -> None:
    """Our own messages from INFO on, other libraries' from WARNING on."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    for package in ("data", "tokenizer", "pretrain"):
        logging.getLogger(package).setLevel(logging.INFO)


def _close(outcome: Outcome, workdir: epath.Path) -> None:
    """Show what the run came to, and what to do next."""
    console = Console()
    console.print(report.summary(read_metrics(workdir / METRICS_FILE)))
    if report.write_loss_curve(workdir / METRICS_FILE, workdir / "loss_curve.png"):
        console.print(f"loss curve: {workdir / 'loss_curve.png'}", soft_wrap=True, highlight=False)
    _show_predictions(outcome, console)
    command = shlex.join([python(), "-m", "pretrain.export", f"--workdir={workdir}", "--out=HF_DIR"])
    console.print(f"to hand it over: {command}", soft_wrap=True, highlight=False)


def _show_predictions(outcome: Outcome, console: Console) -> None:
    """Let the model fill blanks in sentences that it was not trained on."""
    job = outcome.job
    if jax.process_count() > 1:
        return  # params may be spread over hosts; python -m pretrain.fill_mask reads them from the checkpoint
    try:
        texts = fill_mask.held_out_texts(job.phases[-1].data, job.tokenizer)
    except UserError:
        return  # nothing is held out
    examples = fill_mask.choose_examples(texts, job.tokenizer)
    if examples:
        params = jax.device_get(outcome.state.params)
        filled = fill_mask.fill_mask(job.model, params, job.tokenizer, [example.text for example in examples])
        console.print(fill_mask.prediction_table(examples, filled))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)

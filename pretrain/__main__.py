"""`python -m pretrain --config=configs/X.py --workdir=DIR [--config.FIELD=VALUE ...]`: train, or go on training."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath

from data.command_line import parse, run
from data.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.train import Outcome, train


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
        cache = str(Path(config.compilation_cache).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    if config.distributed:
        jax.distributed.initialize()
    workdir = epath.Path(values.workdir)
    try:
        outcome = train(config, workdir, accept_changes=values.accept_changes)
    except KeyboardInterrupt:
        print("stopped before training began; run the same command again", file=sys.stderr)
        return 128 + signal.SIGINT
    if jax.process_index() == 0:
        _close(outcome, workdir, argv)
    return 0


def _log_to_stderr() -> None:
    """Our own messages from INFO on, other libraries' from WARNING on."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    for package in ("data", "tokenizer", "pretrain"):
        logging.getLogger(package).setLevel(logging.INFO)


def _close(outcome: Outcome, workdir: epath.Path, argv: Sequence[str]) -> None:
    if outcome.interrupted:
        command = " ".join(["python -m pretrain", *argv[1:]])
        print(
            f"{outcome.interrupted}: saved at step {outcome.step}. To go on, run the same command:\n  {command}"
        )
        return


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)

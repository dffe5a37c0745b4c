"""`python -m finetune --config=configs/glue.py:TASK --config.init_from=SRC --workdir=DIR`: fine-tune, or go on."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath
from rich.console import Console

from data.command_line import parse, run
from data.errors import UserError
from finetune.config import FinetuneConfig
from finetune.finish import finish
from finetune.results import table
from finetune.train import Outcome, train


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", "", "the run's folder, local or gs://; made if need be", flag_values=values
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0 when the run has finished or has saved itself on a signal."""
    config, values = parse(FinetuneConfig, argv, _flags)
    if not values.workdir:
        raise UserError("no --workdir given: the folder that holds everything of the run")
    log_to_stderr()
    if config.compilation_cache:
        cache = str(epath.Path(config.compilation_cache).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    workdir = epath.Path(values.workdir).expanduser()
    outcome = train(config, workdir)
    if outcome.interrupted:
        _say_interrupted(outcome, argv)
        return 0
    found = finish(outcome, workdir)
    if jax.process_index() == 0:
        console = Console()
        console.print(table(found))
        console.print(
            f"model: {workdir / 'model'}  results: {workdir / 'results.json'}",
            soft_wrap=True,
            highlight=False,
        )
    return 0


def log_to_stderr() -> None:
    """Our own messages from INFO on, other libraries' from WARNING on."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    for package in ("data", "tokenizer", "pretrain", "finetune"):
        logging.getLogger(package).setLevel(logging.INFO)


def _say_interrupted(outcome: Outcome, argv: Sequence[str]) -> None:
    saved = f"step {outcome.step} is saved" if outcome.step else "no step was made yet"
    command = shlex.join(["python", "-m", "finetune", *argv[1:]])
    print(f"{outcome.interrupted}: {saved}. To go on, run the same command:\n  {command}", file=sys.stdout)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run(main)

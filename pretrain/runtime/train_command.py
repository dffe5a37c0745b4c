"""Common parts of the training commands: messages, the compilation cache, the report of a stopped run."""

import logging
import shlex
import signal
import tempfile
from collections.abc import Sequence

import jax
from absl import flags
from absl import logging as absl_logging
from etils import epath

from base import terminal
from base.command_line import python
from base.home import cache_folder
from base.storage import is_remote
from pretrain.runtime import processes

logger = logging.getLogger(__name__)

PACKAGES = ("data", "tokenizer", "pretrain", "finetune")


def define_accept_changes(values: flags.FlagValues, what: str) -> None:
    """Define --accept_changes; `what` says what may have changed."""
    flags.DEFINE_bool("accept_changes", False, f"resume although {what}", flag_values=values)


def log_to_stderr() -> None:
    """Log our messages from INFO on the first process and from WARNING on the others, and libraries' from WARNING."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(terminal.Formatter("%(message)s"))
    # huggingface_hub logs a retry in twenty lines. It ends in an error, which this project shows in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO if processes.is_first() else logging.WARNING)


def use_compilation_cache(folder: str) -> None:
    """Keep compiled programs in a folder; empty keeps none. Without a home folder, neither does a folder below `~`.

    A folder that cannot be written costs a line and the cache.
    """
    if not (place := cache_folder(folder)):
        return
    path = epath.Path(place)
    try:
        if not is_remote(path):
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
    except OSError as error:
        logger.warning(
            "config.compilation_cache=%s cannot be written (%s): programs are compiled each time; set another folder",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", place)


def stopped(module: str, by: signal.Signals, step: int, argv: Sequence[str]) -> int:
    """Say what is saved of a run and how to go on; the exit status is 0 where a step is saved."""
    say_stopped(
        module, by.name, f"step {step} is saved" if step else "stopped before step 1, nothing is saved", argv
    )
    return 0 if step else 128 + by


def say_complete(module: str, by: str, argv: Sequence[str]) -> None:
    """Say that a signal came when the run was complete and only its results were still to show (first process)."""
    if processes.is_first():
        again = shlex.join([python(), "-m", module, *argv[1:]])
        terminal.say(f"{by}: the run is complete. To see what it came to, run the same command:\n  {again}")


def say_stopped(module: str, by: str, saved: str, argv: Sequence[str]) -> None:
    """Say what stopped a command, what is saved, and which command goes on; the first process does."""
    if processes.is_first():
        command = shlex.join([python(), "-m", module, *argv[1:]])
        terminal.say(f"{by}: {saved}. To go on, run the same command:\n  {command}")

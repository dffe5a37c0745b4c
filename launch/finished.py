"""`python -m launch.finished MARKER ... [-- COMMAND ...]`: tells a finished run from one that was stopped and saved.

A run that a signal stops saves a step and exits with status 0. A finished run exits with 0 too, but only a finished run
has written its marker file (see `launch.launch_command`). A scheduler sees exit statuses alone, so this program exits
with 75 for a stopped run that can continue. With a command, it runs the command first and passes signals on to it. A
container uses it so, as its first process. If the command itself exits with 75, its watchdog has ended it. This program
then exits with 1, because a hang is a failure.
"""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from base import terminal
from base.command_line import run
from base.errors import UserError
from launch.launch_command import split, with_own_python

UNFINISHED = 75
"""Exit status of a launcher for a stopped run that can continue: EX_TEMPFAIL of sysexits.h."""
HUNG = 75
"""Exit status of a training command that its watchdog ended; the same command continues. The launchers that use it know
whether it comes from the command or from this program."""
FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Run the command if there is one, and look for the markers.

    Returns:
      The command's exit status if it failed, 1 in place of 75; else 0 if any marker exists, 75 if none exists.
    """
    own, command = split(argv)
    if {"--help", "-h"} & {*own[1:]}:
        terminal.say(__doc__ or "")
        return 0
    markers = own[1:]
    if not markers:
        raise UserError("no marker given: the file that a finished run leaves, WORKDIR/finished.json")
    status = run_command(command) if command else 0
    if status == HUNG:
        return FAILED
    if status == 0 and not any(_exists(marker) for marker in markers):
        return UNFINISHED
    return status


def run_command(command: Sequence[str]) -> int:
    """Run a command to its end, and pass SIGTERM and SIGINT on to it.

    Returns:
      The command's exit status; 128 + the signal's number if a signal ended it.

    Raises:
      UserError: the program does not exist.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if children:
            children[0].send_signal(number)
        else:
            early.append(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        # In its own session. Otherwise it would get a Ctrl-C of the terminal twice.
        children.append(subprocess.Popen(with_own_python(command), start_new_session=True))
        for number in early:
            children[0].send_signal(number)
        status = children[0].wait()
    except OSError as error:
        raise UserError(f"{command[0]!r} cannot be run: {error.strerror}") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _exists(marker: str) -> bool:
    if "://" in marker:
        from etils import epath  # imported only for a bucket, because the import takes seconds

        return epath.Path(marker).exists()
    return Path(marker).expanduser().exists()


if __name__ == "__main__":
    run(main)

"""`python -m launch.finished MARKER ... [-- COMMAND ...]`: tells a finished run from one that was stopped and saved.

A run that a signal stops has saved a step and exits 0, as a finished one does; only a finished one has written its
marker (see `launch.launch_command`). Schedulers know exit statuses alone: here "stopped, to be continued" becomes 75.
With a command, it is run first and signals are passed on to it: the first process of a container.
"""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from base.command_line import run
from base.errors import UserError
from launch.launch_command import split, with_own_python

UNFINISHED = 75
"""The exit status of a run that can go on: EX_TEMPFAIL of sysexits.h."""


def main(argv: Sequence[str]) -> int:
    """The exit status of the command where it failed; else 0 if any marker is there, 75 if none is."""
    own, command = split(argv)
    if {"--help", "-h"} & {*own[1:]}:
        print(__doc__)
        return 0
    markers = own[1:]
    if not markers:
        raise UserError("no marker given: the file that a finished run leaves, WORKDIR/finished.json")
    status = run_command(command) if command else 0
    if status == 0 and not any(_exists(marker) for marker in markers):
        return UNFINISHED
    return status


def run_command(command: Sequence[str]) -> int:
    """Run a command to its end, passing SIGTERM and SIGINT on to it; 128 + signal where one ended it.

    Raises:
      UserError: there is no such program.
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
        # A session of its own: Ctrl-C in a terminal would reach it twice.
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
        from etils import epath  # only for a bucket: it takes seconds to import what reaches one

        return epath.Path(marker).exists()
    return Path(marker).expanduser().exists()


if __name__ == "__main__":
    run(main)

"""`python -m pretrain.report WORKDIR [WORKDIR ...] [--out=FILE.html]`: the report of pretraining runs as one page."""

import os
from collections.abc import Callable, Sequence

from etils import epath

from base import terminal
from base.command_line import run
from base.errors import UserError
from base.places import place_of
from base.plain_arguments import Arguments
from base.storage import check_readable, write_out
from pretrain.report.pages import FILE, report


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    return command(argv, "python -m pretrain.report", report)


def command(argv: Sequence[str], program: str, make: Callable[[Sequence[epath.Path]], str]) -> int:
    """Write the report of a command line's workdirs.

    Args:
      argv: the command line.
      program: how the command is called.
      make: makes the page.

    Raises:
      UserError: no workdir, or one that is no run's.
    """
    parser = Arguments(prog=program, usage=f"{program} WORKDIR [WORKDIR ...] [--out=FILE.html]")
    parser.add_argument("workdirs", nargs="*", help="the folders of the runs; several are compared")
    parser.add_argument(
        "--out", default="", help=f"the file to write; default: WORKDIR/{FILE}, or {FILE} of several"
    )
    values = parser.read(argv)
    if not values.workdirs:
        raise UserError("no WORKDIR given: the folder of a run, or several to compare")
    places = [place_of(each, "WORKDIR") for each in dict.fromkeys(values.workdirs)]
    for place in places:
        check_readable(place, "WORKDIR")
    out = values.out or (os.fspath(places[0] / FILE) if len(places) == 1 else FILE)
    write_out(out, make(places), "--out")
    terminal.say(f"report: {out}")
    return 0


if __name__ == "__main__":
    run(main)

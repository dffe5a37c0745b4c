"""`python -m finetune.report WORKDIR [WORKDIR ...] [--out=FILE.html]`: the report of fine-tuning as one page."""

from collections.abc import Sequence

from base.command_line import run
from finetune.report.pages import report
from pretrain.report.__main__ import command


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    return command(argv, "python -m finetune.report", report)


if __name__ == "__main__":
    run(main)

"""`python -m data.prepare --config=configs/X.py --out=DIR`: prepare a corpus once, for any number of runs."""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from etils import epath

from base import lock, schema, terminal
from base.command_line import parse, run
from base.errors import UserError
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from base.schema import Unused, field
from base.storage import check_writable, is_remote
from data.config import DataConfig
from data.config import unused_fields as unused_of_data
from data.prepare.clusters import EXECUTORS, chosen_workers
from data.prepare.config import PrepareConfig, check_prepare
from data.prepare.config import unused_fields as unused_of_prepare
from data.prepare.languages import Languages
from data.prepared.index import WORK
from tokenizer.config import TokenizerConfig
from tokenizer.config import unused_fields as unused_of_tokenizer

OF_ROWS = ("streams", "split_files", "window", "packing", "prefetch")
"""Fields of `data` that a preparation does not read: a run does."""


@dataclass(frozen=True)
class PrepareRunConfig:
    """The part of a pretraining config that decides the prepared corpus, and the steps of its preparation."""

    seq_len: int = field(128, "tokens in a row; transformers cuts texts to it (model_max_length)")
    tokenizer: TokenizerConfig = field(TokenizerConfig, "the tokenizer")
    data: DataConfig = field(DataConfig, "the text")
    phases: tuple[dict, ...] = field((), "phases of the run; if the first has its own data, that is the text")
    prepare: PrepareConfig = field(PrepareConfig, "the steps")

    @property
    def text(self) -> DataConfig:
        """The data of the run's first phase."""
        own = self.phases[0].get("data") if self.phases else None
        return self.data if own is None else schema.build(DataConfig, own, "config.phases[0].data")

    @property
    def longest_row(self) -> int:
        """Tokens in the longest row of any phase."""
        return max((phase.get("seq_len") or self.seq_len for phase in self.phases), default=self.seq_len)


def main(argv: Sequence[str]) -> int:
    """Prepare, or say that it is done."""
    config, values = parse(PrepareRunConfig, argv, _define_flags, partial=True, unused=_without_effect)
    if not values.out:
        raise UserError("no --out given; for example --out=corpus, or --out=gs://BUCKET/corpus --work=DIR")
    if values.workers < 0:
        raise UserError(f"--workers={values.workers} should be 1 or more, or 0 for one for each core")
    check_prepare(config.prepare)
    if "language" in config.prepare.steps:
        Languages(config.prepare.language)  # refuses codes that it does not know, before a text is read
    workers = chosen_workers(values.executor, values.workers, values.slurm, os.cpu_count() or 1)
    from data.prepare.preparation import (  # here: it imports datatrove, which --help does not need
        Task,
        prepare,
    )
    from data.prepare.report import table

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(terminal.Formatter("%(message)s"))
    out = place_of(values.out, "--out")
    if is_remote(out):
        check_writable(out, "--out")
    else:
        out.mkdir(parents=True, exist_ok=True)
    work = Path(values.work).expanduser() if values.work else None
    if work is not None and not is_remote(out) and Path(out).resolve().is_relative_to(work.resolve()):
        raise UserError(
            f"--work={work} is or contains --out={out}; set --work to a folder apart, or leave it out: unfinished work "
            "is then kept in --out"
        )
    task = Task(config.prepare, config.text, config.tokenizer, config.longest_row)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(sigterm_as_ctrl_c())
            stack.enter_context(lock.held(out, "--out", "prepares"))
            if work is not None:
                work.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.held(epath.Path(work), "--work", "prepares"))
            made = prepare(task, out, work, workers, keep_work=values.keep_work)
    except KeyboardInterrupt as error:
        terminal.say("stopped; the same command goes on from here", error=True)
        return 128 + signal_of(error)
    terminal.console().print(table(made.report, made.seconds))
    shards = len(made.index.shards)
    terminal.say(
        f"{out} holds {made.index.documents:,} documents of {made.index.tokens:,} tokens in "
        f"{shards:,} shard{'s' * (shards != 1)}; train from it: --config.data.source=prepared --config.data.path={out}"
    )
    return 0


def _without_effect(config: PrepareRunConfig) -> list[Unused]:
    rows = tuple(f"data.{name}" for name in OF_ROWS)
    return [
        *unused_of_prepare(config.prepare),
        *unused_of_tokenizer(config.tokenizer, ""),
        *unused_of_data(config.data),
        Unused(rows, "python -m data.prepare makes no rows; leave it out"),
        Unused(("tokenizer.sample_from",), "python -m data.prepare draws from all of its text; leave it out"),
    ]


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "", "the folder for the shards, local or gs://", flag_values=values)
    flags.DEFINE_string("work", "", "a local folder for unfinished work; empty takes OUT", flag_values=values)
    flags.DEFINE_integer(
        "workers",
        0,
        "tasks at a time; 0 takes one for each core, or no limit on a cluster; the output does not depend on it",
        flag_values=values,
    )
    flags.DEFINE_enum("executor", "local", EXECUTORS, "where tasks run", flag_values=values)
    flags.DEFINE_string(
        "slurm",
        "",
        "options of sbatch, such as partition=cpu,time=4:00:00,mem-per-cpu=4G",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "keep_work", False, f"keep the cleaned texts (WORK/{WORK}/clean) when all is done", flag_values=values
    )


if __name__ == "__main__":
    run(main)

"""`python -m tokenizer --config=configs/X.py --workdir=DIR`: train a run's tokenizer ahead of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from absl import flags

from base import schema, terminal
from base.command_line import parse, run
from base.errors import UserError
from base.interruptible import signal_of, sigterm_as_ctrl_c
from base.places import place_of
from base.schema import Unused, field
from base.storage import check_writable, is_remote
from data.config import DataConfig
from data.config import unused_fields as unused_of_data
from tokenizer.config import TokenizerConfig
from tokenizer.config import unused_fields as unused_of_tokenizer
from tokenizer.run_tokenizer import ensure_tokenizer, has_tokenizer, tokenizer_folder

OF_ROWS = ("streams", "split_files", "window", "packing", "prefetch")
"""Fields of `data` that set how documents become rows. They do not affect a tokenizer."""


@dataclass(frozen=True)
class TokenizerRunConfig:
    """The part of a pretraining config that decides the tokenizer."""

    init_from: str = field("", "start from this model; its tokenizer is the run's")
    seq_len: int = field(128, "tokens in a row; transformers cuts texts to it (model_max_length)")
    tokenizer: TokenizerConfig = field(TokenizerConfig, "the tokenizer")
    data: DataConfig = field(DataConfig, "the text")
    phases: tuple[dict, ...] = field((), "phases of the run; if the first has its own data, that is the text")

    @property
    def text(self) -> DataConfig:
        """The data of the run's first phase; the tokenizer is trained on it."""
        own = self.phases[0].get("data") if self.phases else None
        return self.data if own is None else schema.build(DataConfig, own, "config.phases[0].data")

    @property
    def longest_row(self) -> int:
        """Tokens in the longest row of any phase."""
        return max((phase.get("seq_len") or self.seq_len for phase in self.phases), default=self.seq_len)


def main(argv: Sequence[str]) -> int:
    """Train, or say that there is nothing to do."""
    config, values = parse(TokenizerRunConfig, argv, _define_flags, partial=True, unused=_without_effect)
    if config.init_from and not config.tokenizer.path:
        raise UserError(
            f"config.init_from={config.init_from!r} brings its tokenizer: there is none to train ahead of the run"
        )
    if not values.workdir:
        raise UserError("no --workdir given; for example --workdir=runs/quickstart")
    workdir = place_of(values.workdir, "--workdir")
    if is_remote(workdir):
        check_writable(workdir, "--workdir")
    present = has_tokenizer(workdir)
    try:
        with sigterm_as_ctrl_c():
            loaded = ensure_tokenizer(
                config.tokenizer, config.text, workdir, model_max_length=config.longest_row
            )
    except KeyboardInterrupt as error:
        terminal.say("stopped before the tokenizer was written; run the same command again", error=True)
        return 128 + signal_of(error)
    folder = tokenizer_folder(workdir)
    if present:
        terminal.say(
            f"{folder} holds a tokenizer of {loaded.vocab_size:,} tokens already; it is left as it is"
        )
    else:
        terminal.say(f"{folder} now holds a tokenizer of {loaded.vocab_size:,} tokens")
    return 0


def _unused_fields(config: TokenizerRunConfig) -> list[Unused]:
    return [*unused_of_tokenizer(config.tokenizer, config.init_from), *unused_of_data(config.data)]


def _without_effect(config: TokenizerRunConfig) -> list[Unused]:
    rows = tuple(f"data.{name}" for name in OF_ROWS)
    return [*_unused_fields(config), Unused(rows, "python -m tokenizer makes no rows; leave it out")]


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir",
        "",
        "the run's folder, local or gs://; the tokenizer goes to WORKDIR/tokenizer",
        flag_values=values,
    )


if __name__ == "__main__":
    run(main)

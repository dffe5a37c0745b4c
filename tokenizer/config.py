"""The fields of `config.tokenizer`."""

from dataclasses import dataclass

from base.schema import Unused, field


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to load, or how to train one."""

    path: str = field(
        "", "an existing tokenizer: folder, tokenizer.json or hub id; empty trains one into WORKDIR/tokenizer"
    )
    vocab_size: int = field(50265, "size of the vocabulary to train, with special tokens")
    min_frequency: int = field(2, "pairs of tokens that occur less often are not merged")
    sample_documents: int = field(0, "train on a sample of at most this many documents; 0 takes all")
    sample_bytes: int = field(
        0,
        "train on a sample of at most this many bytes: its text, and 200 for each document; memory holds it; 0 takes "
        "all",
    )
    sample_from: str = field(
        "shards",
        "shards: draw the sample from the beginnings of 64 shards, twice its size; corpus: from one pass over all",
        ("shards", "corpus"),
        older="corpus",
    )
    nfc: bool = field(False, "normalise text to Unicode NFC first")
    add_prefix_space: bool = field(False, "treat the first word of a text as if a space stood before it")


TRAINING = (
    "vocab_size",
    "min_frequency",
    "sample_documents",
    "sample_bytes",
    "sample_from",
    "nfc",
    "add_prefix_space",
)
"""Fields of `config.tokenizer` that set how a tokenizer is trained."""


def unused_fields(config: TokenizerConfig, init_from: str) -> list[Unused]:
    """The unused fields: those of training, if a tokenizer is given; `path`, if `init_from` is set after it.

    Args:
      config: the tokenizer's fields.
      init_from: the model that the run starts from, which brings its tokenizer; empty where there is none.
    """
    start = f"config.init_from={init_from!r} brings its tokenizer"
    path = f"config.tokenizer.path={config.path!r} names a tokenizer that is made"
    training = tuple(f"tokenizer.{name}" for name in TRAINING)
    found = []
    if config.path:
        found.append(Unused(training, f"{path}; unset one of the two", ("tokenizer.path",)))
    elif init_from:
        both = "unset one of the two, or set config.init_vocabulary=pieces for a tokenizer of the run's own"
        found.append(Unused(training, f"{start}; {both}", ("init_from",)))
    if config.path and init_from:
        found.append(Unused(("tokenizer.path",), start, ("init_from",), unless_as_late=True))
    if not (config.sample_documents or config.sample_bytes):
        because = "there is no sample; set config.tokenizer.sample_documents or config.tokenizer.sample_bytes"
        found.append(Unused(("tokenizer.sample_from",), because))
    return found

"""The fields of `config.tokenizer`."""

from dataclasses import dataclass

from data.schema import field


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to load, or how to train one."""

    path: str = field(
        "", "an existing tokenizer: folder, tokenizer.json or hub id; empty trains one into WORKDIR/tokenizer"
    )
    vocab_size: int = field(50265, "tokens to train, special ones included")
    min_frequency: int = field(2, "pairs seen less often are not merged")
    sample_documents: int = field(0, "train on at most this many documents; 0 takes all")
    nfc: bool = field(False, "normalise text to Unicode NFC first")
    add_prefix_space: bool = field(False, "treat the first word of a text as if a space stood before it")

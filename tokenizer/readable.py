"""Tokens as a person reads them."""

from tokenizers import Tokenizer, decoders

SPACE = "Ġ"
"""How a space is shown, as byte-level tokenizers spell it."""
REPLACEMENT = "\ufffd"


def readable(tokenizer: Tokenizer, token: int) -> str:
    """A token's text, with `SPACE` for spaces; its own spelling where it has none, such as part of a letter's bytes.

    Byte-level tokenizers spell "ø" as two letters, "Ã¸".
    """
    spelling = tokenizer.id_to_token(token) or "?"
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return spelling
    text = decoders.ByteLevel().decode([spelling])
    return text.replace(" ", SPACE) if text.isprintable() and REPLACEMENT not in text else spelling

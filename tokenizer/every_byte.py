"""Whether a tokenizer encodes every text without an unknown token."""

import json

from tokenizers import Tokenizer, pre_tokenizers

from tokenizer.word_starts import component_types

BYTES = 256


def encodes_every_byte(tokenizer: Tokenizer) -> bool:
    """Whether a token of the vocabulary stands for each byte, so that no text needs an unknown token.

    This holds for byte-level BPE with its whole alphabet (as of GPT-2 or Llama 3), and for models that fall back to
    bytes (`<0x00>` to `<0xFF>`). A model without an unknown token leaves out text that it cannot encode.
    """
    parsed = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if parsed["model"].get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in vocabulary for byte in range(BYTES))
    is_byte_level = parsed["model"]["type"] == "BPE" and "ByteLevel" in component_types(
        parsed["pre_tokenizer"]
    )
    return is_byte_level and vocabulary.keys() >= set(pre_tokenizers.ByteLevel.alphabet())

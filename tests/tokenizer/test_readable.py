"""Tokens as a person reads them: letters, and not the letters that stand for their bytes."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokenizer.readable import readable


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Tromsø", "Tromsø"), (" på", "Ġpå"), ("a\n", "aĊ"), ("<s>", "<s>"), ("ø", "ø")],
)
def test_the_letters_of_a_byte_level_token_are_shown(text: str, shown: str):
    ((spelling, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        text
    )
    tokenizer = Tokenizer(models.WordLevel({spelling: 0}, spelling))
    tokenizer.decoder = decoders.ByteLevel()
    assert readable(tokenizer, 0) == shown


def test_a_part_of_a_letter_and_tokens_of_other_kinds_are_shown_as_they_are_spelled():
    tokenizer = Tokenizer(models.WordLevel({"Ã": 0, "##ing": 1, "▁fra": 2}, "Ã"))
    assert [readable(tokenizer, token) for token in range(4)] == ["Ã", "##ing", "▁fra", "?"]
    tokenizer.decoder = decoders.ByteLevel()
    assert readable(tokenizer, 0) == "Ã"

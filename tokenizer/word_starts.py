"""Finds where words begin, for whole-word masking. It needs a tokenizer whose tokens mark the start of a word."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders

from base.errors import UserError


def word_starts(tokenizer: Tokenizer, special_ids: Sequence[int]) -> np.ndarray:
    """Whether a token begins a word wherever it stands, bool [V].

    A byte-level or sentencepiece token begins a word if its text begins with white space. Punctuation therefore
    belongs to the word that it is written to, as in fairseq and in transformers' collators. A WordPiece token begins
    a word if it lacks the continuation prefix. Punctuation is then a word of its own, as in BERT's code. A special
    token always begins a word.

    Args:
      tokenizer: V tokens.
      special_ids: the ids of its special tokens.

    Raises:
      UserError: the tokenizer does not mark where words begin.
    """
    description = json.loads(tokenizer.to_str())
    if description["model"]["type"] == "WordPiece":
        prefix = description["model"]["continuing_subword_prefix"]
        starts = [not token.startswith(prefix) for token in _tokens(tokenizer)]
    else:
        starts = [text[:1].isspace() for text in _texts(tokenizer, description)]
    return _with_special(starts, special_ids)


def word_breaks(tokenizer: Tokenizer, special_ids: Sequence[int]) -> np.ndarray:
    """Whether the token after this one begins a word, whatever that token is, bool [V].

    This holds for special tokens and for tokens that end in a line break or a tab. A final space does not count: it
    belongs to the word that follows.

    Args:
      tokenizer: V tokens.
      special_ids: the ids of its special tokens.

    Raises:
      UserError: the tokenizer does not mark where words begin.
    """
    description = json.loads(tokenizer.to_str())
    if description["model"]["type"] == "WordPiece":
        breaks = [False] * tokenizer.get_vocab_size()
    else:
        breaks = [text[-1:].isspace() and text[-1] != " " for text in _texts(tokenizer, description)]
    return _with_special(breaks, special_ids)


def _with_special(marks: list[bool], special_ids: Sequence[int]) -> np.ndarray:
    marked = np.array(marks, bool)
    marked[list(special_ids)] = True
    return marked


def _tokens(tokenizer: Tokenizer) -> Iterator[str]:
    """The tokens in the order of their ids."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    return (by_id[index] for index in range(tokenizer.get_vocab_size()))


def _texts(tokenizer: Tokenizer, description: Mapping[str, Any]) -> Iterator[str]:
    """The text that each token stands for. A part of a character is U+FFFD."""
    types = {*component_types(description["pre_tokenizer"]), *component_types(description["decoder"])}
    if "ByteLevel" in types:
        decoder = decoders.ByteLevel()
        return (decoder.decode([token]) for token in _tokens(tokenizer))
    if "Metaspace" in types:
        return (token.replace("▁", " ") for token in _tokens(tokenizer))
    raise UserError(
        "config.masking.whole_word=True needs a tokenizer that marks where words begin (byte-level, "
        f"sentencepiece or WordPiece); this one is {description['model']['type']} without such marks; "
        "set config.masking.whole_word=False"
    )


def component_types(component: Any) -> Iterator[str]:
    """The types of a tokenizer component and of the components inside it."""
    if isinstance(component, Mapping):
        if "type" in component:
            yield component["type"]
        for value in component.values():
            yield from component_types(value)
    elif isinstance(component, list):
        for value in component:
            yield from component_types(value)

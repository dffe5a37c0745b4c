"""Which tokens of an earlier tokenizer stand for each token of a new one: where a model is given a new vocabulary."""

import dataclasses
import json
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders

from tokenizer.load import Loaded
from tokenizer.word_starts import component_types

BYTES, SPACES, CONTINUED = "ByteLevel", "Metaspace", "WordPiece"
"""How tokens are written: bytes as letters; `▁` for a space; a prefix if the word goes on."""


@dataclass(frozen=True)
class Pieces:
    """For each token of the new tokenizer, the tokens of the earlier one that stand for it."""

    ids: tuple[tuple[int, ...], ...]
    """Ids of the earlier tokenizer; empty if no piece of the token is known to it."""
    shared: int
    """Tokens that both tokenizers have; each of them has one id, its own."""

    @property
    def unknown(self) -> int:
        """Tokens without pieces."""
        return sum(not each for each in self.ids)


def pieces(old: Loaded, new: Loaded) -> Pieces:
    """Find the tokens of `old` that stand for each token of `new`.

    A token with a role (cls, sep, pad, mask, unk) is the one with this role. Another token is shared if both
    tokenizers write tokens in one way and have the same string, case included. The rest is cut into pieces by the
    earlier tokenizer.

    Args:
      old: the tokenizer of the model.
      new: the tokenizer that it is to have.
    """
    kind, was = _kind(new.tokenizer), _kind(old.tokenizer)
    vocabulary, special = old.tokenizer.get_vocab(), set(old.special_ids)
    roles = dict(zip(dataclasses.astuple(new.special), dataclasses.astuple(old.special), strict=True))
    added = new.tokenizer.get_added_tokens_decoder()
    by_id = {index: token for token, index in new.tokenizer.get_vocab().items()}
    found: list[tuple[int, ...]] = []
    shared = 0
    for index in range(new.vocab_size):
        token = by_id[index]
        same = roles.get(index, vocabulary.get(token) if kind == was or index in added else None)
        if index not in roles and same in special and index not in new.special_ids:
            same = None  # ordinary text that the earlier tokenizer takes for a special token
        if same is not None:
            shared += 1
            found.append((same,))
        elif index in added:
            found.append(() if added[index].special else _known(old, _ids(old, token)))
        elif kind == was == BYTES:
            found.append(_known(old, [each.id for each in old.tokenizer.model.tokenize(token)]))
        else:
            found.append(_known(old, _ids(old, _text(new.tokenizer, kind, token))))
    return Pieces(tuple(found), shared)


def _ids(tokenizer: Loaded, text: str) -> list[int]:
    """Ids of a text; none if it has a part of a character."""
    return [] if "\ufffd" in text else tokenizer.encode([text])[0].tolist()


def _known(tokenizer: Loaded, ids: list[int]) -> tuple[int, ...]:
    return tuple(each for each in ids if each != tokenizer.special.unk)


def _kind(tokenizer: Tokenizer) -> str:
    """How its tokens are written: one of the three above, or the type of its model."""
    description = json.loads(tokenizer.to_str())
    types = {*component_types(description["pre_tokenizer"]), *component_types(description["decoder"])}
    model: str = description["model"]["type"]
    return next((kind for kind in (BYTES, SPACES) if kind in types), model)


def _text(tokenizer: Tokenizer, kind: str, token: str) -> str:
    """The text of a token, with the space before it if it begins a word."""
    if kind == BYTES:
        return decoders.ByteLevel().decode([token])
    if kind == SPACES:
        return token.replace("▁", " ")
    if kind == CONTINUED:
        prefix = tokenizer.model.continuing_subword_prefix
        return token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    return token

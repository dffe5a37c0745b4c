"""A tokenizer as the rest of the project sees it: text to ids, and the special tokens."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from etils import epath
from tokenizers import Tokenizer

from base.errors import UserError
from data.special_tokens import SpecialTokens
from tokenizer import long_texts, tokenizer_files, word_starts
from tokenizer.as_transformers import Opened, open_files
from tokenizer.every_byte import encodes_every_byte
from tokenizer.needs_transformers import GENERIC
from tokenizer.no_special_tokens import without_spelling

# The role of a special token -> the fields that may name it, and the names it has where no field does.
ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cls": (("cls_token", "bos_token"), ("<s>", "[CLS]")),
    "sep": (("sep_token", "eos_token"), ("</s>", "[SEP]")),
    "pad": (("pad_token",), ("<pad>", "[PAD]")),
    "mask": (("mask_token",), ("<mask>", "[MASK]")),
    "unk": (("unk_token",), ("<unk>", "[UNK]")),
}

# Texts for which different tokenizers give different ids: spaces, cases, accents, scripts, Unicode forms, a long word.
PROBES = (
    "The Quick brown fox's 12,345 jumps -- over_it!",
    " two  spaces\tand\n\nlines \r\n ",
    "ÉCOLE école e\u0301cole ﬁn Ⅳ \uff46\uff55\uff4c\uff4c İı ß ΑΣ",
    "中文字 かな ไทย عربى עברית 😀👍🏽",
    "soft\u00adhyphen zero\u200bwidth bell\x07 nbsp\u00a0x ideographic\u3000x",
    "x" * 150,
)


_CHARACTERS_OF_A_CALL = 1 << 18
"""Characters of the parts of long texts that are encoded in one call."""

PROBED_TOKENS = 500
"""Number of the vocabulary's tokens that make up one more text for the comparison of tokenizers."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A fast tokenizer with the special tokens of a masked language model, as transformers' AutoTokenizer has it."""

    tokenizer: Tokenizer
    """It encodes as transformers does: text that spells a special token gets that token's id."""
    special: SpecialTokens
    files: Mapping[str, bytes]
    """Contents of its files by name, as `save` writes them."""
    reserved: frozenset[str] = frozenset()
    """Tokens that the files name for a role, beside those of `special`."""
    token_types: bool = True
    """Whether it gives a model token types."""
    truncation_side: str = "right"
    """Which end of a long text is cut: left or right."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int32 [length], with no special tokens added.

        Text that spells the token of a role ("<s>" or "<mask>" in a web page) is ordinary text. Text that spells any
        other special token of the tokenizer gets that token's id. A lone surrogate is not valid Unicode; it becomes
        U+FFFD. Encoding runs on all cores. A long text is cut where the tokenizer surely splits it (see
        `tokenizer.long_texts`), so that memory does not grow with its length; the ids are those of the whole text.
        """
        if all(len(text) <= long_texts.LONG for text in texts):
            return self._encode(texts)
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        call: list[tuple[int, str]] = []
        characters = 0
        for number, text in enumerate(texts):
            for part in long_texts.pieces(text, self._safe_places):
                call.append((number, part))
                characters += len(part)
                if characters >= _CHARACTERS_OF_A_CALL:
                    self._encode_parts(call, ids)
                    call, characters = [], 0
        self._encode_parts(call, ids)
        return [np.concatenate(parts) for parts in ids]

    def _encode_parts(self, parts: Sequence[tuple[int, str]], ids: Sequence[list[np.ndarray]]) -> None:
        """Append the ids of parts of texts, given with the text's number, to the ids of their texts."""
        for (number, _), tokens in zip(parts, self._encode([part for _, part in parts]), strict=True):
            ids[number].append(tokens)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            encodings = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            encodings = self._plain.encode_batch_fast(
                [valid_unicode(text) for text in texts], add_special_tokens=False
            )
        return [np.fromiter(encoding.ids, np.int32, len(encoding)) for encoding in encodings]

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The number of the word that each token of `encode` belongs to, int32 [length], as transformers' `word_ids`.

        A word is what the tokenizer splits a text into before it looks for tokens: punctuation may be words of its own.
        """
        encodings = self._plain.encode_batch(list(map(valid_unicode, texts)), add_special_tokens=False)
        numbers = [[-1 if each is None else each for each in encoding.word_ids] for encoding in encodings]
        return [np.array(each, np.int32) for each in numbers]

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        return self.tokenizer.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)

    @property
    def vocab_size(self) -> int:
        """Tokens V, added and special ones included; ids are 0 .. V-1."""
        return self.tokenizer.get_vocab_size()

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of every special token, in order: those of `special`, and others that are marked as special."""
        marked = [
            index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special
        ]
        return tuple(sorted({*self.special.ids, *marked}))

    def word_starts(self) -> np.ndarray:
        """Whether a token begins a word wherever it stands, bool [V]: see `tokenizer.word_starts`."""
        return word_starts.word_starts(self.tokenizer, self.special_ids)

    def word_breaks(self) -> np.ndarray:
        """Whether the token after this one begins a word, bool [V]: see `tokenizer.word_starts`."""
        return word_starts.word_breaks(self.tokenizer, self.special_ids)

    def fingerprint(self) -> str:
        """Hex digest of everything that decides the ids of a text."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # If transformers' tokenizer gives the same ids as tokenizer.json, then tokenizer.json is hashed: its form does
        # not change with the release of transformers.
        written = Tokenizer.from_buffer(self.files[tokenizer_files.TOKENIZER])
        written.no_truncation()
        written.no_padding()
        parsed = (
            json.loads(written.to_str()) if _gives_the_same_ids(written, self.tokenizer) else self._parsed
        )
        deciding = {
            name: parsed.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")
        }
        content = json.dumps([deciding, dataclasses.asdict(self.special)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def save(
        self,
        out: epath.Path,
        *,
        model_max_length: int | None = None,
        beside: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write the files that transformers' AutoTokenizer reads into the folder `out`.

        Args:
          out: the folder, made if need be.
          model_max_length: longest input of the model, in tokens; None keeps the value in the files.
          beside: other files to write with them, contents by name.

        Raises:
          UserError: the folder cannot be written.
        """
        contents = {**(beside or {}), **tokenizer_files.publishable(self.files)}
        if model_max_length is not None:
            config = json.loads(contents[tokenizer_files.CONFIG])
            contents[tokenizer_files.CONFIG] = tokenizer_files.as_json(
                {**config, "model_max_length": model_max_length}
            )
        tokenizer_files.write_files(out, contents)

    @cached_property
    def _plain(self) -> Tokenizer:
        """The tokenizer of `encode`."""
        return without_spelling(self.tokenizer, sorted(self._unread))

    @property
    def _unread(self) -> frozenset[str]:
        """The tokens that `encode` finds in no text."""
        roles = (str(self.tokenizer.id_to_token(index)) for index in self.special.ids)
        return self.reserved.union(roles)

    @cached_property
    def _safe_places(self) -> re.Pattern[str] | None:
        return long_texts.safe_places(self.tokenizer, self._parsed, self._unread)

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        return json.loads(self.tokenizer.to_str())


def load(path_or_id: str) -> Loaded:
    """Open a tokenizer: a folder, a tokenizer.json, or a hub id.

    Raises:
      UserError: it cannot be found or read, its ids have gaps, or it lacks a special token.
    """
    return from_files(tokenizer_files.read_files(path_or_id), path_or_id)


def from_files(files: Mapping[str, bytes], where: str) -> Loaded:
    """Make a tokenizer from the contents of its files, by name; `where` is their origin, for messages.

    Raises:
      UserError: see `load`.
    """
    files = _with_types_of_tokens(files)
    opened = open_files(files, where)
    names = {role: name for role in ROLES if (name := _name(files, opened, role, where))}
    kept = {name: content for name, content in files.items() if name != tokenizer_files.MODEL}
    kept[tokenizer_files.CONFIG] = _config(files, opened, names)
    if kept != files:
        opened = open_files(kept, where)  # as it will be opened from where it is saved
    tokenizer = opened.tokenizer
    vocabulary = tokenizer.get_vocab()
    highest = max(vocabulary.values(), default=-1)
    if highest + 1 != tokenizer.get_vocab_size():
        raise UserError(
            f"the tokenizer {where} has {tokenizer.get_vocab_size()} tokens but ids up to {highest}: "
            "its ids have gaps; set config.tokenizer.path to one without"
        )
    return Loaded(
        tokenizer,
        SpecialTokens(**{role: vocabulary[name] for role, name in names.items()}),
        kept,
        frozenset(opened.names.values()),
        opened.token_types,
        opened.truncation_side,
    )


def _name(files: Mapping[str, bytes], opened: Opened, role: str, where: str) -> str:
    """The token that plays a role: the one the files name for it, else the one that has its usual name.

    A class of transformers may add a default token for a role that the files do not name. Such a token does not count.
    There is none ('') for unk where the tokenizer encodes every byte.
    """
    fields, usual = ROLES[role]
    names = [opened.names[field] for field in fields if field in opened.names]
    stated = {
        **tokenizer_files.json_object(files, tokenizer_files.SPECIAL_TOKENS_MAP),
        **tokenizer_files.json_object(files, tokenizer_files.CONFIG),
    }
    asked = {opened.names[field] for field in fields if stated.get(field) and field in opened.names}
    for name in [*names, *usual]:
        if name in asked or opened.written.token_to_id(name) is not None:
            return name
    if role == "unk" and encodes_every_byte(opened.tokenizer):
        return ""
    raise UserError(
        f"the tokenizer {where} has no {role} token "
        f"(looked for {', '.join(dict.fromkeys([*names, *usual]))}); "
        "a masked language model needs cls, sep, pad and mask, and unk if its tokens are not made of bytes; set "
        "config.tokenizer.path to one that has them"
    )


def _with_types_of_tokens(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Mark the tokens that tokenizer_config.json describes as objects with `"__type"`, as transformers expects."""
    stated = tokenizer_files.json_object(files, tokenizer_files.CONFIG)
    marked = {
        field: {"__type": "AddedToken", **value}
        for field, value in stated.items()
        if field.endswith("_token") and isinstance(value, Mapping) and "__type" not in value
    }
    return (
        {**files, tokenizer_files.CONFIG: tokenizer_files.as_json({**stated, **marked})} if marked else files
    )


def _config(files: Mapping[str, bytes], opened: Opened, names: Mapping[str, str]) -> bytes:
    """The content of tokenizer_config.json. If it names no class, the class and unnamed special tokens are added."""
    stated = tokenizer_files.json_object(files, tokenizer_files.CONFIG)
    if stated.get("tokenizer_class") and tokenizer_files.CONFIG in files:
        return files[tokenizer_files.CONFIG]
    named = {f"{role}_token": name for role, name in names.items() if f"{role}_token" not in opened.names}
    kind = GENERIC[0] if opened.kind in GENERIC else opened.kind
    return tokenizer_files.as_json({**stated, "tokenizer_class": kind, **named})


def _gives_the_same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers have equal vocabularies, and give equal pieces and ids for the texts of the comparison."""
    vocabulary = one.get_vocab()
    if vocabulary != other.get_vocab():
        return False
    added = {
        token.content for tokenizer in (one, other) for token in tokenizer.get_added_tokens_decoder().values()
    }
    spelled = [f"a {token} b{token.lower()}c{token}" for token in sorted(added)]
    texts = (*PROBES, *spelled, " ".join(sorted(vocabulary)[:PROBED_TOKENS]))
    return all(_pieces_and_ids(one, text) == _pieces_and_ids(other, text) for text in texts)


def _pieces_and_ids(tokenizer: Tokenizer, text: str) -> tuple[list[str], list[int]]:
    """The pieces that a text is split into before the vocabulary is applied, and its ids.

    The ids alone do not suffice: if the vocabulary has none of the pieces, different pieces may have equal ids.
    """
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    if not tokenizer.pre_tokenizer:
        return [normalized], ids
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)], ids


def valid_unicode(text: str) -> str:
    """The text with each lone surrogate (which JSON can spell, and UTF-8 cannot hold) replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

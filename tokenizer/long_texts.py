"""Cuts long texts where a tokenizer surely splits them, so that the ids of the parts are the ids of the whole text.

A tokenizer needs about 160 bytes of memory for each byte of the texts in a call. A place is safe if, whatever stands
around it, neither the normalizer, nor the pre-tokenizer, nor an added token looks across it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

PIECE = 1 << 16
"""Smallest length of a part, in characters; a part ends at the first safe place after it."""
LONG = 2 * PIECE
"""Length of a text, in characters, above which it is cut."""

# Letters that Unicode joins with the character after them, even a space (Grapheme_Cluster_Break=Prepend).
_PREPENDED = (
    "\u0d4e\U000111c2\U000111c3\U0001193f\U00011941\U00011a3a\U00011a84-\U00011a89\U00011d46\U00011f02"
)
_SPACE = rf"(?<=[^\W_{_PREPENDED}]) (?=[^\W_])"
_SCRIPTS = "0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
_MARKS = ".,;:!?\u3001\u3002\uff01\uff0c\uff1f"
AT_SPACES = re.compile(_SPACE)
"""Before a single space between two letters or digits."""
AT_MARKS_TOO = re.compile(rf"{_SPACE}|(?<=[{_SCRIPTS}])(?=[{_MARKS}])")
"""Also between a letter or digit and a punctuation mark, for scripts without spaces."""

_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_UNICODE = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")
_OF_MANY_SPACES = (" {2,}", r"\s{2,}|[\n\r\t]")
"""The regular expressions of XLM-R's and DeBERTa's normalizers; neither matches a single space."""
_SPLITTING = ("BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit")
_SPLITTING_AT_MARKS = ("BertPreTokenizer", "ByteLevel", "Whitespace")


def pieces(text: str, places: re.Pattern[str] | None) -> Iterator[str]:
    """Yield a text in parts: whole if it is not long, or as few as have PIECE characters or more.

    Args:
      text: the text.
      places: the result of `safe_places`.
    """
    start = 0
    while places and len(text) - start > LONG and (found := places.search(text, start + PIECE)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:] if start else text


def safe_places(
    tokenizer: Tokenizer, parsed: Mapping[str, Any], unread: Collection[str] = ()
) -> re.Pattern[str] | None:
    """The pattern of safe places; None if it is not certain that this tokenizer has any.

    Args:
      tokenizer: the tokenizer.
      parsed: the content of its tokenizer.json.
      unread: added tokens that no text is read as.
    """
    normalizers = _parts(parsed["normalizer"], "normalizers")
    splitters = _parts(parsed["pre_tokenizer"], "pretokenizers")
    model = parsed["model"]
    if (
        model.get("type") not in _MODELS
        or model.get("dropout")
        or not all(map(_is_local, normalizers))
        or not splitters
        or not _splits(splitters[0])
        or any(other.get("prepend_scheme") == "first" for other in splitters[1:])
    ):
        return None
    added = [token for token in parsed["added_tokens"] if token["content"] not in unread]
    spelled = "".join(_spellings(tokenizer, token["content"]) for token in added)
    if any(token["rstrip"] for token in added) or any(map(str.isspace, spelled)):
        return None
    marks = (
        splitters[0]["type"] in _SPLITTING_AT_MARKS
        and not splitters[0].get("add_prefix_space")
        and all(part["type"] in _UNICODE for part in normalizers)
        and not set(_MARKS) & set(spelled)
    )
    return AT_MARKS_TOO if marks else AT_SPACES


def _parts(component: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer as the list of those that it applies one after another."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [part for each in component[name] for part in _parts(each, name)]
    return [component]


def _is_local(normalizer: Mapping[str, Any]) -> bool:
    """Whether a normalizer gives the same text if it is applied to the parts of a text that is cut at spaces."""
    match normalizer:
        case {"type": "Precompiled"}:  # replaces each grapheme by itself
            return True
        case {"type": "Replace", "pattern": {"Regex": str(pattern)}}:
            return pattern in _OF_MANY_SPACES
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return pattern != "" and not any(c.isspace() or c == "▁" for c in pattern + content)
        case {"type": "Strip", "strip_left": False}:
            return True
    return normalizer["type"] in _UNICODE


def _splits(pre_tokenizer: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer splits every text at AT_SPACES."""
    return (
        pre_tokenizer["type"] in _SPLITTING
        and pre_tokenizer.get("use_regex", True)
        and pre_tokenizer.get("split", True)
    )


def _spellings(tokenizer: Tokenizer, token: str) -> str:
    """An added token as it stands in texts, before and after the normalizer."""
    return token + (tokenizer.normalizer.normalize_str(token) if tokenizer.normalizer else "")

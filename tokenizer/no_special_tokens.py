"""A tokenizer for which special tokens cannot be written: text that spells one is ordinary text."""

import json
import secrets
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer


def without_spelling(tokenizer: Tokenizer, tokens: Collection[str]) -> Tokenizer:
    """A copy in which no text has the ids of these tokens, whatever the kind of its model; all other ids are the same.

    The tokens get names of 128 random bits: not only the list of added tokens may hold a special token but the model's
    vocabulary too (Unigram has `<mask>` among its pieces), and a normalizer may make one of text that does not look
    like it. What the model puts where it knows nothing, its unknown token, stays.
    """
    parsed = json.loads(tokenizer.to_str())
    renamed = {token: f"{secrets.token_hex(16)} {number}" for number, token in enumerate(tokens)}
    for token in parsed["added_tokens"]:
        if token["content"] in renamed:
            token |= {"content": renamed[token["content"]], "normalized": False}
    _rename_in_model(parsed["model"], renamed)
    parsed["post_processor"] = None
    return Tokenizer.from_str(json.dumps(parsed))


def _rename_in_model(model: dict[str, Any], renamed: dict[str, str]) -> None:
    if isinstance(model["vocab"], list):
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {renamed.get(token, token): index for token, index in model["vocab"].items()}
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [
            merge for merge in model["merges"] if renamed.keys().isdisjoint({*merge, "".join(merge)})
        ]

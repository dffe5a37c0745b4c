"""A tokenizer that finds no special tokens in text: text that spells a special token is ordinary text."""

import json
import secrets
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer


def without_spelling(tokenizer: Tokenizer, tokens: Collection[str]) -> Tokenizer:
    """Copy a tokenizer of any model type so that no text gets the ids of these tokens. All other ids stay the same.

    The tokens are renamed to 128 random bits. To remove them from the list of added tokens would not be enough: the
    model's vocabulary may hold them too (`<mask>` is a piece of a Unigram model), and a normalizer may produce a
    token's spelling from another text. The model still replaces text that it cannot encode by its unknown token.
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

"""Recognises the tokenizers that transformers opens exactly as their tokenizer.json defines them.

The tokenizers that this project trains are among them. They are opened without transformers, because its import takes
seconds. transformers' own code opens all others.
"""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that take tokenizer.json as it is."""
ROBERTA = "RobertaTokenizer"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
HARMLESS = {
    *NAMED,
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "model_max_length",
    "tokenizer_class",
}
"""Fields of tokenizer_config.json that add no tokens, and do not change how GENERIC and ROBERTA read tokenizer.json."""
_ROBERTA_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def is_as_written(tokenizer: Tokenizer, config: Mapping[str, Any]) -> bool:
    """Whether transformers certainly opens this tokenizer as tokenizer.json defines it.

    Args:
      tokenizer: the tokenizer that tokenizer.json alone defines.
      config: the content of tokenizer_config.json. No other file may define tokens.
    """
    kind = config.get("tokenizer_class")
    if kind not in (*GENERIC, ROBERTA) or not config.keys() <= HARMLESS:
        return False
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    named = [config[field] for field in NAMED if field in config]
    if not all(isinstance(name, str) and name in special for name in named):
        return False
    if tokenizer.truncation or tokenizer.padding or tokenizer.post_processor is None:
        return False
    return kind in GENERIC or (len(named) == len(NAMED) and _is_robertas(tokenizer, config))


def _is_robertas(tokenizer: Tokenizer, config: Mapping[str, Any]) -> bool:
    """Whether a tokenizer has the same components as transformers' RobertaTokenizer."""
    parsed = json.loads(tokenizer.to_str())
    model, before, after = parsed["model"], parsed["pre_tokenizer"] or {}, parsed["post_processor"]
    spaced = config.get("add_prefix_space", False)
    return (
        parsed["normalizer"] is None
        and all(model.get(name) == value for name, value in _ROBERTA_MODEL.items())
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
        and (before.get("type"), before.get("use_regex")) == ("ByteLevel", True)
        and before["add_prefix_space"] is spaced
        and after["type"] == "RobertaProcessing"
        and [after["cls"][0], after["sep"][0]] == [config["cls_token"], config["sep_token"]]
    )

"""Small tokenizers of every family, each with settings that change ids and stand beside tokenizer.json only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

TEXTS = (
    "Plain text, of The Mask.",
    "",
    "  two  spaces and\ttabs ",
    "É école E\u0301cole naïve ÅSE",
    "中文字 and 日本",
    "[E1] Paris [/E1] is [E2]near[E2]s [e1]",
    "a [SEP] b [MASK] c [CLS] [PAD] [UNK] [mask]",
    "a </s> b<mask>c <s> <pad> <unk> <MASK> ▁<mask>",
    "the same long text over and over again until it must be cut somewhere",
)
BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
MARKED = ["[E1]", "[/E1]"]


@dataclass(frozen=True)
class Case:
    """A tokenizer of a family, and what its folder says beside tokenizer.json."""

    model: str
    """Case of `reference_models`."""
    kind: str
    """word_piece, byte_level or unigram."""
    config: dict[str, Any] = field(default_factory=dict)
    """tokenizer_config.json."""
    beside: dict[str, Any] = field(default_factory=dict)
    """Other files by name."""
    added: Sequence[AddedToken] = ()
    """Tokens that tokenizer.json has beside those of roles."""
    extra: int = 0
    """Tokens that only the files beside it have."""


def described(content: str, **fields: bool) -> dict[str, Any]:
    """A token of added_tokens_decoder."""
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, **flags, "special": True, **fields}


CASES = {
    "roberta": Case("roberta", "byte_level", {"tokenizer_class": "RobertaTokenizer"}),
    "roberta, a space before the text, cut on the left": Case(
        "roberta",
        "byte_level",
        {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, "truncation_side": "left"},
        added=[AddedToken("[E1]", lstrip=True), AddedToken("[/E1]", rstrip=True)],
    ),
    "bert, cased by its configuration": Case(
        "bert",
        "word_piece",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": False,
            "padding_side": "left",
            "additional_special_tokens": MARKED,
        },
        extra=2,
    ),
    "bert, accents and Chinese kept, no token types": Case(
        "bert",
        "word_piece",
        {
            "tokenizer_class": "BertTokenizerFast",
            "strip_accents": False,
            "tokenize_chinese_chars": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "extra_special_tokens": MARKED,
        },
        extra=2,
    ),
    "bert, special tokens split": Case(
        "bert", "word_piece", {"tokenizer_class": "BertTokenizer", "split_special_tokens": True}
    ),
    "distilbert, tokens in files of their own": Case(
        "distilbert",
        "word_piece",
        {"tokenizer_class": "DistilBertTokenizer"},
        {
            "special_tokens_map.json": {"additional_special_tokens": MARKED},
            "added_tokens.json": {"[E2]": "next"},
        },
        extra=3,
    ),
    "electra, its class named by config.json": Case("electra", "word_piece", {"do_lower_case": False}),
    "electra, tokenizer.json alone": Case("electra", "word_piece", added=[AddedToken("[E1]", special=True)]),
    "xlm_roberta": Case(
        "xlm_roberta",
        "unigram",
        {"tokenizer_class": "XLMRobertaTokenizer"},
        added=[AddedToken("[E1]", special=True)],
    ),
    "xlm_roberta, no space before the text": Case(
        "xlm_roberta", "unigram", {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False}
    ),
    "camembert": Case("camembert", "unigram", {"tokenizer_class": "CamembertTokenizer"}, extra=3),
    "modernbert, tokens of many kinds": Case(
        "modernbert",
        "byte_level",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {
                "next": described("[E2]", single_word=True),
                "then": described("[E1]", rstrip=True),
            },
        },
        extra=2,
    ),
}


def write_tokenizer(folder: Path, case: Case) -> int:
    """Write a case's files into the folder; returns the number of its tokens."""
    names = BERT if case.kind == "word_piece" else ROBERTA
    tokenizer = {"word_piece": _word_piece, "byte_level": _byte_level, "unigram": _unigram}[case.kind]()
    tokenizer.add_special_tokens([AddedToken(name, lstrip=role == "mask") for role, name in names.items()])
    tokenizer.add_tokens(list(case.added))
    cls, sep = ((names[role], tokenizer.token_to_id(names[role])) for role in ("cls", "sep"))
    processing = processors.BertProcessing if case.kind == "word_piece" else processors.RobertaProcessing
    tokenizer.post_processor = processing(sep, cls)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    config = {f"{role}_token": name for role, name in names.items()} | case.config
    if case.config:
        _write(folder / "tokenizer_config.json", config, size)
    for name, content in case.beside.items():
        _write(folder / name, content, size)
    return size + case.extra


def _write(path: Path, content: dict[str, Any], size: int) -> None:
    path.write_text(
        json.dumps(content)
        .replace('"next": {', f'"{size}": {{')
        .replace('"then": {', f'"{size + 1}": {{')
        .replace('"next"', str(size))
    )


def _characters() -> list[str]:
    forms = [form for text in TEXTS for form in (text, text.lower(), text.upper())]
    return sorted({character for text in forms for character in text if not character.isspace()})


def _word_piece() -> tokenizers.Tokenizer:
    characters = _characters()
    tokens = [*BERT.values(), *characters, *(f"##{c}" for c in characters), "the", "Mask", "mask", "ecole"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_level() -> tokenizers.Tokenizer:
    merges = [("t", "h"), ("Ġ", "th"), ("th", "e"), ("Ġ", "a"), ("P", "l"), ("Ġ", "P")]
    tokens = [*ROBERTA.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(m) for m in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram() -> tokenizers.Tokenizer:
    ordinary = ["▁", *_characters(), "▁the", "▁and", "text"]
    pieces = [*("<s>", "<pad>", "</s>", "<unk>"), *dict.fromkeys(ordinary), "<mask>"]
    scored = [(piece, 0.0 if piece in ROBERTA.values() else -5.0) for piece in pieces]
    tokenizer = tokenizers.Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer

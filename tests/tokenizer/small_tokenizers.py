"""Tokenizers of three kinds with a handful of tokens, in files as transformers writes them."""

import json
from pathlib import Path

from etils import epath
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tokenizer.config import TokenizerConfig
from tokenizer.train import train_tokenizer

DOCUMENTS = ["rain and wind, wind and rain.\n\train\n"] * 3


def byte_level(folder: Path) -> Path:
    config = TokenizerConfig(vocab_size=270)
    train_tokenizer(DOCUMENTS, config, epath.Path(folder), model_max_length=16, progress=False)
    return folder


def wordpiece(folder: Path, specials=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), **declared) -> Path:
    tokens = [*specials, "play", "##ing", "##s", ",", "now", "mask", "[", "]"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    if declared:
        (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return folder


def unigram(folder: Path) -> Path:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁rain", "y", "ing", ".", "▁wind", "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def without_unknown(folder: Path, *, left_out: int = 0) -> Path:
    """A byte-level BPE like Llama 3's and EuroBERT's: no unknown token; `left_out` bytes have no token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[left_out:]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first, last, mask = (f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "mask"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (first, last, mask)])
    around = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=around
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    declared = {"bos_token": first, "eos_token": last, "pad_token": last, "mask_token": mask}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**declared, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder

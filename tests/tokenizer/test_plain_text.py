"""Texts of pretraining: what spells the token of a role is ordinary text, a further special token stays whole."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.tokenizer.small_tokenizers import byte_level, unigram, wordpiece
from tokenizer.load import load

SPELLED = (
    "<s> </s> <mask> <pad> <unk>",
    "rain<mask>wind ▁<mask></s><pad>",
    "[MASK] [mask] [CLS][SEP] [PAD] [UNK]",
    "<MASK> [ MASK ] \uff1cmask\uff1e <ma\u00adsk>",
)


def white_space_word_piece(folder: Path) -> Path:
    """One whose words are what stands between spaces: a special token of its vocabulary is such a word."""
    tokenizer = Tokenizer.from_file(str(wordpiece(folder) / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def word_level(folder: Path) -> Path:
    tokens = {
        token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "[E1]"])
    }
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def whole_words_bpe(folder: Path) -> Path:
    """Byte-level BPE that takes a word of its vocabulary as it is, and normalizes to small letters."""
    tokenizer = Tokenizer.from_file(str(byte_level(folder) / "tokenizer.json"))
    description = json.loads(tokenizer.to_str())
    description["model"]["ignore_merges"] = True
    description["model"]["merges"].append(["<", "s>"])  # makes a token of a role
    description["model"]["vocab"]["s>"] = len(description["model"]["vocab"])
    description["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
    description["pre_tokenizer"]["use_regex"] = False
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.mark.parametrize(
    "write", [byte_level, wordpiece, unigram, white_space_word_piece, word_level, whole_words_bpe]
)
def test_text_that_spells_a_special_token_is_ordinary_text(tmp_path, write):
    loaded = load(str(write(tmp_path / "tokenizer")))
    texts = [*SPELLED, *(part for text in SPELLED for part in text.split(" "))]
    for text, ids in zip(texts, loaded.encode(texts)):
        assert not set(ids.tolist()) & {*loaded.special_ids} - {loaded.special.unk}, text
        assert text == "" or len(ids)


def test_ordinary_text_has_the_ids_it_has_in_transformers(tmp_path):
    from transformers import AutoTokenizer

    for write in (byte_level, wordpiece, unigram, whole_words_bpe):
        loaded = load(str(write(tmp_path / write.__name__)))
        theirs = AutoTokenizer.from_pretrained(tmp_path / write.__name__)
        for text in ("rain and wind, Playing", "  plays\n[now]", "naïve ☂"):
            (ours,) = loaded.encode([text])
            assert ours.tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "declared",
    [
        {"additional_special_tokens": ["[E1]"]},
        {"extra_special_tokens": ["[E1]"]},
        {"added_tokens_decoder": {"13": {"content": "[E1]", "special": True}}},
    ],
)
def test_a_further_special_token_stays_whole_and_is_never_predicted(tmp_path, declared):
    loaded = load(str(wordpiece(tmp_path / "bert", tokenizer_class="BertTokenizer", **declared)))
    assert loaded.vocab_size == 14
    assert [ids.tolist() for ids in loaded.encode(["play [E1] now[E1]", "[MASK]"])] == [
        [5, 13, 9, 13],
        [11, 10, 12],
    ]
    assert loaded.special_ids == (0, 1, 2, 3, 4, 13)

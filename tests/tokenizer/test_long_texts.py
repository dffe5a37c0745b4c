"""Long texts are encoded in parts, with the ids of the whole text; hypothesis looks for texts where they differ."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.tokenizer import small_tokenizers
from tokenizer import long_texts, train
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.long_texts import AT_MARKS_TOO, AT_SPACES, pieces, safe_places

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXT = "the rain and the wind's 12 stones, it'll rain on 3 hills. 一二三。四五 Ærlig talt, 👍"
METASPACE = pre_tokenizers.Metaspace()
XLMR = [
    normalizers.Replace("``", '"'),
    normalizers.NFKD(),
    normalizers.StripAccents(),
    normalizers.Replace(Regex(" {2,}"), " "),
    normalizers.Strip(left=False, right=True),
]
DEBERTA = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPACED_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=True)
WORDS = pre_tokenizers.WhitespaceSplit()
KINDS = {
    "byte_level": (models.BPE, None, BYTES, AT_MARKS_TOO),
    "byte_level_nfc": (models.BPE, normalizers.NFC(), BYTES, AT_MARKS_TOO),
    "byte_level_prefix": (models.BPE, None, SPACED_BYTES, AT_SPACES),
    "words_of_bytes": (models.BPE, None, pre_tokenizers.Sequence([WORDS, SPACED_BYTES]), AT_SPACES),
    "bert": (
        models.WordPiece,
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        AT_MARKS_TOO,
    ),
    "whitespace": (
        models.WordPiece,
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizers.Whitespace(),
        AT_MARKS_TOO,
    ),
    "metaspace": (models.Unigram, None, METASPACE, AT_SPACES),
    "metaspace_first": (models.Unigram, None, pre_tokenizers.Metaspace(prepend_scheme="first"), AT_SPACES),
    "xlmr": (
        models.Unigram,
        normalizers.Sequence(XLMR),
        pre_tokenizers.Sequence([WORDS, METASPACE]),
        AT_SPACES,
    ),
    "deberta": (models.Unigram, normalizers.Sequence([DEBERTA, normalizers.NFC()]), METASPACE, AT_SPACES),
}
"""Name -> (model, normalizer, pre-tokenizer, the safe places)."""


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    model, normalizer, splitter, _ = KINDS[kind]
    if model is models.Unigram:
        letters = sorted({*TEXT, "▁"})
        tokens = [*SPECIALS, *letters, "▁the", "▁rain", "ai", "in"]
        tokenizer = Tokenizer(
            models.Unigram([(token, -float(i)) for i, token in enumerate(tokens)], unk_id=3)
        )
    else:
        tokenizer = Tokenizer(model(unk_token=None if model is models.BPE else "<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    if model is not models.Unigram:
        trainer = trainers.BpeTrainer if model is models.BPE else trainers.WordPieceTrainer
        alphabet = pre_tokenizers.ByteLevel.alphabet() if model is models.BPE else []
        tokenizer.train_from_iterator(
            [TEXT] * 3,
            trainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False),
        )
    tokenizer.add_special_tokens(["[E1]", AddedToken("E2", lstrip=True), AddedToken("E3", single_word=True)])
    return tokenizer


FRAGMENTS = [
    *(
        "a",
        "the",
        "rain",
        "ΑΣ",
        "İ",
        "ß",
        "é",
        "e\u0301",
        "\u0301",
        "ﬁ",
        "Ⅳ",
        "²",
        "½",
        "\u0d4e",
        "\u0e01\u0e33",
        "ﱞ",
        "\u037a",
    ),
    *(
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x85",
        "\x1c",
        "\u200b",
        "\u200d",
        "\u180e",
    ),
    *("'", "'s", "'ll", " '", "''", "``", ".", ",", "...", "!?", "_", "-", "▁", "▁a", "<", ">", "[", "]"),
    *("12", "3", "٣", "一", "二", "。", "\uff0c", "\uff01", "か\u3099", "각", "👍🏽", "👩\u200d🚀", "🇳🇴"),
    *("[E1]", "E2", "E3", "<mask>", "<s>"),
]
BETWEEN = (*("", " ") * 4, "  ", "\n", ".", ",", "\uff0c", "'")
"""What follows a fragment; a single space often, because most texts are cut there."""
texts = st.lists(
    st.tuples(
        st.sampled_from(FRAGMENTS) | st.characters(exclude_categories=("Cs",)), st.sampled_from(BETWEEN)
    ).map("".join),
    max_size=20,
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, deadline=None)
@given(text=texts)
def test_the_parts_of_a_text_have_the_ids_of_the_whole(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    places = safe_places(tokenizer, json.loads(tokenizer.to_str()))
    assert places is KINDS[kind][3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "PIECE", 1)  # cuts at every safe place
        patch.setattr(long_texts, "LONG", 1)
        parts = list(pieces(text, places))
    assert "".join(parts) == text

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def words(text: str) -> list[str]:  # where a vocabulary has few words, other words have equal ids
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    assert [token for part in parts for token in ids(part)] == ids(text)
    assert [word for part in parts for word in words(part)] == words(text)


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_text_is_cut_often(kind: str) -> None:
    places = KINDS[kind][3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "PIECE", 1)
        patch.setattr(long_texts, "LONG", 1)
        found = list(pieces("det regner, og 12 fjell er våte. 一二。三四", places))
    expected = ["det", " regner, og", " 12", " fjell", " er", " våte. 一二。三四"]
    marks = ["det", " regner", ", og", " 12", " fjell", " er", " våte", ". 一二", "。三四"]
    assert found == (marks if places is AT_MARKS_TOO else expected)


def test_where_it_is_not_certain_a_text_stays_whole() -> None:
    def places(tokenizer: Tokenizer) -> object:
        return safe_places(tokenizer, json.loads(tokenizer.to_str()), ["<mask> "])

    def changed(kind: str = "byte_level", *added: AddedToken | str, **parts: object) -> Tokenizer:
        tokenizer = Tokenizer.from_str(tokenizer_of(kind).to_str())
        tokenizer.add_tokens(list(added))
        for name, part in parts.items():
            setattr(tokenizer, name, part)
        return tokenizer

    assert places(changed()) is AT_MARKS_TOO
    assert places(changed("byte_level", ".com")) is AT_SPACES
    assert places(changed("byte_level", "New York")) is None
    assert places(changed("byte_level", "<mask> ")) is AT_MARKS_TOO  # no text is read as this token
    assert places(changed("byte_level", AddedToken("E4", rstrip=True))) is None
    assert places(changed(pre_tokenizer=None)) is None
    assert places(changed(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False))) is None
    assert places(changed(pre_tokenizer=pre_tokenizers.Split(Regex("x"), "isolated"))) is None
    assert places(changed("metaspace", pre_tokenizer=pre_tokenizers.Metaspace(split=False))) is None
    first = pre_tokenizers.Sequence([WORDS, pre_tokenizers.Metaspace(prepend_scheme="first")])
    assert places(changed("metaspace", pre_tokenizer=first)) is None
    assert places(changed(normalizer=normalizers.Strip())) is None
    assert places(changed(normalizer=normalizers.Prepend("▁"))) is None
    assert places(changed(normalizer=normalizers.Replace(" ", "▁"))) is None
    assert places(changed(normalizer=normalizers.Replace(Regex("a b"), "c"))) is None
    dropout = json.loads(tokenizer_of("byte_level").to_str())
    dropout["model"]["dropout"] = 0.1
    assert safe_places(tokenizer_of("byte_level"), dropout) is None


@pytest.mark.parametrize(
    "make", [small_tokenizers.byte_level, small_tokenizers.wordpiece, small_tokenizers.unigram]
)
def test_a_loaded_tokenizer_encodes_long_texts_among_short_ones(tmp_path: Path, monkeypatch, make) -> None:
    tokenizer = load(str(make(tmp_path / "made")))
    batch = ["", "rain", " wind and <mask> rain " * 9, "x" * 50, "now playing, \ud800 masks " * 9, "rain"]
    whole = tokenizer.encode(batch)
    monkeypatch.setattr(long_texts, "PIECE", 10)
    monkeypatch.setattr(long_texts, "LONG", 20)
    calls: list[int] = []
    encode = type(tokenizer)._encode
    monkeypatch.setattr(
        type(tokenizer),
        "_encode",
        lambda self, texts: calls.append(max(map(len, texts))) or encode(self, texts),
    )
    monkeypatch.setattr("tokenizer.load._CHARACTERS_OF_A_CALL", 30)
    parts = tokenizer.encode(batch)
    assert len(calls) > 5 and max(calls) == 50  # the text without any space
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == other.dtype == np.int32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("changes", [{}, {"add_prefix_space": True}, {"nfc": True}], ids=str)
def test_training_on_long_documents_gives_the_same_tokenizer(tmp_path: Path, monkeypatch, changes) -> None:
    documents = [(TEXT + " ") * 40 + "x" * 5000, f"{TEXT}\n" * 30]
    config = TokenizerConfig(vocab_size=300, **changes)

    def trained(folder: str) -> bytes:
        place = epath.Path(tmp_path / folder)
        train.train_tokenizer(documents, config, place, model_max_length=16, progress=False)
        return (place / "tokenizer.json").read_bytes()

    whole = trained("whole")
    monkeypatch.setattr(long_texts, "PIECE", 10)
    monkeypatch.setattr(long_texts, "LONG", 20)
    monkeypatch.setattr(train, "_BATCH_CHARACTERS", 50)
    assert trained("parts") == whole

"""Words and their pieces: every word has one place, whatever the tokenizer and however long the sentence."""

from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from data.labelled.sentences import Sentences
from finetune.texts.token_encoding import TokenEncoder, window_starts
from tests.finetune.family_tokenizers import CASES, write_tokenizer
from tests.finetune.tiny_task import write_model
from tokenizer.load import Loaded, load

SENTENCES = [
    ["Plain", "text", ",", "of", "The", "Mask", "."],
    ["the"],
    ["a", "", "b"],  # a word without a letter
    ["\u200b", "naïve", "10 000", "中文字", "x"],  # one that some tokenizers drop, one with a blank
    ["the", "same", "long", "text"] * 12,
    ["E\u0301cole", "\u00ad", "the"],
]
WORDS = sum(map(len, SENTENCES))


def sentences() -> Sentences:
    """Each word has a label of its own."""
    return Sentences(SENTENCES, np.arange(WORDS, dtype=np.int32), list(range(len(SENTENCES))), "here")


@pytest.mark.parametrize("case", CASES)
def test_each_word_is_trained_and_predicted_once_by_its_first_piece(case: str, tmp_path: Path):
    write_tokenizer(tmp_path, CASES[case])
    loaded = load(str(tmp_path))
    first = TokenEncoder(loaded, max_length=20)(sentences())
    words = first.words
    assert words is not None and first.labels is not None and first.truncated >= 1
    assert (np.diff(words.rows) >= 0).all()
    np.testing.assert_array_equal(first.labels[words.rows, words.places], np.arange(WORDS))
    assert (first.labels >= 0).sum() == WORDS  # and nothing else has a label
    every = TokenEncoder(loaded, max_length=20, pieces="all")(sentences())
    assert set(every.labels[every.labels >= 0].tolist()) == set(range(WORDS))
    np.testing.assert_array_equal(every.labels[words.rows, words.places], np.arange(WORDS))
    assert (every.labels >= 0).sum() > WORDS
    assert first.lengths.max() <= 20


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].kind != "unigram"])
def test_pieces_are_those_of_the_whole_text(case: str, tmp_path: Path):
    write_tokenizer(tmp_path, CASES[case])
    loaded = load(str(tmp_path))
    encoded = TokenEncoder(loaded, max_length=64)(sentences())
    whole = loaded.tokenizer.encode(" ".join(SENTENCES[0])).ids
    assert encoded.tokens[0, : encoded.lengths[0]].tolist() == whole


def test_a_byte_level_tokenizer_without_a_blank_before_the_first_word_keeps_the_blanks_of_the_others(
    tmp_path: Path,
):
    write_tokenizer(tmp_path, CASES["modernbert, tokens of many kinds"])
    loaded = load(str(tmp_path))
    (found,) = TokenEncoder(loaded, max_length=20).pieces([["the", "the", "a"]])
    assert [loaded.tokenizer.id_to_token(index) for index in found.ids] == ["the", "Ġth", "e", "Ġa"]
    assert (found.first, found.word) == ([0, 1, 3], [0, 1, 1, 2])


@pytest.mark.parametrize(
    ("count", "room", "starts"),
    [
        (1, 8, [0]),
        (8, 8, [0]),
        (9, 8, [0, 1]),
        (20, 8, [0, 6, 12]),
        (21, 8, [0, 6, 12, 13]),
        (5, 2, [0, 2, 3]),
    ],
)
def test_rows_of_a_long_sentence_overlap_and_cover_it(count: int, room: int, starts: list[int]):
    assert window_starts(count, room) == starts
    assert {place for start in starts for place in range(start, start + room)} >= set(range(count))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(str(write_model(tmp_path_factory.mktemp("tiny"))))


def test_a_word_is_in_the_row_that_has_the_most_text_around_it(tiny: Loaded):
    encoder = TokenEncoder(tiny, max_length=10)  # 8 pieces and two special tokens
    (found,) = encoder.pieces([["cat"] * 13])
    assert found.first == [0, *range(2, 14)]  # the first word has no blank before it, and two pieces
    encoded = encoder(Sentences([["cat"] * 13], None, [0], "here"))
    assert encoded.words is not None and encoded.labels is None
    assert encoded.words.rows.tolist() == [0] * 6 + [1] * 7
    assert encoded.words.places.tolist() == [1, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 8]


def test_a_length_without_room_for_text_is_refused(tiny: Loaded):
    with pytest.raises(
        UserError, match=r"config\.max_length=3 leaves no room for text: a text has 2 special tokens"
    ):
        TokenEncoder(tiny, max_length=3)


def test_sentences_without_words_have_rows_and_no_answers(tiny: Loaded):
    encoded = TokenEncoder(tiny, max_length=10)(Sentences([[], []], None, [0, 1], "here"))
    assert (len(encoded), encoded.answers, encoded.lengths.tolist()) == (2, 0, [2, 2])
    found = np.zeros((0, 3), np.float32)
    encoded.put(found, np.array([0, 1]), np.ones((2, 8, 3), np.float32))

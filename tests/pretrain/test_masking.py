"""Masks: exact counts, fair draws, whole words, and the same on every mesh."""

import dataclasses
import hashlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data.special_tokens import SpecialTokens
from pretrain.config import MaskingConfig
from pretrain.objective.masking import Masked, MaskingTables, mask_tokens, predictions_per_row
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded
from tokenizer.train import train_tokenizer

CLS, SEP, PAD, MASK, UNK = 1, 2, 3, 7, 11  # apart from one another, so that 0 and the highest id are ordinary
SPECIAL = (CLS, SEP, PAD, MASK, UNK)
VOCAB = 40
TABLES = MaskingTables(0.8, 0.1, MASK, SPECIAL, VOCAB)
ORDINARY = [token for token in range(VOCAB) if token not in SPECIAL]
KEY = jax.random.key(3, impl="threefry2x32")


def masked(tokens, segments, tables=TABLES, rate=0.15, key=KEY, rows=None) -> Masked:
    tokens, segments = np.asarray(tokens, np.int32), np.asarray(segments, np.int32)
    predictions = predictions_per_row(rate, tokens.shape[1])
    rows = np.arange(len(tokens)) if rows is None else rows
    run = jax.jit(
        lambda key, rows, tokens, segments: mask_tokens(
            key, rows, tokens, segments, tables, rate, predictions
        )
    )
    return jax.tree.map(np.asarray, run(key, jnp.asarray(rows, jnp.int32), tokens, segments))


def rows_of(lengths, seq_len, seed=0):
    """A row for each number of ordinary tokens: <cls> tokens <sep>, then padding."""
    random = np.random.default_rng(seed)
    tokens = np.full((len(lengths), seq_len), PAD, np.int32)
    segments = np.zeros_like(tokens)
    for row, length in enumerate(lengths):
        tokens[row, : length + 2] = [CLS, *random.choice(ORDINARY, length), SEP]
        segments[row, : length + 2] = 1
    return tokens, segments


def seen_by_the_model(result: Masked) -> np.ndarray:
    """What stands in the inputs where tokens are predicted."""
    return np.take_along_axis(result.inputs, result.positions, axis=1)[result.weights == 1]


def binomial_bound(n, p):
    return 5 * math.sqrt(n * p * (1 - p))


def test_each_row_predicts_round_of_rate_times_maskable_and_at_least_one():
    lengths = [0, 1, 2, 3, 9, 10, 11, 30, 61, 62]
    tokens, segments = rows_of(lengths, 64)
    result = masked(tokens, segments)
    assert (
        result.weights.shape
        == result.positions.shape
        == result.targets.shape
        == (10, predictions_per_row(0.15, 64))
    )
    assert result.weights.sum(axis=1).tolist() == [0, 1, 1, 1, 1, 2, 2, 4, 9, 9]
    assert {array.dtype.name for array in (result.inputs, result.positions, result.targets)} == {"int32"}
    assert result.weights.dtype == np.float32


@pytest.mark.parametrize(
    ("rate", "seq_len", "expected"), [(0.15, 128, 19), (0.15, 512, 77), (0.3, 10, 3), (0, 8, 0), (1, 8, 8)]
)
def test_predictions_per_row(rate, seq_len, expected):
    assert predictions_per_row(rate, seq_len) == expected


def test_predictions_are_distinct_ordinary_tokens_and_all_else_is_untouched():
    tokens, segments = rows_of([5, 20, 40, 62] * 8, 64)
    segments[:, 10] = 0  # an ordinary token in padding
    result = masked(tokens, segments, rate=0.4)
    for row in range(len(tokens)):
        used = result.weights[row] == 1
        positions = result.positions[row][used]
        assert len(set(positions.tolist())) == len(positions) == used.sum()
        assert set(result.weights[row].tolist()) <= {0.0, 1.0}
        assert (segments[row, positions] > 0).all()
        assert not np.isin(tokens[row, positions], SPECIAL).any()
        assert (result.targets[row][used] == tokens[row, positions]).all()
        others = np.setdiff1d(np.arange(64), positions)
        assert (result.inputs[row, others] == tokens[row, others]).all()


def test_unused_places_are_valid_indices():
    result = masked(*rows_of([0, 3], 64))
    assert ((result.positions >= 0) & (result.positions < 64)).all()
    assert ((result.targets >= 0) & (result.targets < VOCAB)).all()


def test_80_percent_are_masked_10_random_and_10_kept():
    tokens, segments = rows_of([126] * 2000, 128)
    tokens[:, 1:127] = 0  # token id 0 is trainable, and no random draw hides among equal targets
    result = masked(tokens, segments)
    seen = seen_by_the_model(result)
    n = seen.size
    assert n == 2000 * 19
    assert (result.targets == 0).all()
    ordinary = len(ORDINARY)
    assert abs((seen == MASK).sum() - 0.8 * n) < binomial_bound(n, 0.8)
    assert abs((seen == 0).sum() - (0.1 + 0.1 / ordinary) * n) < binomial_bound(n, 0.1)
    replacements = seen[(seen != MASK) & (seen != 0)]
    counts = np.bincount(replacements, minlength=VOCAB)
    assert counts[list(SPECIAL)].sum() == 0
    assert counts.size == VOCAB  # none at or above the tokenizer's size
    expected = 0.1 * n / ordinary
    assert np.abs(counts[ORDINARY[1:]] - expected).max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize(("mask_fraction", "random_fraction", "seen"), [(1.0, 0.0, {MASK}), (0.0, 0.0, {0})])
def test_the_shares_are_settable(mask_fraction, random_fraction, seen):
    tokens, segments = rows_of([62] * 20, 64)
    tokens[:, 1:63] = 0
    tables = dataclasses.replace(TABLES, mask_fraction=mask_fraction, random_fraction=random_fraction)
    result = masked(tokens, segments, tables)
    assert set(seen_by_the_model(result).tolist()) == seen


def test_with_only_random_replacements_every_ordinary_token_comes_up():
    tokens, segments = rows_of([62] * 100, 64)
    tables = dataclasses.replace(TABLES, mask_fraction=0.0, random_fraction=1.0)
    result = masked(tokens, segments, tables)
    assert set(seen_by_the_model(result).tolist()) == set(ORDINARY)


@pytest.mark.parametrize("whole_word", [False, True])
def test_every_position_is_as_likely_as_another(whole_word):
    tables = TABLES
    if whole_word:
        tables = dataclasses.replace(
            TABLES, word_starts=np.ones(VOCAB, bool), word_breaks=np.zeros(VOCAB, bool)
        )
    tokens, segments = rows_of([100] * 4000, 128)
    result = masked(tokens, segments, tables)
    used = result.weights == 1
    counts = np.bincount(result.positions[used], minlength=128)
    assert counts[[0, *range(101, 128)]].sum() == 0
    assert used.sum() == 4000 * 15
    assert np.abs(counts[1:101] - 600).max() < binomial_bound(4000, 0.15)


def test_a_mask_depends_on_the_key_and_the_row_alone():
    tokens, segments = rows_of([30, 40, 50, 60], 64)
    whole = masked(tokens, segments, rows=[10, 11, 12, 13])
    again = masked(tokens[[2, 0]], segments[[2, 0]], rows=[12, 10])
    for name, array in again._asdict().items():
        np.testing.assert_array_equal(array, getattr(whole, name)[[2, 0]])
    same_text = masked(tokens[[0, 0]], segments[[0, 0]], rows=[10, 11])
    assert same_text.positions[0].tolist() != same_text.positions[1].tolist()
    other_key = masked(tokens, segments, rows=[10, 11, 12, 13], key=jax.random.fold_in(KEY, 1))
    assert other_key.positions.tolist() != whole.positions.tolist()


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_are_the_same_on_1_and_8_devices(whole_word):
    tables = dataclasses.replace(
        TABLES, word_starts=np.arange(VOCAB) % 3 > 0, word_breaks=np.arange(VOCAB) == 5
    )
    tables = tables if whole_word else TABLES
    tokens, segments = rows_of(list(range(30, 62)), 64)
    alone = masked(tokens, segments, tables)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    predictions = predictions_per_row(0.15, 64)
    run = jax.jit(
        lambda rows, tokens, segments: mask_tokens(KEY, rows, tokens, segments, tables, 0.15, predictions)
    )
    arrays = [jax.device_put(array, by_row) for array in (np.arange(32, dtype=np.int32), tokens, segments)]
    spread = run(*arrays)
    assert not spread.inputs.sharding.is_fully_replicated
    for name, array in spread._asdict().items():
        np.testing.assert_array_equal(array, getattr(alone, name))
    if not whole_word:
        compiled = run.lower(*arrays).compile().as_text()
        assert "all-gather" not in compiled
        assert "all-reduce" not in compiled


def reference_words(tokens, segments, tables) -> list[list[int]]:
    """Positions of each word of a row, by the definition."""
    words: list[list[int]] = []
    joined = False
    for position, (token, segment) in enumerate(zip(tokens.tolist(), segments.tolist())):
        ordinary = token not in SPECIAL and segment > 0
        if ordinary and joined and not tables.word_starts[token] and segment == segments[position - 1]:
            words[-1].append(position)
        elif ordinary:
            words.append([position])
        joined = ordinary and not tables.word_breaks[token]
    return words


def word_rows(count, seq_len, seed):
    """Rows of several documents in segments of their own, with special tokens inside, then padding."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, VOCAB, (count, seq_len))
    segments = 1 + np.cumsum(random.random((count, seq_len)) < 0.05, axis=1)
    padding = np.arange(seq_len) >= random.integers(seq_len // 2, seq_len + 1, (count, 1))
    return np.where(padding, PAD, tokens).astype(np.int32), np.where(padding, 0, segments).astype(np.int32)


def whole_word_tables():
    starts = np.arange(VOCAB) % 4 == 0
    breaks = np.arange(VOCAB) % 9 == 0
    starts[list(SPECIAL)] = breaks[list(SPECIAL)] = True
    return dataclasses.replace(TABLES, word_starts=starts, word_breaks=breaks)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5])
def test_words_are_taken_whole_until_none_fits(rate):
    tables = whole_word_tables()
    tokens, segments = word_rows(200, 96, seed=1)
    result = masked(tokens, segments, tables, rate)
    long_words = 0
    for row in range(len(tokens)):
        words = reference_words(tokens[row], segments[row], tables)
        used = result.weights[row] == 1
        chosen = set(result.positions[row][used].tolist())
        maskable = sum(map(len, words))
        budget = max(1, round(rate * maskable))
        assert len(chosen) == used.sum() <= budget
        whole = [word for word in words if set(word) <= chosen]
        cut = sum(len(chosen & set(word)) for word in words if len(word) > budget)
        assert sum(map(len, whole)) + cut == len(chosen)  # nothing but whole words, and of longer ones tokens
        assert all(
            len(word) > budget - len(chosen) for word in words if word not in whole
        )  # none left that fits
        assert len(chosen) == budget or max(map(len, words)) <= budget  # what is cut fills the row up
        long_words += sum(len(word) > 1 for word in whole)
    assert long_words > 50


def test_each_word_is_as_likely_as_another_of_its_length():
    tables = whole_word_tables()
    pattern = [
        4,
        5,
        6,
        8,
        10,
        12,
        13,
        14,
        16,
        15,
        20,
        19,
    ]  # words of 3, 2, 3, 2, 2 tokens: starts at multiples of 4
    tokens = np.tile(np.array(pattern, np.int32), (4000, 4))
    segments = np.ones_like(tokens)
    result = masked(tokens, segments, tables, rate=0.15)  # 7 of 48 tokens
    words = reference_words(tokens[0], segments[0], tables)
    assert [len(word) for word in words[:5]] == [3, 2, 3, 2, 2]
    used = result.weights == 1
    counts = np.bincount(result.positions[used], minlength=48)
    assert all(len({counts[position] for position in word}) == 1 for word in words)
    for length in (2, 3):
        taken = np.array([counts[word[0]] for word in words if len(word) == length])
        share = taken.mean() / 4000
        assert np.abs(taken - taken.mean()).max() < binomial_bound(4000, share)
    assert (used.sum(axis=1) >= 6).all()  # with words of 2 and 3 about, at most one place stays empty


def test_a_word_longer_than_the_budget_is_cut_into_its_tokens():
    tables = dataclasses.replace(TABLES, word_starts=np.zeros(VOCAB, bool), word_breaks=np.zeros(VOCAB, bool))
    tokens = np.full((3, 20), 9, np.int32)
    segments = np.array([[1] * 20, [1] * 17 + [2] * 3, [1] * 16 + [2] * 4])
    result = masked(tokens, segments, tables)  # a budget of 3: one word of 20; of 17 and 3; of 16 and 4
    assert result.weights.sum(axis=1).tolist() == [3, 3, 3]
    many = masked(np.full((400, 20), 9, np.int32), np.tile(segments[1], (400, 1)), tables)
    counts = np.bincount(many.positions.ravel(), minlength=20)
    assert counts[17] == counts[18] == counts[19] > 0  # the word of 3 is whole, or not there
    assert counts[:17].min() > 30  # every token of the long word comes up


def test_text_without_spaces_is_predicted_at_the_rate():
    starts = np.zeros(VOCAB, bool)
    starts[0] = True  # one token in 40 begins a word, as punctuation does in Chinese
    tables = dataclasses.replace(TABLES, word_starts=starts, word_breaks=np.zeros(VOCAB, bool))
    tokens, segments = word_rows(100, 128, seed=2)
    result = masked(tokens, segments, tables)
    maskable = ((segments > 0) & ~np.isin(tokens, SPECIAL)).sum(axis=1)
    np.testing.assert_array_less(0.9 * np.round(0.15 * maskable) - 1, result.weights.sum(axis=1))
    assert result.weights.sum() / maskable.sum() == pytest.approx(0.15, abs=0.005)


def test_masks_of_rows_whose_words_fit_are_what_they_were():
    tokens, segments = word_rows(64, 96, seed=3)
    result = masked(tokens, segments, whole_word_tables(), rate=0.5)
    digest = hashlib.sha256(result.inputs.tobytes() + result.weights.tobytes()).hexdigest()
    assert digest[:16] == "3320cf3c97cccd9f"


def test_the_tables_of_a_trained_tokenizer_keep_its_words_whole(tmp_path):
    documents = ["the harbour lights\nstand over the water, the water"] * 4
    trained: Loaded = train_tokenizer(
        documents, TokenizerConfig(vocab_size=265), epath.Path(tmp_path), model_max_length=64, progress=False
    )
    assert trained.special == SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
    tables = MaskingTables.build(
        MaskingConfig(mask_fraction=1.0, random_fraction=0.0, whole_word=True), trained
    )
    tokens = np.tile(np.array([0, *trained.encode(documents)[0], 2], np.int32), (200, 1))
    result = masked(tokens, np.ones_like(tokens), tables, rate=0.3)
    hidden = set()
    for row in result.inputs:
        texts = [trained.decode([token]) for token in tokens[0, 1:-1]]
        spelled = "".join(
            re.sub(r"\S", "_", text) if seen == 4 else text for text, seen in zip(texts, row[1:-1])
        )
        assert all(set(word) == {"_"} or "_" not in word for word in spelled.split()), spelled
        hidden.add(spelled)
    assert len(hidden) > 20


def test_single_token_masking_needs_no_word_marks(tmp_path):
    trained = train_tokenizer(
        ["ab"], TokenizerConfig(vocab_size=261), epath.Path(tmp_path), model_max_length=8, progress=False
    )
    tables = MaskingTables.build(MaskingConfig(), trained)
    assert (tables.mask_id, tables.special_ids, tables.vocab_size) == (4, (0, 1, 2, 3, 4), 261)
    assert tables.word_starts is tables.word_breaks is None

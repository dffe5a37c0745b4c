"""Vectors of tokens from counts of their neighbours, and runs that start at them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.recipes import ours
from benchmarks.recipes.rungs import RUNGS, fields_of
from benchmarks.recipes.runs import Run
from benchmarks.recipes.text import Text
from benchmarks.recipes.word_vectors import _counts, started, word_vectors

SPECIAL, SIZE, WIDTH = 5, 30, 8
FIRST, SECOND = range(5, 15), range(15, 25)  # tokens 25 to 29 never occur


@pytest.fixture(scope="module")
def ids():
    """Tokens in turn of two kinds and <s>: those of a kind have the same neighbours."""
    rng = np.random.default_rng(0)
    pairs = np.stack([np.zeros(5000, int), rng.choice(FIRST, 5000), rng.choice(SECOND, 5000)], axis=1)
    return pairs.reshape(-1)


def of(ids, **changes):
    return word_vectors(ids, **{"size": SIZE, "width": WIDTH, "special": SPECIAL} | changes)


def test_tokens_with_the_same_neighbours_are_near_each_other():
    rng = np.random.default_rng(0)
    kinds = (FIRST, SECOND)
    # Each kind has words beside it that the other lacks.
    beside = {0: (5, 6), 1: (15, 16)}
    text = [
        token
        for kind in rng.integers(0, 2, 5000)
        for token in (rng.choice(beside[kind]), rng.choice(kinds[kind][2:]), rng.choice(beside[kind]), 0)
    ]
    vectors = of(np.array(text))
    likeness = vectors @ vectors.T / WIDTH
    same, other = likeness[7:15, 7:15].mean(), likeness[7:15, 17:25].mean()
    assert same > 0.9 and other < 0.3


def test_rows_have_one_size_and_what_is_not_counted_has_none(ids):
    vectors = of(ids)
    sizes = np.sqrt(np.square(vectors).mean(axis=1))
    np.testing.assert_allclose(sizes[5:25], 1, atol=1e-5)
    assert not vectors[:5].any() and not vectors[25:].any()
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, of(ids))


def test_a_vocabulary_smaller_than_the_width_has_vectors_too(ids):
    vectors = of(ids, width=64)
    np.testing.assert_allclose(np.sqrt(np.square(vectors).mean(axis=1))[5:25], 1, atol=1e-5)


def test_a_start_keeps_what_rows_have_in_common_their_size_and_rows_without_a_vector(ids):
    rng = np.random.default_rng(1)
    common = np.where(np.arange(WIDTH) % 2, -0.5, 0.5)
    word = (rng.normal(0, 0.02, (SIZE + 2, WIDTH)) + common).astype(np.float32)
    vectors = of(ids)
    start = started(word, vectors)
    np.testing.assert_array_equal(
        start[[*range(5), *range(25, SIZE + 2)]], word[[*range(5), *range(25, SIZE + 2)]]
    )
    rest = start[5:25] - common
    assert np.abs(rest @ common).max() < 0.02 * np.linalg.norm(common) * np.sqrt(WIDTH)
    assert 0.01 < rest.std() < 0.03
    apart = vectors[5:25] - np.outer(vectors[5:25] @ common, common) / (common @ common)
    assert np.corrcoef(rest.ravel(), apart.ravel())[0, 1] > 0.9


def test_a_run_starts_at_them(ids, monkeypatch):
    word = jnp.asarray(np.random.default_rng(1).normal(0, 0.02, (SIZE, WIDTH)), jnp.float32)
    fresh = SimpleNamespace(params={"embeddings": {"word": word}, "head": {"bias": jnp.zeros(SIZE)}})
    monkeypatch.setattr(ours, "fresh_state", lambda model: fresh)
    monkeypatch.setattr(ours.training, "fresh_state", None)
    ours.start_at_word_vectors(ids)
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=SIZE))
    state = ours.training.fresh_state(model)
    expected = started(np.asarray(word), of(ids))
    np.testing.assert_array_equal(state.params["embeddings"]["word"], expected)
    assert isinstance(state.params["embeddings"]["word"], jax.Array)
    assert not np.array_equal(expected, word)


def test_nearer_tokens_count_more():
    counts = _counts(np.array([5, 6, 7, 0, 8]), SIZE, SPECIAL).toarray()
    pairs = {(5, 6): 1, (5, 7): 1 / 2, (6, 7): 1, (5, 8): 1 / 4, (6, 8): 1 / 3, (7, 8): 1 / 2}
    expected = np.zeros((SIZE, SIZE))
    for (left, right), count in pairs.items():
        expected[left, right] = expected[right, left] = count
    np.testing.assert_allclose(counts, expected, rtol=1e-6)


@pytest.mark.parametrize(("rung", "asked"), [("near-words", True), ("near-8-lr2e-3", False)])
def test_a_rung_says_whether_its_runs_start_at_them(ids, monkeypatch, tmp_path, rung, asked):
    given = []
    monkeypatch.setattr(Text, "training_ids", lambda text: ids)
    monkeypatch.setattr(ours, "before", lambda *_: None)
    monkeypatch.setattr(ours, "start_at_word_vectors", given.append)
    monkeypatch.setattr(ours, "train", lambda config, workdir: SimpleNamespace(interrupted="SIGTERM"))
    fields = fields_of(RUNGS[rung])
    run = Run(text=str(tmp_path), rung=rung, seed=0, tokens=20480, points=2, fields=fields)
    with pytest.raises(SystemExit, match="stopped by SIGTERM"):
        ours.train_and_score(run, tmp_path)
    assert len(given) == asked

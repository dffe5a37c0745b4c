"""Vectors of tokens from counts of their neighbours, and runs that start at them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from base.schema import build
from data.config import DataConfig
from data.corpus import open_sources, training_documents
from pretrain import train as training
from pretrain.first_words import first_words
from pretrain.job import assemble
from pretrain.models.word_vectors import _counts, with_word_vectors, word_vectors
from pretrain.objective.training_sample import sample_ids
from pretrain.optim.train_state import abstract_state, fresh_state
from tests.memory_corpus import make_corpus
from tests.prepared_corpus import write_numbers
from tests.tiny import tiny_config, write_corpus

SPECIAL, SIZE, WIDTH = range(5), 30, 8
FIRST, SECOND = range(5, 15), range(15, 25)  # tokens 25 to 29 never occur


@pytest.fixture(scope="module")
def ids():
    """Tokens in turn of two kinds and <s>: those of a kind have the same neighbours."""
    rng = np.random.default_rng(0)
    pairs = np.stack([np.zeros(5000, int), rng.choice(FIRST, 5000), rng.choice(SECOND, 5000)], axis=1)
    return pairs.reshape(-1)


def of(ids, **changes):
    return word_vectors([ids], **{"size": SIZE, "width": WIDTH, "special": SPECIAL} | changes)


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


def test_the_signs_of_a_factorisation_do_not_matter(ids, monkeypatch):
    vectors, eigh = of(ids), np.linalg.eigh

    def other_signs(matrix):
        values, axes = eigh(matrix)
        return values, axes * np.where(np.arange(len(values)) % 2, -1, 1)

    monkeypatch.setattr(np.linalg, "eigh", other_signs)
    np.testing.assert_allclose(of(ids), vectors, atol=1e-3)


def test_a_vocabulary_smaller_than_the_width_has_vectors_too(ids):
    vectors = of(ids, width=64)
    np.testing.assert_allclose(np.sqrt(np.square(vectors).mean(axis=1))[5:25], 1, atol=1e-5)


def test_a_start_keeps_what_rows_have_in_common_their_size_and_rows_without_a_vector(ids):
    rng = np.random.default_rng(1)
    common = np.where(np.arange(WIDTH) % 2, -0.5, 0.5)
    word = (rng.normal(0, 0.02, (SIZE + 2, WIDTH)) + common).astype(np.float32)
    word[SIZE:] = 7.0
    vectors = of(ids)
    start = np.asarray(with_word_vectors(jnp.asarray(word), np.pad(vectors, ((0, 2), (0, 0))), SIZE))
    kept = [*range(5), *range(25, SIZE + 2)]
    np.testing.assert_array_equal(start[kept], word[kept])
    mean = word[:SIZE].mean(axis=0)
    rest = start[5:25] - mean
    np.testing.assert_allclose(rest @ mean, 0, atol=1e-4)
    apart = vectors[5:25] - np.outer(vectors[5:25] @ mean, mean) / (mean @ mean)
    np.testing.assert_allclose(rest, (word[:SIZE] - mean).std() * apart, atol=1e-5)


def test_nearer_tokens_count_more_and_those_of_other_documents_do_not_count():
    counts = _counts([np.array([5, 6, 7, 0, 8]), np.array([9, 5])], SIZE, SPECIAL).toarray()
    pairs = {(5, 6): 1, (5, 7): 1 / 2, (6, 7): 1, (5, 8): 1 / 4, (6, 8): 1 / 3, (7, 8): 1 / 2, (9, 5): 1}
    expected = np.zeros((SIZE, SIZE))
    for (left, right), count in pairs.items():
        expected[left, right] = expected[right, left] = count
    np.testing.assert_allclose(counts, expected, rtol=1e-6)


def test_a_text_without_pairs_gives_no_vectors():
    assert not of(np.array([7])).any()
    assert not word_vectors([], size=SIZE, width=WIDTH, special=SPECIAL).any()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.txt")


def of_run(job, documents):
    size = job.encoder.vocab_size
    width = job.model.shapes()["embeddings"]["word"].shape[1]
    return word_vectors(documents, size=size, width=width, special=job.tokenizer.special_ids)


def job_of(corpus, workdir, **changes):
    config = tiny_config(corpus, average={"decay": 0.9}, **changes)
    return assemble(config, epath.Path(workdir), None)


@pytest.mark.parametrize(
    "network", [{}, {"family": "electra", "embedding_size": 16, "vocab_size": 350}], ids=str
)
def test_a_run_starts_at_vectors_of_its_text_on_any_mesh(corpus, tmp_path, network):
    text = {"model": {"word_init": "cooccurrence", **network}}
    states = []
    for name, mesh in (("a", {"data": 8}), ("b", {"data": 2, "fsdp": 2, "tensor": 2})):
        job = job_of(corpus, tmp_path / name, mesh=mesh, **text)
        with jax.set_mesh(job.mesh):
            states.append(training._Pretraining(job, epath.Path(tmp_path / name), {}).first_state())
    documents = job.tokenizer.encode(list(training_documents(job.config.data)))
    vectors = of_run(job, documents)
    size = len(vectors)
    np.testing.assert_allclose(first_words(job), vectors, atol=1e-4)
    plain = fresh_state(
        job.model, job.optimizer, abstract_state(job.model, job.optimizer, job.mesh), job.config.seed
    )
    rows = jnp.asarray(plain.params["embeddings"]["word"])
    expected = with_word_vectors(rows, jnp.pad(vectors, ((0, len(rows) - size), (0, 0))), size)
    for state in states:
        word = state.params["embeddings"]["word"]
        np.testing.assert_allclose(word, expected, atol=1e-7)
        # The moving average starts at the same weights.
        averaged = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == word.shape]
        assert any(np.array_equal(leaf, word) for leaf in averaged)
    assert not np.allclose(expected, rows, atol=1e-3)


def test_the_sample_may_come_from_the_beginnings_of_all_files(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name * 99}\n" * 200)
    data = build(DataConfig, {"source": "files", "path": str(tmp_path / "*.txt"), "eval_fraction": 0.0})
    letters = SimpleNamespace(encode=lambda texts: [np.frombuffer(text.encode(), np.uint8) for text in texts])
    counted = [
        np.concatenate(
            [
                ids
                for batch in sample_ids(data, open_sources(data), letters, 9000, spread=spread)
                for ids in batch
            ]
        )
        for spread in (False, True)
    ]
    assert [set(bytes(ids).decode()) for ids in counted] == [set("a"), set("ab")]
    assert all(3000 < len(ids) < 9200 for ids in counted)


def test_prepared_text_is_sampled_from_all_streams(tmp_path):
    sources = [write_numbers(tmp_path / "shards", make_corpus(4, 60))]
    data = build(DataConfig, {"source": "prepared", "path": str(tmp_path / "shards"), "streams": 4})
    tokenizer = SimpleNamespace(encode=list)
    first, spread = (
        [ids for batch in sample_ids(data, sources, tokenizer, 10**6, spread=spread) for ids in batch]
        for spread in (False, True)
    )
    training = len(sources[0]) - sources[0].held_out(data.eval_fraction)
    assert 0 < len(first) < len(spread) == training == len({tuple(ids) for ids in spread})


def test_words_of_a_new_run_are_random_unless_asked(corpus, tmp_path):
    assert first_words(job_of(corpus, tmp_path)) is None

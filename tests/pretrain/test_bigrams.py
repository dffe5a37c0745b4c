"""Counts of pairs, and networks whose first layer starts at them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath

from base.errors import UserError
from pretrain import train as training
from pretrain.export import export
from pretrain.job import assemble
from pretrain.models.bigrams import OFFSETS, Bigrams, common_direction, count_bigrams
from tests.tiny import tiny_config
from tokenizer.load import load

SPECIAL, SIZE, WIDTH, MASK = range(5), 24, 64, 4
NETWORK = {
    "family": "modernbert",
    "word_init": "bigrams",
    "position_init": "neighbours",
    "num_attention_heads": 4,
}


def chain(length=6000, seed=0):
    """Tokens of which each is followed by one of two, [length]."""
    draw = np.random.default_rng(seed)
    ids = [5]
    for step in draw.integers(1, 3, length - 1):
        ids.append(5 + (ids[-1] - 5 + 5 * step) % (SIZE - 6))  # token 23 never occurs
    return np.array(ids, np.int32)


def counted(ids, **changes):
    return count_bigrams([ids], **{"size": SIZE, "width": WIDTH, "rank": WIDTH, "special": SPECIAL} | changes)


def information_between(found, offset):
    """What vectors and maps say of all pairs: [token, token at the offset]."""
    index = OFFSETS.index(offset)
    inputs = np.concatenate([found.vectors, np.ones((SIZE, 1))], axis=1) / np.sqrt(2)
    return found.vectors @ (inputs @ found.read[index] @ found.written[index]).T


@pytest.mark.parametrize("offset", OFFSETS)
def test_vectors_and_maps_give_the_information_of_pairs(offset):
    ids = chain()
    said = information_between(counted(ids), offset)[5:23, 5:23]
    pairs = np.zeros((SIZE, SIZE))
    tokens, others = (ids[:-offset], ids[offset:]) if offset > 0 else (ids[-offset:], ids[:offset])
    np.add.at(pairs, (tokens, others), 1)
    expected = pairs.sum(1, keepdims=True) * pairs.sum(0, keepdims=True) / pairs.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        true = np.maximum(np.log(pairs / expected), 0)[5:23, 5:23]
    np.testing.assert_allclose(said, true, atol=0.02)


def test_vectors_have_length_1_and_lack_the_common_direction():
    found = counted(chain(), width=8, rank=4)
    np.testing.assert_allclose(np.linalg.norm(found.vectors[5:23], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.vectors @ common_direction(8), 0, atol=1e-6)
    assert not found.vectors[:5].any() and not found.vectors[23].any()
    assert found.read.shape == (4, 9, 4) and found.written.shape == (4, 4, 8)
    np.testing.assert_allclose(np.exp(found.log_frequencies).sum(), 1, atol=1e-5)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(found, Bigrams.empty(SIZE, 8, 4)))


def test_the_signs_of_a_factorisation_do_not_matter(monkeypatch):
    ids, eigh, svd = chain(), np.linalg.eigh, np.linalg.svd
    plain = counted(ids, rank=8)

    def signs(size):
        return np.where(np.arange(size) % 2, -1, 1)

    def other_eigh(matrix):
        values, axes = eigh(matrix)
        return values, axes * signs(len(values))

    def other_svd(matrix, **named):
        left, sizes, right = svd(matrix, **named)
        return left * signs(left.shape[1]), sizes, signs(len(right))[:, None] * right

    monkeypatch.setattr(np.linalg, "eigh", other_eigh)
    monkeypatch.setattr(np.linalg, "svd", other_svd)
    for one, other in zip(plain, counted(ids, rank=8)):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_a_text_without_pairs_gives_frequencies_alone():
    found = counted(np.array([7]))
    assert not found.vectors.any() and np.isfinite(found.read).all() and np.isfinite(found.written).all()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Words of which each has one follower."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    text = "the old king sees a small cat near her green house and then never finds it again"
    words = text.split()
    draw = np.random.default_rng(0)
    lines = [" ".join((words * 4)[start : start + 30]) for start in draw.integers(0, len(words), 200)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def job_of(corpus, workdir, network=(), **changes):
    model = NETWORK | dict(network)
    return assemble(
        tiny_config(corpus, average={"decay": 0.9}, model=model, **changes), epath.Path(workdir), None
    )


def first_state(job, workdir):
    with jax.set_mesh(job.mesh):
        return training._Pretraining(job, epath.Path(workdir), {}).first_state()


def share_of_masks_right(job, params, documents):
    """How often the network says a token in the middle of a text that is masked."""
    model, right = job.model, []
    for ids in documents[:40]:
        tokens = np.array(ids[:17], np.int32)[None]
        truth, tokens[0, 8] = tokens[0, 8], job.tokenizer.special.mask
        hidden = model.encode(params, tokens, np.ones_like(tokens), np.arange(17, dtype=np.int32)[None])
        right.append(int(model.predict(params, hidden[:, 8:9]).argmax()) == truth)
    return np.mean(right)


@pytest.mark.parametrize(("heads", "right"), [(1, 0.3), (2, 0.5), (4, 0.8)])
def test_a_network_predicts_before_its_first_step(corpus, tmp_path, heads, right):
    """Some tokens are part of a word, so that a single neighbour does not tell them."""
    job = job_of(corpus, tmp_path, {"num_attention_heads": heads, "hidden_size": 64})
    state = first_state(job, tmp_path)
    documents = job.tokenizer.encode(corpus.read_text().splitlines())
    assert share_of_masks_right(job, state.params, documents) > right
    plain = job_of(
        corpus, tmp_path / "b", {"word_init": "normal", "num_attention_heads": heads, "hidden_size": 64}
    )
    random = first_state(plain, tmp_path / "b")
    assert share_of_masks_right(plain, random.params, documents) < 0.15


def test_a_run_starts_alike_on_any_mesh(corpus, tmp_path):
    states = []
    for name, mesh in (("a", {"data": 8}), ("b", {"data": 2, "fsdp": 2, "tensor": 2})):
        job = job_of(corpus, tmp_path / name, mesh=mesh)
        states.append(first_state(job, tmp_path / name))
    for one, other in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1])):
        np.testing.assert_allclose(one, other, atol=1e-6)
    word = states[0].params["embeddings"]["word"]
    averaged = [leaf for leaf in jax.tree.leaves(states[0].opt_state) if leaf.shape == word.shape]
    assert any(np.array_equal(leaf, word) for leaf in averaged)


def test_only_the_first_layer_the_words_and_the_head_change(corpus, tmp_path):
    one, other = (
        first_state(job_of(corpus, tmp_path / name, {"word_init": name}), tmp_path / name).params
        for name in ("bigrams", "normal")
    )
    assert jnp.isfinite(one["embeddings"]["word"]).all()
    changed = {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(one)[0], jax.tree.leaves(other))
        if not np.array_equal(a, b)
    }
    assert changed == {
        "embeddings.word", "head.bias", "head.dense.kernel",
        "layers.attention.output.kernel", "layers.attention.query_key_value.kernel",
    }  # fmt: skip
    for name in ("output", "query_key_value"):
        kernels = [params["layers"]["attention"][name]["kernel"][1:] for params in (one, other)]
        np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"family": "roberta"}, "roberta has no such start; set it to cooccurrence"),
        ({"position_init": "normal"}, "needs config.model.position_init='neighbours'"),
        ({"tie_word_embeddings": False}, "needs config.model.tie_word_embeddings=True"),
    ],
)
def test_networks_without_a_place_for_counts_are_refused(corpus, tmp_path, network, message):
    with pytest.raises(UserError, match=message):
        job_of(corpus, tmp_path, network)


def test_a_run_goes_on_and_its_export_predicts_in_transformers(corpus, tmp_path):
    config = tiny_config(
        corpus, model=NETWORK | {"hidden_size": 64}, steps=2, optimizer={"learning_rate": 1e-6}
    )
    training.train(config, epath.Path(tmp_path / "run"))
    outcome = training.train(
        dataclasses.replace(config, steps=4), epath.Path(tmp_path / "run"), accept_changes=True
    )
    assert outcome.step == 4
    export(epath.Path(tmp_path / "run"), epath.Path(tmp_path / "out"))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = load(str(tmp_path / "out"))
    documents = tokenizer.encode(corpus.read_text().splitlines())[:40]
    tokens = np.stack([ids[:17] for ids in documents])
    truth, tokens[:, 8] = tokens[:, 8].copy(), tokenizer.special.mask
    with torch.no_grad():
        said = theirs(torch.from_numpy(tokens).long()).logits[:, 8].argmax(-1).numpy()
    assert (said == truth).mean() > 0.7

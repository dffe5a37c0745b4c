"""The start in which heads look at neighbours, as transformers' networks see it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from base.errors import UserError
from pretrain.models import build, families
from pretrain.models.families.modernbert.neighbours import query_and_key
from pretrain.models.huggingface import config_dict, parse_config
from pretrain.models.neighbours import offsets, turned
from pretrain.models.tensor_names import to_state_dict

S = 48
SIZES = {
    "vocab_size": 211,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES = [name for name in families.pretrained() if families.get(name).parts.neighbours]


def network(family: str, **changes):
    ids = {"pad_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    return parse_config({"model_type": family, **SIZES, **ids, "embedding_size": 128} | changes, "here")


@functools.cache
def attention_of_layers(family: str, start: str) -> list[np.ndarray]:
    """Probabilities [B, N, S, S] in each layer of transformers' network with fresh params."""
    config = dataclasses.replace(network(family), position_init=start)
    params = jax.jit(build(config).init)(jax.random.key(0))
    theirs = transformers.AutoConfig.for_model(**config_dict(config), attn_implementation="eager")
    model = transformers.AutoModelForMaskedLM.from_config(theirs)
    state = {name: torch.tensor(np.asarray(array)) for name, array in to_state_dict(config, params).items()}
    model.load_state_dict(state, strict=False)
    tokens = torch.tensor(np.random.default_rng(0).integers(5, SIZES["vocab_size"], (4, S)))
    with torch.no_grad():
        found = model.eval()(tokens, output_attentions=True)
    return [attended.numpy() for attended in found.attentions]


def at_neighbours(attended: np.ndarray) -> list[float]:
    """For each head, the mean probability of the token at its offset."""
    return [
        float(np.diagonal(attended[:, head], offset, axis1=1, axis2=2).mean())
        for head, offset in enumerate(offsets(attended.shape[1]))
    ]


def test_rotations_single_out_the_neighbour_in_long_rows_too():
    config = network("modernbert", num_attention_heads=2, global_rope_theta=160_000.0)
    query, key = query_and_key(160_000.0, config, offsets(2))[:, 0]
    turns = 160_000.0 ** -(np.arange(0, 64, 2) / 64)
    places = np.arange(-512, 512)
    scores = np.array([query @ turned(key[None], place * turns)[0] for place in places]) / 64**0.5
    shares = np.exp(scores - scores.max())
    assert places[shares.argmax()] == offsets(2)[0] == -1
    assert shares.max() > 0.5 * shares.sum()


def test_half_of_the_heads_take_both_sides_in_turn_and_go_outwards():
    assert [offsets(heads) for heads in (1, 3, 4, 12)] == [[-1], [-1, 1], [-1, 1], [-1, 1, -2, 2, -3, 3]]


@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_the_heads_look_at_their_neighbours(family):
    first, second = map(at_neighbours, attention_of_layers(family, "neighbours"))
    assert min(first) > 0.3
    assert min(second) > 0.1
    assert max(map(max, map(at_neighbours, attention_of_layers(family, "normal")))) < 0.1


@pytest.mark.parametrize(
    ("family", "changes", "start", "message"),
    [
        (
            "electra",
            {"embedding_size": 16},
            "neighbours",
            "needs embedding_size=128, which is hidden_size, and not 16",
        ),
        (
            "modernbert",
            {},
            "sinusoidal",
            "modernbert has no position embedding; set it to normal or neighbours",
        ),
    ],
)
def test_a_start_that_a_network_cannot_have_is_refused(family, changes, start, message):
    config = network(family, **changes)
    with pytest.raises(UserError, match=f"^position_init='{start}'.*{message}"):
        dataclasses.replace(config, position_init=start)


def test_the_rest_of_the_network_starts_as_without_it():
    config = network("roberta")
    (usual, changed) = (
        jax.jit(build(dataclasses.replace(config, position_init=start)).init)(jax.random.key(0))
        for start in ("normal", "neighbours")
    )
    differing = [
        jax.tree_util.keystr(path)
        for path, same in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: bool((a == b).all()), usual, changed)
        )
        if not same
    ]
    attention = "['layers']['attention']"
    assert differing == [
        "['embeddings']['position']",
        f"{attention}['key']['kernel']",
        f"{attention}['query']['kernel']",
    ]
    # Padding has no position, and positions are as large as at random.
    table = np.asarray(changed["embeddings"]["position"])
    assert not table[config.pad_token_id].any()
    np.testing.assert_allclose(np.sqrt((table[2:] ** 2).mean()), config.initializer_range, rtol=0.05)


def test_what_modernberts_words_have_in_common_changes_no_prediction():
    config = network("modernbert")
    model = build(dataclasses.replace(config, position_init="neighbours", vocab_multiple=64))
    params = jax.jit(model.init)(jax.random.key(0))
    word = np.asarray(params["embeddings"]["word"])
    common = word[: config.vocab_size].mean(axis=0)
    assert (
        np.linalg.norm(common)
        > 5 * np.linalg.norm(word[: config.vocab_size].std(axis=0)) / config.vocab_size**0.5
    )
    assert not word[config.vocab_size :].any()  # the vocabulary's padding
    hidden = jax.random.normal(jax.random.key(1), (1, 3, config.hidden_size))
    without = {
        **params,
        "embeddings": {**params["embeddings"], "word": (word - common) * (word.any(axis=1)[:, None])},
    }
    probabilities = [jax.nn.softmax(model.predict(each, hidden)) for each in (params, without)]
    np.testing.assert_allclose(*probabilities, rtol=1e-4, atol=1e-7)

"""Runs that start from a model of another size (init_tiled) or with other tokens (init_vocabulary)."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict, build
from base.set_fields import Given
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig, PretrainConfig
from pretrain.job import assemble
from pretrain.models import tiling
from pretrain.models.huggingface import encoder_config, load_pretrained
from pretrain.models.model import build as build_model
from pretrain.models.vocabulary import with_tokens
from pretrain.optim.train_state import abstract_state, state_from_params
from pretrain.origin import origin_params
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.finetune.tiny_task import write_model
from tests.tiny import on_one_device, tiny_config, write_corpus
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.pieces import pieces
from tokenizer.train import train_tokenizer

LARGER = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 80}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of 2 layers, 32 wide, and 320 tokens; text; and a tokenizer of 290 tokens of that text."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder)
    write_corpus(folder / "text.txt")
    config = TokenizerConfig(vocab_size=290, min_frequency=1)
    texts = (folder / "text.txt").read_text().splitlines()
    train_tokenizer(texts, config, epath.Path(folder / "other"), model_max_length=64, progress=False)
    return folder


def config_of(place, **changes):
    values = as_dict(tiny_config(place / "text.txt", **changes))
    values |= {"tokenizer": changes.get("tokenizer", {}), "init_from": str(place / "model")}
    values["model"] = changes.get("model", {})
    return build(PretrainConfig, values)


def tiled_config(place, **changes):
    return config_of(place, init_tiled=True, model={**LARGER, **changes.pop("model", {})}, **changes)


def of_the_file(place):
    return load_pretrained(place / "model")


# ---- a smaller model ---------------------------------------------------------------------------------------------


def test_a_run_of_a_larger_network_starts_from_tiled_weights_on_any_mesh(place, tmp_path, caplog):
    config = tiled_config(place, mesh={"data": 2, "fsdp": 2, "tensor": 2})
    job = assemble(config, epath.Path(tmp_path), None)
    assert {name: getattr(job.encoder, name) for name in tiling.SIZES} == LARGER
    assert {name: getattr(job.given.model, name) for name in tiling.SIZES} == LARGER
    assert (job.encoder.vocab_size, job.encoder.max_position_embeddings) == (320, 66)
    with caplog.at_level(logging.INFO):
        state = state_from_params(
            origin_params(job), job.optimizer, abstract_state(job.model, job.optimizer, job.mesh)
        )
    assert (
        "tiled: hidden_size 32 -> 48, num_hidden_layers 2 -> 3, num_attention_heads 4 -> 6, intermediate_size 48 -> 80"
    ) in caplog.messages
    small, params = of_the_file(place)
    expected = tiling.tiled(small, params, dataclasses.replace(job.encoder, vocab_multiple=1))
    kernel = state.params["layers"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 24, 40)
    np.testing.assert_array_equal(kernel, expected["layers"]["up"]["kernel"])
    np.testing.assert_array_equal(state.params["embeddings"]["word"][:320], expected["embeddings"]["word"])
    assert not np.asarray(state.params["embeddings"]["word"])[320:].any()


def test_sizes_that_are_smaller_or_two_sources_of_them_are_refused(place, tmp_path):
    config = tiled_config(place, model={"num_hidden_layers": 1})
    with pytest.raises(
        UserError, match=r"config\.model\.num_hidden_layers=1 should be 2 or more, as in init_from"
    ):
        assemble(config, epath.Path(tmp_path), None)
    config = tiled_config(place, model={"hidden_act": "relu"})
    given = Given(line=frozenset(["init_from", "model.hidden_act"]))
    with pytest.raises(UserError, match=r"config\.model\.hidden_act='relu' has no effect"):
        assemble(config, epath.Path(tmp_path), None, given)


# ---- other tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_each_row_of_each_array_of_the_vocabulary_is_the_mean_of_its_sources(tied):
    model = ModelConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1)
    model = dataclasses.replace(model, tie_word_embeddings=tied, vocab_multiple=1, max_position_embeddings=8)
    config = encoder_config(model, 6, SpecialTokens(0, 2, 1, 4, 3))
    params = jax.tree.map(
        lambda leaf: np.arange(leaf.size, dtype=np.float32).reshape(leaf.shape) ** 2,
        build_model(config).shapes(),
    )
    after = with_tokens(config, params, [(3,), (0, 1, 1), (), (5,)], rows=5)

    def rows(array):
        return np.stack([array[3], (array[0] + 2 * array[1]) / 3, array.mean(0), array[5], array.mean(0)])

    np.testing.assert_allclose(after["embeddings"]["word"], rows(params["embeddings"]["word"]), rtol=1e-6)
    np.testing.assert_allclose(after["head"]["bias"], rows(params["head"]["bias"]), rtol=1e-6)
    assert after["embeddings"]["word"][0].tolist() == params["embeddings"]["word"][3].tolist()
    assert after["embeddings"]["position"] is params["embeddings"]["position"]
    if not tied:
        np.testing.assert_allclose(after["head"]["decoder"], rows(params["head"]["decoder"]), rtol=1e-6)


@pytest.mark.parametrize("own", ["given", "trained"])
def test_a_run_with_its_own_tokenizer_starts_from_the_rows_of_its_tokens(place, tmp_path, own, caplog):
    tokenizer = {"path": str(place / "other")} if own == "given" else {"vocab_size": 340, "min_frequency": 1}
    config = config_of(place, init_vocabulary="pieces", tokenizer=tokenizer)
    job = assemble(config, epath.Path(tmp_path), None)
    assert job.encoder.vocab_size == (290 if own == "given" else 340) == job.tokenizer.vocab_size
    old = load(str(place / "model"))
    found = pieces(old, job.tokenizer)
    with caplog.at_level(logging.INFO):
        after = origin_params(job)
    params = of_the_file(place)[1]
    tokens, rows = len(found.ids), job.encoder.vocab_rows
    said = f"{found.shared} of {tokens} tokens are shared with {place / 'model'} and keep their rows; "
    assert (
        said + f"{tokens - found.shared} start as the mean of the rows of their pieces, 0 as" in caplog.text
    )
    assert 260 < found.shared < tokens and after["embeddings"]["word"].shape == (rows, 32)
    new, was = job.tokenizer.tokenizer.get_vocab(), old.tokenizer.get_vocab()
    for token, index in new.items():
        sources = [was[token]] if token in was else list(found.ids[index])
        for array, before in (
            (after["embeddings"]["word"], params["embeddings"]["word"]),
            (after["head"]["bias"], params["head"]["bias"]),
        ):
            np.testing.assert_allclose(array[index], before[sources].mean(0), rtol=1e-6, atol=1e-7)
    assert not after["embeddings"]["word"][tokens:].any()


def test_a_larger_network_with_other_tokens_trains_and_goes_on(place, tmp_path):
    changes = {"init_vocabulary": "pieces", "tokenizer": {"path": str(place / "other")}}
    steady = {"schedule": {"name": "constant", "warmup_steps": 0}, "checkpoint": {"every": 1}}
    workdir, whole = epath.Path(tmp_path / "run"), epath.Path(tmp_path / "whole")
    with on_one_device():
        train(tiled_config(place, steps=1, **changes, **steady), workdir)
        train(tiled_config(place, steps=2, **changes, **steady), workdir, accept_changes=True)
        train(tiled_config(place, steps=2, **changes, **steady), whole)
        network = json.loads((workdir / "model.json").read_text())
        assert (network["vocab_size"], network["hidden_size"]) == (290, 48)
        jax.tree.map(np.testing.assert_array_equal, restore_params(workdir)[0], restore_params(whole)[0])

        (workdir / "model.json").unlink()  # it is made again as it was at the start
        train(tiled_config(place, steps=2, **changes, **steady), workdir, accept_changes=True)
        assert json.loads((workdir / "model.json").read_text()) == network
        with pytest.raises(
            UserError, match=r"the start of a run cannot change: config\.init_vocabulary was 'pieces'"
        ):
            train(tiled_config(place, steps=2, **steady), workdir, accept_changes=True)
        with pytest.raises(UserError, match=r"the start of a run cannot change: config\.init_tiled was True"):
            train(config_of(place, steps=2, **changes, **steady), workdir, accept_changes=True)


def with_ids(place, folder, reorder):
    """The other tokenizer with its tokens, in the order of their ids, in another order; returns its folder."""
    load(str(place / "other")).save(epath.Path(folder))
    values = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    tokens = reorder(sorted(vocabulary, key=vocabulary.get))
    values["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    for token in values["added_tokens"]:
        token["id"] = tokens.index(token["content"])
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def test_a_tokenizer_with_other_ids_is_refused_where_the_rows_stay(place, tmp_path):
    other = with_ids(place, tmp_path / "shuffled", lambda tokens: tokens[:5] + tokens[:4:-1])
    config = config_of(place, tokenizer={"path": str(other)})
    message = r"shuffled': 28\d of its 290 tokens are not those that .* set config\.init_vocabulary=pieces"
    with pytest.raises(UserError, match=message):
        assemble(config, epath.Path(tmp_path / "run"), None)


def test_positions_that_count_from_another_padding_token_are_refused(place, tmp_path):
    other = with_ids(place, tmp_path / "other", lambda tokens: [tokens[1], tokens[0], *tokens[2:]])
    config = config_of(place, init_vocabulary="pieces", tokenizer={"path": str(other)})
    with pytest.raises(
        UserError, match=r"padding token of the run's tokenizer is 0, but positions .*pad_token_id=1"
    ):
        assemble(config, epath.Path(tmp_path / "run"), None)

"""Causal language modelling: the loss and gradients of transformers' decoders, and no look at what is to come."""

import copy
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from pretrain.models import build
from pretrain.models.huggingface import load_pretrained, parse_config
from pretrain.models.tensor_names import to_state_dict
from pretrain.objective.causal import CausalLM
from pretrain.objective.objective import attended_pairs, full_rows
from tests.compiled import jit_as_users
from tests.nearness import assert_gradients_as_near

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,  # large enough for every gradient to count
    "pad_token_id": 1,
}
CASES = {
    "roberta": {"model_type": "roberta"},
    "roberta_untied": {"model_type": "roberta", "tie_word_embeddings": False},
    "bert": {"model_type": "bert"},
    "electra": {"model_type": "electra", "embedding_size": 20},
}
S, SEPARATOR, PAD = 17, 2, 1
LENGTHS = (12, 5, 9)
OBJECTIVE = CausalLM(SEPARATOR)
AS_USERS_COMPILE = {"roberta", "bert"}
"""With all of XLA's optimisations; the cases that are left differ in their ends alone."""


@pytest.fixture(params=CASES, scope="module")
def pair(request, tmp_path_factory):
    return request.param, *_pair(request.param, tmp_path_factory.mktemp(request.param))


def _pair(case: str, folder: Path):
    """Transformers' decoder with random weights (biases and norms too), and ours read from what its encoder saves."""
    torch.manual_seed(0)
    encoder = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(**SIZES, **CASES[case])
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder.save_pretrained(folder)
    decoder = transformers.AutoModelForCausalLM.from_pretrained(
        folder, is_decoder=True, attn_implementation="eager"
    ).eval()
    assert type(decoder).__name__ in ("RobertaForCausalLM", "BertLMHeadModel", "ElectraForCausalLM")
    return decoder, *load_pretrained(folder)


def documents() -> list[np.ndarray]:
    """Documents of ordinary tokens, each closed by a separator."""
    draw = np.random.default_rng(1)
    return [np.append(draw.integers(5, 61, length - 1), SEPARATOR).astype(np.int32) for length in LENGTHS]


def rows(*packed: list[np.ndarray], length: int = S) -> dict[str, np.ndarray]:
    """A row of each list of documents, filled up with padding."""
    batch = {name: np.zeros((len(packed), length), np.int32) for name in ("tokens", "segments", "positions")}
    batch["tokens"][:] = PAD
    for row, held in enumerate(packed):
        start = 0
        for number, document in enumerate(held, start=1):
            place = slice(start, start + len(document))
            batch["tokens"][row, place] = document
            batch["segments"][row, place] = number
            batch["positions"][row, place] = np.arange(len(document))
            start += len(document)
    return batch


def prepare(batch, objective=OBJECTIVE):
    return objective.prepare(jax.random.key(0), np.arange(len(batch["tokens"])), batch)


@functools.cache
def program(config, objective, as_users):
    """The gradients of the mean of the loss, and its sums; batches of one shape share the program."""
    model = build(config)

    def loss(params, batch):
        sums = objective.loss(model, params, prepare(batch, objective), None)
        return sums["loss_sum"] / sums["weight_sum"], sums

    return (jit_as_users if as_users else jax.jit)(jax.grad(loss, has_aux=True))


def ours(config, params, batch, objective=OBJECTIVE, *, as_users):
    """The sums of the loss, and the gradients of its mean."""
    with jax.default_matmul_precision("highest"):
        gradients, sums = program(config, objective, as_users)(params, batch)
    return {name: float(value) for name, value in sums.items()}, jax.device_get(gradients)


def theirs(decoder, config, batch) -> dict[str, np.ndarray]:
    """The loss, and gradients by the names that we give their parameters."""
    decoder.zero_grad()
    tokens = torch.tensor(batch["tokens"]).long()
    inside = torch.tensor(batch["segments"] > 0)
    output = decoder(input_ids=tokens, attention_mask=inside.long(), labels=torch.where(inside, tokens, -100))
    output.loss.backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in decoder.named_parameters()
        if parameter.grad is not None
    }
    return {"loss": output.loss.detach().numpy(), **gradients}


def test_the_loss_and_every_gradient_are_as_near_to_exact_as_those_of_transformers(pair):
    case, decoder, config, params = pair
    batch = rows(*([document] for document in documents()))
    sums, gradients = ours(config, params, batch, as_users=case in AS_USERS_COMPILE)
    named = to_state_dict(config, gradients)
    if not config.tie_word_embeddings:  # the bias that transformers keeps beside an untied decoder's own
        del named["lm_head.bias"]
    exact = theirs(copy.deepcopy(decoder).double(), config, batch)
    found = {"loss": np.float32(sums["loss_sum"] / sums["weight_sum"]), **named}
    assert sums["weight_sum"] == sum(LENGTHS) - len(LENGTHS)
    assert_gradients_as_near(found, theirs(decoder, config, batch), exact)


def test_packed_rows_lose_what_their_documents_lose_one_by_one(pair):
    case, _, config, params = pair
    first, second, third = documents()
    found = [
        ours(config, params, batch, as_users=case in AS_USERS_COMPILE)
        for batch in (rows([first], [second], [third]), rows([first, second], [third], []))
    ]
    (alone, alone_gradients), (packed, packed_gradients) = found
    assert packed["weight_sum"] == alone["weight_sum"] == 23
    assert packed["correct_sum"] == alone["correct_sum"]
    assert packed["loss_sum"] == pytest.approx(alone["loss_sum"], rel=1e-5)
    for mine, other in zip(jax.tree.leaves(packed_gradients), jax.tree.leaves(alone_gradients), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


def test_a_later_token_changes_no_earlier_prediction(pair):
    case, _, config, params = pair
    model = build(config)

    @(jit_as_users if case in AS_USERS_COMPILE else jax.jit)
    def losses(params, batch):
        """The loss of each prediction [B, K], as the gradient of the sum by its weight."""
        prepared = prepare(batch)

        def total(weights):
            return OBJECTIVE.loss(model, params, prepared._replace(weights=weights), None)["loss_sum"]

        return jax.grad(total)(prepared.weights) * prepared.weights

    _, second, third = documents()
    batch = rows([second, third], length=14)
    before = np.asarray(losses(params, batch))
    assert np.flatnonzero(before[0]).tolist() == [0, 1, 2, 3, *range(5, 13)]
    for place in (2, 8):
        changed = {name: array.copy() for name, array in batch.items()}
        changed["tokens"][0, place] = 5 + (batch["tokens"][0, place] - 4) % 56
        differs = np.flatnonzero(np.asarray(losses(params, changed)) != before)
        assert differs.tolist() == [*range(place - 1, 4 if place < 5 else 13)]


def test_the_next_token_of_the_same_document_is_predicted():
    second, third = documents()[1:]
    batch = rows([second, third], length=16)
    prepared = prepare(batch)
    np.testing.assert_array_equal(prepared.inputs, batch["tokens"])
    np.testing.assert_array_equal(np.asarray(prepared.weights)[0], [1] * 4 + [0] + [1] * 8 + [0] * 3)
    np.testing.assert_array_equal(np.asarray(prepared.targets)[0, :4], second[1:])
    np.testing.assert_array_equal(np.asarray(prepared.targets)[0, 5:13], third[1:])


def test_no_document_is_predicted_from_one_that_shares_its_segment():
    batch = {
        "tokens": np.array([[0, 7, 8, SEPARATOR, 9, 10, SEPARATOR, 11]], np.int32),
        "segments": np.ones((1, 8), np.int32),
        "positions": np.arange(8, dtype=np.int32)[None],
    }
    np.testing.assert_array_equal(prepare(batch).weights, [[1, 1, 1, 0, 1, 1, 0, 0]])


@pytest.mark.parametrize("pair", ["roberta"], indirect=True)
@pytest.mark.parametrize("at_once", [1, 5, 6])
def test_the_head_on_some_positions_at_a_time_loses_the_same(pair, at_once):
    _, _, config, params = pair
    batch = rows(*([document] for document in documents()), length=12)
    whole, gradients = ours(config, params, batch, as_users=False)
    parts, parts_gradients = ours(config, params, batch, CausalLM(SEPARATOR, at_once), as_users=False)
    assert parts == pytest.approx(whole, rel=1e-6)
    for mine, other in zip(jax.tree.leaves(parts_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_the_head_on_some_positions_at_a_time_holds_the_logits_of_those():
    wide = {**SIZES, "vocab_size": 8192, "hidden_size": 16, "max_position_embeddings": 300}
    wide |= {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }  # scores [B, N, S, S] are small beside the logits
    model = build(parse_config({"model_type": "roberta", **wide}, "test"))
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((4, 256), jnp.int32) for name in ("tokens", "segments", "positions")}

    def memory(objective):
        def loss(params, batch):
            return objective.loss(model, params, prepare(batch, objective), None)["loss_sum"]

        compiled = jax.jit(jax.grad(loss)).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * 4 * 256 * 8192
    assert memory(CausalLM(SEPARATOR, 32)) < logits < memory(CausalLM(SEPARATOR, None))


def test_work_counts_the_pairs_and_predictions_that_there_are():
    assert full_rows(OBJECTIVE, rows=2, seq_len=4) == {"tokens": 8, "attended": 20.0, "predictions": 6}
    assert attended_pairs(OBJECTIVE, seen=3**2 + 2**2, tokens=5) == 6 + 3

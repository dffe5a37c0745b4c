"""Causal attention through the network: no token sees a later one, and hidden states are those of transformers."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from pretrain.models import EncoderConfig, build, build_encoder
from pretrain.models.huggingface import load_pretrained, parse_config
from tests.compiled import jit_as_users

B, S = 2, 12
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
    "pad_token_id": 1,
}
SEGMENTS = np.array([[1] * 5 + [2] * 5 + [0] * 2, [1] * S], np.int32)
POSITIONS = np.array([[*range(5), *range(5), 0, 0], range(S)], np.int32)


def _tokens(config: EncoderConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(5, config.vocab_size, (B, S)).astype(np.int32)


@pytest.mark.parametrize(
    ("model_type", "remat"),
    [
        ("roberta", "none"),
        ("roberta", "full"),
        ("bert", "none"),
        ("distilbert", "none"),
        ("modernbert", "none"),
    ],
)
def test_a_later_token_changes_no_earlier_output(model_type: str, remat: str):
    config = parse_config({"model_type": model_type, "bos_token_id": 0, "eos_token_id": 2, **SIZES}, "test")
    encoder = build_encoder(dataclasses.replace(config, remat=remat))
    params = jax.jit(encoder.init)(jax.random.key(0))

    @jit_as_users
    def encode(params, tokens):
        return encoder.encode(params, tokens, SEGMENTS, POSITIONS, causal=True)

    tokens = _tokens(config)
    before = np.asarray(encode(params, tokens))
    for place in (3, 7):
        changed = tokens.copy()
        changed[:, place] = 5 + (tokens[:, place] - 4) % (config.vocab_size - 5)
        differs = np.any(np.asarray(encode(params, changed)) != before, axis=-1)
        assert np.flatnonzero(differs[0]).tolist() == [*range(place, 5 if place < 5 else 10)]
        assert np.flatnonzero(differs[1]).tolist() == [*range(place, S)]


@pytest.mark.parametrize("model_type", ["roberta", "bert"])
def test_hidden_states_are_those_of_a_decoder_in_transformers(model_type: str, tmp_path: Path):
    torch.manual_seed(0)
    theirs = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(model_type, **SIZES), attn_implementation="eager"
    ).eval()
    theirs.save_pretrained(tmp_path)
    decoder = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, is_decoder=True, attn_implementation="eager"
    ).eval()
    assert type(decoder).__name__ in ("RobertaForCausalLM", "BertLMHeadModel")
    config, params = load_pretrained(tmp_path)
    model = build(config)

    def encode(params, tokens):
        return model.encode(params, tokens, SEGMENTS, POSITIONS, causal=True)

    tokens = _tokens(config)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(encode)(params, tokens))
    for row, document in ((0, slice(0, 5)), (0, slice(5, 10)), (1, slice(0, S))):
        with torch.no_grad():
            output = decoder(torch.tensor(tokens[row : row + 1, document]).long(), output_hidden_states=True)
        np.testing.assert_allclose(
            ours[row, document], output.hidden_states[-1][0].numpy(), rtol=1e-4, atol=1e-4
        )

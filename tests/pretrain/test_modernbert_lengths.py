"""An exported ModernBERT in transformers: the same logits at 1 to 8192 tokens, in batches with padding."""

import jax
import numpy as np
import pytest
import torch
import transformers

from pretrain.models import build
from pretrain.models.huggingface import load_pretrained, parse_config, save_pretrained

VALUES = {
    "model_type": "modernbert",
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 8192,
    "local_attention": 128,
    "global_rope_theta": 160_000.0,
    "initializer_range": 0.3,
    **{f"{name}_token_id": index for index, name in enumerate(("pad", "bos", "eos", "cls", "sep"))},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Our network with random weights, and what transformers loads of its export."""
    folder = tmp_path_factory.mktemp("exported")
    model = build(parse_config(VALUES, "config.json"))
    save_pretrained(folder, model.config, jax.jit(model.init)(jax.random.key(0)))
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, attn_implementation="sdpa", output_loading_info=True
    )
    assert type(theirs) is transformers.ModernBertForMaskedLM
    assert not any(report.values()), "tensors without a place, or of another shape"
    encoder, params = load_pretrained(str(folder))
    return build(encoder), params, theirs.eval()


@pytest.mark.parametrize(
    "lengths",
    [(1,), (3, 1, 2), (65, 129, 64), (1024, 700, 1), pytest.param((8192, 5000), marks=pytest.mark.slow)],
    ids=str,
)
def test_logits_are_those_of_transformers(exported, lengths):
    ours, params, theirs = exported
    shape = (len(lengths), max(lengths))
    inside = np.arange(shape[1]) < np.array(lengths)[:, None]
    tokens = np.where(inside, np.random.default_rng(0).integers(5, 61, shape), 0).astype(np.int32)
    positions = np.where(inside, np.arange(shape[1]), 0).astype(np.int32)
    segments = inside.astype(np.int32)

    @jax.jit
    def logits(params, tokens, segments, positions):
        return ours.predict(params, ours.encode(params, tokens, segments, positions))

    mine = np.asarray(logits(params, tokens, segments, positions))[inside]
    with torch.no_grad():
        given = {"input_ids": tokens, "attention_mask": segments}
        output = theirs(**{name: torch.tensor(array).long() for name, array in given.items()})
    reference = output.logits.numpy()[inside]
    assert np.std(reference) > 0.3, "there is something to compare"
    np.testing.assert_allclose(mine, reference, rtol=1e-4, atol=1e-4)

"""How far our networks are from transformers' PyTorch ones: RoBERTa-base and BERT-base, float32, padded rows.

python benchmarks/parity.py
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrain.models import build
from pretrain.models.huggingface import load_pretrained
from pretrain.models.tensor_names import to_state_dict

LENGTHS = (64, 50, 30, 10)  # tokens of each row that are not padding
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def compare(name: str, theirs: Any) -> None:
    """Print the largest differences of logits, loss and gradients for the same weights and rows."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder))
        config, params = load_pretrained(folder)
    model = build(config)
    random, shape = np.random.default_rng(0), (len(LENGTHS), max(LENGTHS))
    segments = (np.arange(shape[1])[None, :] < np.array(LENGTHS)[:, None]).astype(np.int32)
    tokens = np.where(segments > 0, random.integers(5, 30000, shape), config.pad_token_id).astype(np.int32)
    positions = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
    predicted = (random.random(shape) < 0.15) & (segments > 0)
    labels = torch.from_numpy(np.where(predicted, tokens, -100)).long()
    output = theirs(
        input_ids=torch.from_numpy(tokens).long(),
        attention_mask=torch.from_numpy(segments).long(),
        labels=labels,
    )
    output.loss.backward()

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = model.predict(params, model.encode(params, tokens, segments, positions))
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]
        return -jnp.sum(scores * predicted) / predicted.sum(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    ours = to_state_dict(config, jax.device_get(gradients))
    grads = {
        key: parameter.grad.numpy()
        for key, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    logit_difference = np.abs(np.asarray(logits) - output.logits.detach().numpy())[segments > 0].max()
    gradient_difference = max(np.abs(ours[key] - grad).max() for key, grad in grads.items())
    print(
        f"{name}: logits {logit_difference:.1e}, loss {abs(float(value) - output.loss.item()):.1e} "
        f"(of {output.loss.item():.4f}), gradients {gradient_difference:.1e} over {len(grads)} tensors"
    )


def main() -> None:
    """Compare both families."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

    jax.config.update("jax_default_matmul_precision", "highest")
    torch.manual_seed(0)
    roberta = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, **NO_DROPOUT)
    compare("roberta-base", RobertaForMaskedLM(roberta))
    compare("bert-base", BertForMaskedLM(BertConfig(**NO_DROPOUT)))


if __name__ == "__main__":
    main()

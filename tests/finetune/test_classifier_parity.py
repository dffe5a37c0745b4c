"""Our classifiers against transformers' ...ForSequenceClassification with the same random weights, both directions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from finetune.huggingface import load_encoder_for_classification, save_classifier

TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}
B, S = 3, 12
LABELS = ("no", "maybe", "yes")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,  # large enough for every gradient to count
}
CASES = {
    "roberta": {"model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm_roberta": {"model_type": "xlm-roberta", "type_vocab_size": 1, "classifier_dropout": 0.2},
    "camembert": {"model_type": "camembert", "hidden_act": "gelu_new"},
    "bert": {"model_type": "bert"},
}
FAMILIES = [pytest.param(name, id=name) for name in CASES]


def _theirs(case: str, folder: Path, labels: int):
    """Transformers' model with random weights (biases and norms too), saved in the folder."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**(SIZES | CASES[case]), num_labels=labels)
    model = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def _batch(vocab_size: int, token_types: int, *, padded: bool) -> dict[str, np.ndarray]:
    """Pairs of texts, with padding on the right of the rows where `padded`."""
    rng = np.random.default_rng(1)
    lengths = np.array([S, 5, 9]) if padded else np.array([S, S, S])
    inside = np.arange(S) < lengths[:, None]
    tokens = np.where(inside, rng.integers(5, vocab_size, (B, S)), 1)
    second = np.where(inside & (np.arange(S) >= 4), min(token_types - 1, 1), 0)
    return {
        "tokens": tokens.astype(np.int32),
        "segments": inside.astype(np.int32),
        "positions": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "token_types": second.astype(np.int32),
    }


def _inputs(model, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    given = {"input_ids": batch["tokens"], "attention_mask": batch["segments"]}
    if getattr(model.config, "type_vocab_size", 0):
        given["token_type_ids"] = batch["token_types"]
    return {name: torch.tensor(array).long() for name, array in given.items()}


def _ours(classifier, params, batch: dict[str, np.ndarray], targets: np.ndarray):
    def loss_and_logits(params):
        logits = classifier.logits(params, **batch)
        if classifier.labels == 1:
            return jnp.mean((logits[:, 0] - targets) ** 2), logits
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(B), targets]), logits

    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))(params)


@pytest.mark.parametrize(
    ("labels", "padded"),
    [(LABELS, False), (LABELS, True), ((), True)],
    ids=["classes_full", "classes_padded", "score_padded"],
)
@pytest.mark.parametrize("case", FAMILIES)
def test_hidden_states_logits_and_every_gradient_equal_those_of_transformers(
    case: str, labels: tuple[str, ...], padded: bool, tmp_path: Path
):
    theirs = _theirs(case, tmp_path, max(len(labels), 1))
    start = load_encoder_for_classification(str(tmp_path), labels)
    classifier = start.classifier
    assert not start.fresh_head
    batch = _batch(SIZES["vocab_size"], classifier.token_types, padded=padded)
    targets = np.array([2, 0, 1]) if labels else np.array([0.5, -1.0, 2.0], np.float32)
    expected = theirs(**_inputs(theirs, batch), labels=torch.tensor(targets), output_hidden_states=True)
    expected.loss.backward()
    (loss, logits), gradients = _ours(classifier, start.params, batch, targets)

    with jax.default_matmul_precision("highest"):
        hidden = classifier.encoder.encode(start.params, **batch)
    inside = batch["segments"] > 0
    last = expected.hidden_states[-1].detach().numpy()
    np.testing.assert_allclose(np.asarray(hidden)[inside], last[inside], **TOLERANCE)
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), **TOLERANCE)
    np.testing.assert_allclose(float(loss), expected.loss.item(), **TOLERANCE)
    ours = {tensor.name: tensor.of(gradients) for tensor in classifier.tensors()}
    compared = 0
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), err_msg=name, **TOLERANCE)
        assert np.abs(ours[name]).max() > 1e-4 or ".key.bias" in name, f"{name} has no gradient to compare"
        compared += 1
    assert compared == len(ours)


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["classes", "score"])
@pytest.mark.parametrize("case", FAMILIES)
def test_transformers_loads_what_we_save_and_gives_our_logits(
    case: str, labels: tuple[str, ...], tmp_path: Path
):
    theirs = _theirs(case, tmp_path / "theirs", max(len(labels), 1))
    start = load_encoder_for_classification(str(tmp_path / "theirs"), labels)
    save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, labels)
    loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert {name: found for name, found in report.items() if found} == {}
    assert type(loaded) is type(theirs)
    batch = _batch(SIZES["vocab_size"], start.classifier.token_types, padded=True)
    with torch.no_grad():
        logits = loaded.eval()(**_inputs(loaded, batch)).logits
        torch.testing.assert_close(logits, theirs(**_inputs(theirs, batch)).logits, rtol=0, atol=1e-6)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(start.classifier.logits)(start.params, **batch)
    np.testing.assert_allclose(ours, logits.numpy(), **TOLERANCE)
    assert list(loaded.config.id2label.values()) == (list(labels) or ["LABEL_0"])
    assert loaded.config.problem_type == ("single_label_classification" if labels else "regression")
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [type(theirs).__name__]

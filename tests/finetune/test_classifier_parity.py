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
from tests.compiled import jit
from tests.finetune.reference_models import CASES, B, inputs, pairs_of_texts, random_model

TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}
pytestmark = pytest.mark.usefixtures("optimized")
LABELS = ("no", "maybe", "yes")
# Of which softmax takes no notice.
SILENT = ("key.bias", "k_lin.bias")


def _ours(classifier, params, batch: dict[str, np.ndarray], targets: np.ndarray):
    def loss_and_logits(params, batch, targets):  # arguments, so that batches of one shape share a program
        logits = classifier.logits(params, **batch)
        if classifier.labels == 1:
            return jnp.mean((logits[:, 0] - targets) ** 2), logits
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(B), targets]), logits

    with jax.default_matmul_precision("highest"):
        return jit(jax.value_and_grad(loss_and_logits, has_aux=True))(params, batch, targets)


@pytest.mark.parametrize(
    ("labels", "padded"),
    [(LABELS, False), (LABELS, True), ((), True)],
    ids=["classes_full", "classes_padded", "score_padded"],
)
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_logits_and_every_gradient_equal_those_of_transformers(
    case: str, labels: tuple[str, ...], padded: bool, tmp_path: Path
):
    theirs = random_model(case, tmp_path, labels=max(len(labels), 1))
    if theirs.config.model_type != "modernbert":  # in float64 transformers' gives NaN where there is padding
        theirs = theirs.double()  # free of rounding of its own
    start = load_encoder_for_classification(str(tmp_path), labels)
    classifier = start.classifier
    assert not start.fresh_head
    batch = pairs_of_texts(classifier.token_types, padded=padded)
    targets = np.array([2, 0, 1]) if labels else np.array([0.5, -1.0, 2.0], np.float32)
    expected = theirs(**inputs(theirs, batch), labels=torch.tensor(targets), output_hidden_states=True)
    expected.loss.backward()
    (loss, logits), gradients = _ours(classifier, start.params, batch, targets)

    with jax.default_matmul_precision("highest"):
        hidden = jit(classifier.encoder.encode)(start.params, **batch)
    inside = batch["segments"] > 0
    last = expected.hidden_states[-1].detach().numpy()
    np.testing.assert_allclose(np.asarray(hidden)[inside], last[inside], **TOLERANCE)
    np.testing.assert_allclose(logits, expected.logits.detach().numpy(), **TOLERANCE)
    np.testing.assert_allclose(float(loss), expected.loss.item(), **TOLERANCE)
    ours = {tensor.name: tensor.of(gradients) for tensor in classifier.tensors()}
    compared = 0
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(ours[name], parameter.grad.numpy(), err_msg=name, **TOLERANCE)
        assert np.abs(ours[name]).max() > 1e-4 or name.endswith(SILENT), f"{name} has no gradient to compare"
        compared += 1
    assert compared == len(ours)


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["classes", "score"])
@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_we_save_and_gives_our_logits(
    case: str, labels: tuple[str, ...], tmp_path: Path
):
    theirs = random_model(case, tmp_path / "theirs", labels=max(len(labels), 1))
    start = load_encoder_for_classification(str(tmp_path / "theirs"), labels)
    save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, labels)
    loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert {name: found for name, found in report.items() if found} == {}
    assert type(loaded) is type(theirs)
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    with torch.no_grad():
        logits = loaded.eval()(**inputs(loaded, batch)).logits
        torch.testing.assert_close(logits, theirs(**inputs(theirs, batch)).logits, rtol=0, atol=1e-6)
    with jax.default_matmul_precision("highest"):
        ours = jit(start.classifier.logits)(start.params, **batch)
    np.testing.assert_allclose(ours, logits.numpy(), **TOLERANCE)
    assert list(loaded.config.id2label.values()) == (list(labels) or ["LABEL_0"])
    assert loaded.config.problem_type == ("single_label_classification" if labels else "regression")
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [type(theirs).__name__]


RATES = {"hidden_dropout_prob": 0.11, "attention_probs_dropout_prob": 0.22, "classifier_dropout": 0.33}
DROPOUT = {
    "distilbert": {"dropout": 0.11, "attention_dropout": 0.22, "seq_classif_dropout": 0.33},
    "modernbert": {
        "embedding_dropout": 0.44,
        "attention_dropout": 0.22,
        "mlp_dropout": 0.55,
        "classifier_dropout": 0.33,
    },
}


@pytest.mark.parametrize("case", ["roberta", "bert", "distilbert", "electra", "modernbert"])
def test_dropout_is_where_transformers_has_it_with_the_same_rates(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    theirs = random_model(case, tmp_path, **DROPOUT.get(case, RATES)).train()
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    expected, ours, keys = [], [], []

    def record_theirs(x, p=0.5, training=True, inplace=False):
        expected.append((p, tuple(x.shape)))
        return x

    def record_ours(x, rate, key):
        ours.append((rate, x.shape))
        keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", record_theirs)
    theirs(**inputs(theirs, batch))
    for module in (
        "pretrain.models.bert",
        "pretrain.models.modernbert",
        "pretrain.models.attention",
        "finetune.heads",
    ):
        monkeypatch.setattr(f"{module}.dropout", record_ours)
    with jax.disable_jit():
        start.classifier.logits(start.params, **batch, dropout_key=jax.random.key(0))
    assert [rate for rate, _ in ours] == [rate for rate, _ in expected]
    for (_, mine), (_, whole) in zip(ours, expected, strict=True):
        assert mine in (whole, (*whole[:-2], 1, whole[-1]))  # the last layer runs for the first token alone
    assert len(set(keys)) == len(keys), "two dropouts share a key"

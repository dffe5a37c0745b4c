"""Our classifiers against transformers' ...ForSequenceClassification with the same random weights, both directions."""

import copy
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from finetune.classifier.network import Classifier, build_classifier
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from pretrain.models import Params
from tests.compiled import jit_as_users
from tests.finetune.reference_models import (
    CASES,
    NETWORKS,
    B,
    as_stored,
    inputs,
    pairs_of_texts,
    random_model,
)
from tests.nearness import STATED, assert_gradients_as_near, distance

LABELS = ("no", "maybe", "yes")
AS_USERS_COMPILE = {"roberta", "bert", "distilbert", "electra", "modernbert", "albert", "deberta", "eurobert"}
"""One case of each kind of network, with all of XLA's optimisations, for classes. The others run the same code, but
for a few lines of the head or a layer, and are compiled as fast as can be."""
Results = dict[str, np.ndarray]
"""Hidden states, logits, loss, and gradients by the names of their parameters."""


def _ours(
    classifier: Classifier,
    params: Params,
    batches: list[dict[str, np.ndarray]],
    targets: np.ndarray,
    *,
    as_users: bool = False,
) -> list[Results]:
    """Of batches of one size, by the same programs."""
    jit = jit_as_users if as_users else jax.jit

    def loss_and_logits(params, batch, targets):  # arguments, so that batches of one shape share a program
        logits = classifier.logits(params, **batch)
        if classifier.labels == 1:
            return jnp.mean((logits[:, 0] - targets) ** 2), logits
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(B), targets]), logits

    step = jit(jax.value_and_grad(loss_and_logits, has_aux=True))
    encode = jax.jit(classifier.encoder.encode)  # as users compile it: tests/pretrain/test_models_parity.py
    results = []
    for batch in batches:
        with jax.default_matmul_precision("highest"):
            (loss, logits), gradients = step(params, batch, targets)
            hidden = np.asarray(encode(params, **batch))
        named = {tensor.name: tensor.of(gradients) for tensor in classifier.tensors()}
        results.append({"hidden": hidden[batch["segments"] > 0], "logits": logits, "loss": loss, **named})
    return results


def _theirs(
    model: transformers.PreTrainedModel, batches: list[tuple[dict[str, np.ndarray], np.ndarray]]
) -> Results:
    """Of batches of one size, put together."""
    model.zero_grad()
    hidden, logits, loss = [], [], 0.0
    for batch, targets in batches:
        labels = torch.tensor(targets)
        labels = labels.to(model.dtype) if labels.is_floating_point() else labels
        output = model(**inputs(model, batch), labels=labels, output_hidden_states=True)
        (output.loss / len(batches)).backward()
        hidden.append(output.hidden_states[-1].detach().numpy()[batch["segments"] > 0])
        # DeBERTa's scores lose their axis when they are compared with labels.
        logits.append(output.logits.detach().numpy().reshape(len(targets), -1))
        loss += output.loss.item() / len(batches)
    named = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    named = as_stored(model, named)
    whole = {"hidden": np.concatenate(hidden), "logits": np.concatenate(logits), "loss": np.array(loss)}
    return whole | named


def _exact(model: transformers.PreTrainedModel, batch: dict[str, np.ndarray], targets: np.ndarray) -> Results:
    """In float64, each row on its own and without its padding."""
    lengths = batch["segments"].sum(axis=1)
    rows = [
        ({name: array[row : row + 1, :length] for name, array in batch.items()}, targets[row : row + 1])
        for row, length in enumerate(lengths)
    ]
    return _theirs(copy.deepcopy(model).double(), rows)


@pytest.mark.parametrize(
    ("labels", "rows"),
    [(LABELS, (False, True)), ((), (True,))],
    ids=["classes_full_and_padded", "score_padded"],
)
@pytest.mark.parametrize("case", NETWORKS)
def test_hidden_states_logits_and_every_gradient_are_as_near_to_exact_as_those_of_transformers(
    case: str, labels: tuple[str, ...], rows: tuple[bool, ...], tmp_path: Path
):
    theirs = random_model(case, tmp_path, labels=max(len(labels), 1))
    start = load_encoder_for_classification(str(tmp_path), labels)
    assert not start.fresh_head
    batches = [pairs_of_texts(start.classifier.token_types, padded=padded) for padded in rows]
    targets = np.array([2, 0, 1]) if labels else np.array([0.5, -1.0, 2.0], np.float32)
    as_users = case in AS_USERS_COMPILE and bool(labels)
    found = _ours(start.classifier, start.params, batches, targets, as_users=as_users)
    for batch, ours in zip(batches, found, strict=True):
        assert_gradients_as_near(ours, _theirs(theirs, [(batch, targets)]), _exact(theirs, batch, targets))


@pytest.mark.parametrize(
    "change", [{"layer_norm_eps": 1e-5}, {"hidden_act": "gelu_new"}], ids=lambda change: next(iter(change))
)
def test_a_network_that_differs_a_little_is_farther_from_exact(change: dict[str, object], tmp_path: Path):
    theirs = random_model("bert", tmp_path)
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    batch, targets = pairs_of_texts(2, padded=True), np.array([2, 0, 1])
    config = dataclasses.replace(start.classifier.encoder.config, **change)
    other = build_classifier(config, start.classifier.head_config, 3)
    with pytest.raises(AssertionError, match=r"off by|as far from exact"):
        assert_gradients_as_near(
            *_ours(other, start.params, [batch], targets),
            _theirs(theirs, [(batch, targets)]),
            _exact(theirs, batch, targets),
        )


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
    if case not in NETWORKS:  # their logits are compared with the same model's where the gradients are
        with jax.default_matmul_precision("highest"):
            ours = jax.jit(start.classifier.logits)(start.params, **batch)
        assert distance(ours, logits.numpy()) <= STATED
    assert list(loaded.config.id2label.values()) == (list(labels) or ["LABEL_0"])
    assert loaded.config.problem_type == ("single_label_classification" if labels else "regression")
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [type(theirs).__name__]


RATES = {"hidden_dropout_prob": 0.11, "attention_probs_dropout_prob": 0.22, "classifier_dropout": 0.33}
DROPOUT = {
    "albert": {**RATES, "classifier_dropout_prob": 0.33},
    "deberta": {**RATES, "cls_dropout": 0.33, "pooler_dropout": 0.44},
    "deberta_v2_xlarge": {**RATES, "cls_dropout": 0.33},
    "eurobert": {"attention_dropout": 0.22},
    "distilbert": {"dropout": 0.11, "attention_dropout": 0.22, "seq_classif_dropout": 0.33},
    "modernbert": {
        "embedding_dropout": 0.44,
        "attention_dropout": 0.22,
        "mlp_dropout": 0.55,
        "classifier_dropout": 0.33,
        "local_attention": 24,  # windows that are written out, as those of transformers
    },
}


@pytest.mark.parametrize(
    "case",
    [
        *("roberta", "bert", "distilbert", "electra", "modernbert"),
        *("albert", "mpnet", "deberta", "deberta_v2_xlarge", "eurobert", "nomic_bert"),
    ],
)
def test_dropout_is_where_transformers_has_it_with_the_same_rates(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    theirs = random_model(case, tmp_path, **DROPOUT.get(case, RATES)).train()
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    expected, ours, keys = [], [], []

    def record_theirs(x, p=0.5, training=True, inplace=False):
        expected.extend([(p, tuple(x.shape))] if p else [])
        return x

    def record_ours(x, rate, key, bits=16):
        if rate:
            ours.append((rate, x.shape))
            keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", record_theirs)
    theirs(**inputs(theirs, batch))
    for module in (
        "pretrain.models.families.bert.network",
        "pretrain.models.families.modernbert.network",
        "pretrain.models.families.deberta_v2.network",
        "pretrain.models.families.nomic_bert.network",
        "pretrain.models.attention",
        "finetune.classifier.heads",
    ):
        monkeypatch.setattr(f"{module}.dropout", record_ours)
    with jax.disable_jit():
        start.classifier.logits(start.params, **batch, dropout_key=jax.random.key(0))
    assert [rate for rate, _ in ours] == [rate for rate, _ in expected]
    for (_, mine), (_, whole) in zip(ours, expected, strict=True):
        assert mine in (whole, (*whole[:-2], 1, whole[-1]))  # the last layer runs for the first token alone
    assert len(set(keys)) == len(keys), "two dropouts share a key"

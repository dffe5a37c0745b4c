"""Steps of training against PyTorch's on the same batches, without dropout, its optimiser set up as the Trainer's."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from finetune.classifier.pretrained import load_encoder_for_classification
from finetune.population.state import abstract_state, first_state, member_params, population_mesh
from finetune.population.step_inputs import step_inputs
from finetune.population.train_step import make_train_step, optimizer_of
from tests.compiled import jit_as_users
from tests.finetune.reference_models import SIZES, inputs, random_model
from tests.finetune.tiny_task import tiny_finetune
from tests.nearness import SILENT, assert_near

STEPS, B, S = 12, 6, 10
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PEAK, WARMUP, DECAY, CLIP = 1e-2, 3, 0.3, 1.0


def _batches(targets: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Batches of rows with padding of different lengths: tokens, segments, token_types [B, S], labels, weights [B]."""
    rng = np.random.default_rng(3)
    batches = []
    for step in range(STEPS):
        inside = np.arange(S) < rng.integers(3, S + 1, B)[:, None]
        batches.append(
            {
                "tokens": np.where(inside, rng.integers(5, SIZES["vocab_size"], (B, S)), 1).astype(np.int32),
                "segments": inside.astype(np.int32),
                "token_types": np.zeros((B, S), np.int32),
                "labels": targets[step * B : (step + 1) * B],
                "weights": np.ones(B, np.float32),
            }
        )
    return batches


def _pytorch(
    model: transformers.PreTrainedModel, batches: list[dict[str, np.ndarray]]
) -> tuple[list[float], list[float]]:
    """Train the model, in its own type; the loss and the learning rate of each step."""
    plain = {id(p) for m in model.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()}
    plain |= {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) not in plain], "weight_decay": DECAY},
        {"params": [p for p in parameters if id(p) in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-8)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    kind = model.dtype if model.config.num_labels == 1 else torch.int64
    losses, rates = [], []
    for batch in batches:
        loss = model(**inputs(model, batch), labels=torch.tensor(batch["labels"]).to(kind)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, rates


@pytest.mark.parametrize(("case", "labels"), [("bert", ("a", "b", "c")), ("roberta", ())])
def test_our_steps_are_pytorchs(case: str, labels: tuple[str, ...], tmp_path: Path):
    theirs = random_model(case, tmp_path / "theirs", labels=max(len(labels), 1), **NO_DROPOUT)
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 3, STEPS * B) if labels else rng.normal(2, 1, STEPS * B)
    batches = _batches(targets.astype(np.int32 if labels else np.float32))
    optimizer_fields = {"weight_decay": DECAY, "clip_norm": CLIP, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    config = tiny_finetune(
        tmp_path,
        global_batch=B,
        optimizer={"learning_rate": PEAK, **optimizer_fields},
        schedule={"name": "linear", "warmup_steps": WARMUP},
    )
    start = load_encoder_for_classification(str(tmp_path / "theirs"), labels)
    classifier = start.classifier
    optimizer = optimizer_of(config, classifier)
    abstract = abstract_state(classifier, optimizer, 1, population_mesh(config.mesh, 1, jax.devices()[:1]))
    state = first_state(classifier, start.params, start.fresh_head, config.members, optimizer, abstract)
    step = jit_as_users(make_train_step(classifier, optimizer, config))
    losses, rates, norms, inputs = [], [], [], step_inputs(config, STEPS)
    with jax.default_matmul_precision("highest"):
        for batch in batches:
            state, metrics = step(state, {**{name: array[None] for name, array in batch.items()}, **inputs})
            losses.append(float(metrics["loss_sum"][0] / metrics["weight_sum"][0]))
            rates.append(float(metrics["learning_rate"][0]))
            norms.append(float(metrics["grad_norm"][0]))

    exact = theirs.double()  # free of rounding of its own
    expected_losses, expected_rates = _pytorch(exact, batches)
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-6)
    assert max(norms) > CLIP, "no gradient was clipped"
    params = member_params(state.params, 0)
    ours = {tensor.name: tensor.of(params) for tensor in classifier.tensors()}
    expected = {name: parameter.detach().numpy() for name, parameter in exact.named_parameters()}
    assert_near(
        {"losses": np.array(losses), **_moved(ours)},
        {"losses": np.array(expected_losses), **_moved(expected)},
    )


def _moved(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what has no gradient, and AdamW moves by rounding alone."""
    return {name: array for name, array in params.items() if not name.endswith(SILENT)}

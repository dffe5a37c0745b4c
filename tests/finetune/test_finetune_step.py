"""The parts of a fine-tuning step: losses as PyTorch has them, learning rates by depth and by step."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from finetune.classifier.pretrained import load_encoder_for_classification
from finetune.kinds import CLASSES, SCORES, TOKENS
from finetune.population import train_step
from finetune.population.state import PopulationState
from finetune.population.step_inputs import numbers_of, step_inputs
from finetune.population.train_step import depth_scales, keep_better, make_train_step
from pretrain.optim.learning_rates import share_of_peak
from tests.finetune.tiny_task import tiny_finetune, write_model


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_pytorchs(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.integers(0, 4, 6).astype(np.int32)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels).long(), reduction="none", label_smoothing=smoothing
    )
    ours = CLASSES.losses(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_scores_have_a_squared_error():
    losses = SCORES.losses(jnp.array([[1.0], [3.5]]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(losses, [1.0, 0.25])


def test_the_learning_rate_falls_from_the_head_down(tmp_path: Path):
    classifier = load_encoder_for_classification(str(write_model(tmp_path)), ("a", "b")).classifier
    scales = depth_scales(classifier, 0.5)
    assert {float(leaf) for leaf in jax.tree.leaves(scales["head"])} == {1.0}
    assert {float(leaf) for leaf in jax.tree.leaves(scales["embeddings"])} == {0.125}
    for leaf in jax.tree.leaves(scales["layers"]):
        np.testing.assert_allclose(np.ravel(leaf), [0.25, 0.5])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_the_schedule_is_transformers(tmp_path: Path, name: str):
    import transformers

    config = tiny_finetune(tmp_path, schedule={"name": name, "warmup_ratio": 0.25})
    numbers = numbers_of(config, 11)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    their_name = "constant_with_warmup" if name == "constant" else name
    theirs = transformers.get_scheduler(their_name, optimizer, num_warmup_steps=3, num_training_steps=11)
    for step in range(11):
        assert float(share_of_peak(name, numbers, step)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_only_better_members_are_kept():
    best = {"w": jnp.zeros((3, 2, 2)), "b": jnp.zeros((3,))}
    params = {"w": jnp.ones((3, 2, 2)), "b": jnp.ones((3,))}
    kept = keep_better(best, params, jnp.array([True, False, True]))
    np.testing.assert_array_equal(kept["b"], [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(kept["w"][:, 0, 0], [1.0, 0.0, 1.0])


def test_a_batch_without_a_label_changes_no_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = jnp.ones((1, 5, 3))  # a member, five tokens, three classes
    monkeypatch.setattr(train_step, "logits_of", lambda _, params, batch, key: params[batch["tokens"]])
    optimizer, config = optax.with_extra_args_support(optax.sgd(1.0)), tiny_finetune(tmp_path, kind="tokens")
    classifier = SimpleNamespace(kind=TOKENS)
    step = make_train_step(classifier, optimizer, config)  # type: ignore[arg-type]
    state = PopulationState(jnp.array(0), table, optimizer.init(table), table)
    tokens, labels = jnp.array([[[1, 2, 3], [4, 0, 0]]]), jnp.full((1, 2, 3), -1)
    inputs = {**step_inputs(config, 4), "weights": jnp.ones((1, 2))}
    new, metrics = step(state, {"tokens": tokens, "labels": labels, **inputs})
    assert (float(metrics["grad_norm"][0]), float(metrics["weight_sum"][0])) == (0, 0)
    np.testing.assert_array_equal(new.params, table)
    new, metrics = step(state, {"tokens": tokens, "labels": labels + 1, **inputs})
    assert float(metrics["grad_norm"][0]) > 0 and float(metrics["weight_sum"][0]) == 6

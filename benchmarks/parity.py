"""How far our networks are from transformers' PyTorch ones: every family and task, float32, padded rows.

python -m benchmarks.parity [--layers=4] [--families=roberta,modernbert] [--tasks=MaskedLM]

Each network has the published sizes of its family's base model, but for the number of layers. transformers draws the
weights. Both have the same weights, rows, labels and no dropout. The table has the largest absolute differences, and
the largest gradient, for comparison.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from finetune import kinds
from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain.models import build, families
from pretrain.models.huggingface import load_pretrained
from pretrain.models.tensor_names import to_state_dict

LAYERS = flags.DEFINE_integer("layers", 4, "layers of each network")
FAMILIES = flags.DEFINE_list("families", [], "model types; empty: all")
TASKS = flags.DEFINE_list("tasks", ["MaskedLM", "SequenceClassification", "TokenClassification"], "tasks")

LENGTHS = np.array([64, 50, 30, 10])
"""Tokens of each row that are not padding."""
LABELS = ("no", "maybe", "yes")
IGNORED = -100
PREDICTED = 0.15

Results = tuple[np.ndarray, float, Mapping[str, np.ndarray]]
"""Logits, loss, and gradients by transformers' names."""


def network(model_type: str, task: str) -> Any:
    """A network of transformers with new weights, without dropout."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, num_labels=len(LABELS))
    config.num_hidden_layers = LAYERS.value
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: LAYERS.value]
    auto = getattr(transformers, f"AutoModelFor{task}")
    return auto.from_config(config, attn_implementation="eager").eval()


def rows(vocab_size: int, pad_id: int) -> dict[str, np.ndarray]:
    """Random tokens [B, S], with padding on the right."""
    shape = (len(LENGTHS), LENGTHS.max())
    inside = np.arange(shape[1]) < LENGTHS[:, None]
    tokens = np.where(inside, np.random.default_rng(0).integers(5, vocab_size, shape), pad_id)
    return {
        "tokens": tokens.astype(np.int32),
        "segments": inside.astype(np.int32),
        "positions": np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1)),
    }


def targets(task: str, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What is predicted: tokens [B, S] at a few places, classes of texts [B], or classes of tokens [B, S]."""
    random, inside = np.random.default_rng(1), batch["segments"] > 0
    match task:
        case "MaskedLM":
            return np.where(inside & (random.random(inside.shape) < PREDICTED), batch["tokens"], IGNORED)
        case "TokenClassification":
            return np.where(inside, random.integers(0, len(LABELS), inside.shape), IGNORED)
        case _:
            return random.integers(0, len(LABELS), len(inside))


def theirs(model: Any, batch: Mapping[str, np.ndarray], labels: np.ndarray) -> Results:
    """What transformers computes."""
    import torch

    given = {"input_ids": batch["tokens"], "attention_mask": batch["segments"], "labels": labels}
    output = model(**{name: torch.from_numpy(array).long() for name, array in given.items()})
    output.loss.backward()
    named = model.named_parameters(
        remove_duplicate=False
    )  # a shared table has two names, either of which may be ours
    grads = {name: p.grad.numpy() for name, p in named if p.grad is not None}
    return output.logits.detach().numpy(), output.loss.item(), grads


def ours(task: str, folder: str, batch: Mapping[str, np.ndarray], labels: np.ndarray) -> Results:
    """What we compute with the weights of a folder."""
    logits_of: Callable[[Any], jax.Array]
    if task == "MaskedLM":
        config, params = load_pretrained(folder)
        model = build(config)

        def logits_of(params: Any) -> jax.Array:
            return model.predict(params, model.encode(params, **batch))

        def named(gradients: Any) -> Mapping[str, np.ndarray]:
            return to_state_dict(config, gradients)

    else:
        kind = kinds.TOKENS if task == "TokenClassification" else None
        start = load_encoder_for_classification(folder, LABELS, kind=kind)
        params = start.params

        def logits_of(params: Any) -> jax.Array:
            return start.classifier.logits(params, **batch)

        def named(gradients: Any) -> Mapping[str, np.ndarray]:
            return {tensor.name: tensor.of(gradients) for tensor in start.classifier.tensors()}

    counted = labels != IGNORED
    picked = np.where(counted, labels, 0)[..., None]

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = logits_of(params)
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), picked, axis=-1)[..., 0]
        return -jnp.sum(scores * counted) / counted.sum(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), float(value), named(jax.device_get(gradients))


def _places(arrays: Mapping[str, np.ndarray]) -> set[int]:
    """Where the arrays lie in memory: names of one parameter have one place."""
    return {array.__array_interface__["data"][0] for array in arrays.values()}


def row_of_table(model_type: str, task: str) -> str:
    """A row of the table: the largest differences of logits, loss and gradients."""
    model = network(model_type, task)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        config, _ = load_pretrained(folder) if task == "MaskedLM" else (model.config, None)
        batch = rows(config.vocab_size, model.config.pad_token_id)
        labels = targets(task, batch)
        mine = ours(task, folder, batch, labels)
    other = theirs(model, batch, labels)
    inside = batch["segments"] > 0
    logits = np.abs(mine[0] - other[0])
    logits = logits[inside] if logits.ndim == 3 else logits
    own = {name: grad for name, grad in other[2].items() if name in mine[2]}
    if lost := _places(other[2]) - _places(own):
        # nomic_bert: transformers writes its files with other names; tests/pretrain/test_models_parity.py knows them.
        return f"| {model_type} | {task} | {logits.max():.1e} | | {len(lost)} parameters have other names in files | |"
    gradients = max(np.abs(mine[2][name] - grad).max() for name, grad in own.items())
    largest = max(np.abs(grad).max() for grad in own.values())
    return (
        f"| {model_type} | {task} | {logits.max():.1e} | {abs(mine[1] - other[1]):.1e} of {other[1]:.3f} "
        f"| {gradients:.1e} of {largest:.1e} | {len(own)} |"
    )


def main(argv: list[str]) -> None:
    """Print the table."""
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_default_matmul_precision", "highest")
    print("| family | task | logits | loss | gradients | tensors |\n|---|---|---|---|---|---|", flush=True)
    for model_type in FAMILIES.value or families.names():
        for task in TASKS.value:
            if task != "MaskedLM" or model_type in families.pretrained():
                print(row_of_table(model_type, task), flush=True)


if __name__ == "__main__":
    app.run(main)

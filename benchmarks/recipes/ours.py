"""A run of ours: pretraining as users have it, then each checkpoint's loss on the held-out rows."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from base.schema import build
from benchmarks.recipes.runs import Clock, Point, Run, write_result
from benchmarks.recipes.text import IGNORED, Text
from pretrain import train as training
from pretrain.config import PretrainConfig
from pretrain.models import Model, Params
from pretrain.models import build as build_model
from pretrain.models.positions import positions_of_texts
from pretrain.optim.train_state import fresh_state
from pretrain.phases import resolve_phases
from pretrain.reports.recorder import Recorder
from pretrain.runtime import goodput
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.train import _PhaseSteps, train
from pretrain.trained_network import trained_network

SCORED_TOGETHER = 32
FREQUENCY_BIAS = "frequency_bias"
"""A field of a rung that no config has: the head's bias starts at the logarithm of each token's frequency."""


def before(owner: Any, name: str, action: Callable[..., None]) -> None:
    """Have a method call `action` with its own arguments first."""
    original = getattr(owner, name)

    def changed(*given: Any, **named: Any) -> Any:
        action(*given, **named)
        return original(*given, **named)

    setattr(owner, name, changed)


def config_of(run: Run, text: Text) -> PretrainConfig:
    """The config of a run: its fields, the text, and a checkpoint at every point of the curve."""
    fields = {name: value for name, value in (run.fields or {}).items() if name != FREQUENCY_BIAS}
    tokens = fields["seq_len"] * fields["global_batch"]
    steps = run.tokens // tokens
    if phases := fields.pop("phases", None):
        fields["phases"] = [_phase(phase, run.tokens, fields) for phase in phases]
        steps = sum(phase["steps"] for phase in fields["phases"])
    else:
        fields["steps"] = steps
    if 0 < (warmup := fields.get("schedule.warmup_steps", 0)) < 1:
        fields["schedule.warmup_steps"] = round(warmup * steps)
    fields |= {
        "seed": run.seed,
        "data.source": "files",
        "data.path": str(text.train),
        "data.txt_documents": "blank_line",
        "data.eval_fraction": 0.0,
        "tokenizer.path": str(text.tokenizer),
        "eval.every": 0,
        "log.every": max(1, steps // 50),
        "checkpoint.every": max(1, steps // run.points),
        "checkpoint.keep": 10 * run.points,
        "checkpoint.verify": False,
    }
    return build(PretrainConfig, nested(fields))


def _phase(phase: Mapping[str, Any], tokens: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A phase with its share of the tokens as steps."""
    sizes = [phase.get(name, fields[name]) for name in ("seq_len", "global_batch")]
    return {**phase, "steps": max(1, round(phase["steps"] * tokens / (sizes[0] * sizes[1])))}


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in fields.items():
        *groups, name = path.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return tree


def tokens_at(config: PretrainConfig, step: int) -> int:
    """Tokens of the first `step` steps, padding included."""
    return sum(
        max(0, min(step, phase.stop) - phase.start) * phase.seq_len * phase.global_batch
        for phase in resolve_phases(config)
    )


def scorer(model: Model, tokens: np.ndarray, labels: np.ndarray) -> Callable[[Params], tuple[float, float]]:
    """A function from params to the loss (nats) and accuracy on masked rows, in float32.

    Args:
      model: the network.
      tokens: masked rows, int32 [R, S].
      labels: the tokens that are predicted, `IGNORED` elsewhere, int32 [R, S].
    """
    is_predicted = labels != IGNORED
    order = np.argsort(~is_predicted, axis=1, kind="stable")[:, : is_predicted.sum(axis=1).max()]
    weights = np.take_along_axis(is_predicted, order, axis=1)
    targets = np.where(weights, np.take_along_axis(labels, order, axis=1), 0)

    @jax.jit
    def sums(params: Params, tokens: Any, places: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        segments = jnp.ones_like(tokens)
        hidden = model.encode(params, tokens, segments, positions_of_texts(tokens, model.config))
        logits = model.predict(params, jnp.take_along_axis(hidden, places[:, :, None], axis=1))
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, :, None], axis=2)[:, :, 0]
        return -(picked * weights).sum(), ((logits.argmax(-1) == targets) * weights).sum()

    def score(params: Params) -> tuple[float, float]:
        parts = [
            sums(
                params,
                *(array[start : start + SCORED_TOGETHER] for array in (tokens, order, targets, weights)),
            )
            for start in range(0, len(tokens), SCORED_TOGETHER)
        ]
        loss, hits = (float(sum(np.float64(part[index]) for part in parts)) for index in (0, 1))
        return loss / weights.sum(), hits / weights.sum()

    return score


def start_at_frequencies(ids: np.ndarray) -> None:
    """Have a run of this process begin with the head's bias at the logarithm of the frequencies of `ids`, int32 [T]."""

    def start(model: Model, *given: Any) -> Any:
        state = fresh_state(model, *given)
        counts = np.bincount(ids, minlength=model.config.vocab_size) + 1.0
        bias = state.params["head"]["bias"]
        logarithms = np.zeros(bias.shape, np.float32)
        logarithms[: len(counts)] = np.log(counts / counts.sum())
        state.params["head"]["bias"] = jax.device_put(logarithms, bias.sharding)
        return state

    training.fresh_state = start


def train_and_score(run: Run, folder: Path) -> dict[str, Any]:
    """Make a run in its folder, or go on with it; returns its result. Of its checkpoints the last is kept."""
    began, clock, text = time.perf_counter(), Clock(folder), Text(Path(run.text))
    config, workdir = config_of(run, text), epath.Path(folder / "workdir")
    before(Recorder, "step", lambda recorder, step, *_, **__: clock.note(step))
    before(_PhaseSteps, "compile", lambda *_, **__: clock.leave_out(1))
    before(Checkpointer, "save", lambda *_, **__: clock.leave_out(1))
    if (run.fields or {}).get(FREQUENCY_BIAS):
        start_at_frequencies(text.training_ids())
    outcome = train(config, workdir)
    if outcome.interrupted:
        raise SystemExit(f"stopped by {outcome.interrupted}; the same command goes on")
    steps = sorted({*range(config.checkpoint.every, outcome.step, config.checkpoint.every), outcome.step})
    tokens, labels = text.held_out()
    points, score = [], None
    for step in steps:
        network = trained_network(workdir, step)
        if score is None:
            model = build_model(dataclasses.replace(network.encoder), dtype="float32")
            score = scorer(model, tokens, labels)
        points.append(Point(step, tokens_at(config, step), *score(network.params)))
    spent = json.loads((folder / "workdir" / goodput.FILE_NAME).read_text())["seconds"]
    result = write_result(
        folder, run, points, clock, began,
        parameters=outcome.job.model.count().total, compile_seconds=round(spent["compile"], 1),
    )  # fmt: skip
    for step in steps[:-1]:
        shutil.rmtree(folder / "workdir" / "checkpoints" / str(step), ignore_errors=True)
    return result

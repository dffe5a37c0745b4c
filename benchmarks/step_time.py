"""Seconds of one training step of RoBERTa-base: this project against transformers on PyTorch, interleaved in one run.

python benchmarks/step_time.py [--batch=8] [--seq_len=128] [--rounds=5] [--layers=12] [--skip_torch] [--same_memory]

Each contestant has a process of its own, as it would have in use, and takes its steps in turn while the others sleep.
All take the same rows and mask 15% of the tokens, with dropout 0.1 and AdamW, weights in float32. transformers' head
runs on every position, as in its scripts; our head runs on the masked positions. The figures are medians, and the
ratios are medians of the ratios within rounds.
"""

import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax
import numpy as np
import optax
from absl import app, flags

from base import kept_memory
from pretrain.config import MaskingConfig
from pretrain.models import EncoderConfig, build
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.train_step import make_train_step
from pretrain.optim.config import OptimizerConfig
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import TrainState, random_key
from pretrain.phases import Phase

BATCH = flags.DEFINE_integer("batch", 8, "rows B")
SEQ_LEN = flags.DEFINE_integer("seq_len", 128, "tokens in a row S")
ROUNDS = flags.DEFINE_integer("rounds", 5, "measured rounds; each takes one step of every contestant")
LAYERS = flags.DEFINE_integer("layers", 12, "layers L")
SAME_MEMORY = flags.DEFINE_boolean("same_memory", False, "PyTorch too keeps its memory, as `pretrain` does")
UNROLL = flags.DEFINE_integer("scan_unroll", 0, "config.model.scan_unroll")
SKIP_TORCH = flags.DEFINE_bool("skip_torch", False, "time ours only")
DROPOUT_RNG = flags.DEFINE_enum(
    "dropout_rng", "threefry2x32", ["threefry2x32", "rbg"], "generator of dropout masks"
)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "our compute type")
VOCAB = 50265


def tokens() -> np.ndarray:
    """Random rows [B, S] between <s> and </s>."""
    rows = np.random.default_rng(0).integers(5, VOCAB, (BATCH.value, SEQ_LEN.value), dtype=np.int32)
    rows[:, 0], rows[:, -1] = 0, 2
    return rows


def ours() -> Callable[[], float]:
    """A function that takes one step of this project's and returns its loss."""
    config = EncoderConfig(
        model_type="roberta",
        vocab_size=VOCAB,
        hidden_size=768,
        num_hidden_layers=LAYERS.value,
        num_attention_heads=12,
        intermediate_size=3072,
        hidden_act="gelu",
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.02,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        tie_word_embeddings=True,
        pad_token_id=1,
        scan_unroll=UNROLL.value,
    )
    model = build(config, dtype=DTYPE.value)
    schedule = optax.constant_schedule(1e-4)
    optimizer = make_optimizer(OptimizerConfig(), schedule, model.decay_mask(), model.logical_axes())
    masking = MaskingConfig()
    tables = MaskingTables(masking.mask_fraction, masking.random_fraction, 4, (0, 1, 2, 3, 4), VOCAB)
    phase = Phase(0, 0, 100, SEQ_LEN.value, BATCH.value, 1, masking.rate, None)  # type: ignore[arg-type]
    step = make_train_step(
        model,
        optimizer,
        schedule,
        MaskedLM(tables, masking.rate),
        phase,
        seed=0,
        dropout_implementation=DROPOUT_RNG.value,
    )
    params = jax.jit(model.init)(random_key(0, 0))
    state = TrainState(jax.numpy.int32(0), params, jax.jit(optimizer.init)(params))
    rows = tokens()
    batch = {
        "tokens": rows,
        "segments": np.ones_like(rows),
        "positions": np.broadcast_to(np.arange(SEQ_LEN.value, dtype=np.int32), rows.shape),
        "attended": np.full(BATCH.value, SEQ_LEN.value**2, np.float32),
    }
    batch = jax.device_put(batch)
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def take() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["loss_sum"]) / float(metrics["weight_sum"])

    return take


def hugging_face(autocast: bool) -> Callable[[], float]:
    """A function that takes one step of transformers' RobertaForMaskedLM and returns its loss."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCAB, num_hidden_layers=LAYERS.value, max_position_embeddings=514, type_vocab_size=1
    )
    model = RobertaForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    inputs = torch.from_numpy(tokens()).long()
    labels = torch.where(torch.rand(inputs.shape) < 0.15, inputs, -100)
    inputs = torch.where(labels >= 0, 4, inputs)

    def take() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return take


CONTESTANTS: dict[str, Callable[[], Callable[[], float]]] = {
    "ours": ours,
    "HF PyTorch fp32": functools.partial(hugging_face, autocast=False),
    "HF PyTorch bf16 autocast": functools.partial(hugging_face, autocast=True),
}


def contest(name: str, arguments: list[str], turns: Connection) -> None:
    """Take a step whenever a turn comes, and send how many seconds it took."""
    flags.FLAGS(arguments)
    take = CONTESTANTS[name]()
    take()
    turns.send("ready")
    while turns.recv():
        start = time.perf_counter()
        take()
        turns.send(time.perf_counter() - start)


def main(argv: list[str]) -> None:
    """Print the table."""
    names = [name for name in CONTESTANTS if name == "ours" or not SKIP_TORCH.value]
    spawn = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    for name in names:
        turns[name], theirs = spawn.Pipe()
        # as `pretrain` does
        os.environ[kept_memory.TUNABLES] = (
            kept_memory.tunables() if name == "ours" or SAME_MEMORY.value else ""
        )
        spawn.Process(target=contest, args=(name, sys.argv, theirs), daemon=True).start()
        turns[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS.value + 1):
        for name in names:
            turns[name].send(True)
            seconds[name].append(turns[name].recv())
    for turn in turns.values():
        turn.send(False)
    print(f"RoBERTa, {LAYERS.value} layers, batch {BATCH.value} x {SEQ_LEN.value}, {ROUNDS.value} rounds")
    measured = {name: times[1:] for name, times in seconds.items()}  # the first round warms up
    for name, times in measured.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(measured["ours"], times))
        print(f"  {name:26s} {statistics.median(times):6.2f} s/step   ours / this {ratio:5.2f}")


if __name__ == "__main__":
    app.run(main)

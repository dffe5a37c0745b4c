"""Examples a second of fine-tuning: one run, several as one program, several in turn, against transformers' Trainer.

python -m benchmarks.finetune_time [--members=5] [--batch=32] [--seq_len=64] [--rounds=10] [--hidden_size=320] \
    [--only=one,together,in_turn]

transformers' Trainer needs accelerate: pip install accelerate.

Each contestant has a process of its own and takes its steps in turn while the others sleep. All take the same rows of
`seq_len` tokens without padding, with dropout 0.1, AdamW and clipping, from the same RoBERTa. Runs one after another
have the examples a second of one run. The ratios are medians of the ratios within rounds.
"""

import functools
import multiprocessing
import operator
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
from absl import app, flags

from base import kept_memory

MEMBERS = flags.DEFINE_integer("members", 5, "runs of the population M")
BATCH = flags.DEFINE_integer("batch", 32, "examples of a run's batch B")
SEQ_LEN = flags.DEFINE_integer("seq_len", 64, "tokens of an example S")
ROUNDS = flags.DEFINE_integer("rounds", 10, "measured rounds; each takes one step of every contestant")
HIDDEN = flags.DEFINE_integer("hidden_size", 320, "width D")
LAYERS = flags.DEFINE_integer("layers", 3, "layers L")
DEVICES = flags.DEFINE_integer("cpu_devices", 0, "CPU devices the population is spread over; 0: one")
ONLY = flags.DEFINE_list("only", [], "beginnings of the contestants' names; empty: all")
MODEL = flags.DEFINE_string("model", "", "(set by the benchmark) the folder of the model")

STEPS = 10_000
"""Steps of the learning-rate schedule: more than the benchmark takes."""
VOCAB, HEAD_WIDTH = 16_000, 64
SEVERAL = ("together", "in_turn")
"""How the names of contestants with several runs begin."""


def write_model(folder: str) -> None:
    """A RoBERTa with random weights, in transformers' layout."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN.value,
        num_hidden_layers=LAYERS.value,
        num_attention_heads=HIDDEN.value // HEAD_WIDTH,
        intermediate_size=4 * HIDDEN.value,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    RobertaModel(config).save_pretrained(folder)


def rows(members: int) -> dict[str, np.ndarray]:
    """Random examples [M, B, S] of two classes."""
    draw = np.random.default_rng(0)
    shape = (members, BATCH.value, SEQ_LEN.value)
    return {
        "tokens": draw.integers(5, VOCAB, shape, dtype=np.int32),
        "segments": np.ones(shape, np.int32),
        "token_types": np.zeros(shape, np.int32),
        "labels": draw.integers(0, 2, shape[:2], dtype=np.int32),
        "weights": np.ones(shape[:2], np.float32),
    }


class Turns:
    """A contestant's side of the pipe: whose turn it is, and how long the turns took."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._start: float | None = None

    def next(self) -> bool:
        """Report the step that has just ended, and wait for the next turn; False when there is none."""
        self._pipe.send(None if self._start is None else time.perf_counter() - self._start)
        wanted = self._pipe.recv()
        self._start = time.perf_counter()
        return wanted


def ours(members: int, dtype: str, how: str, turns: Turns) -> None:
    """Take steps of a population of so many runs, `together` or `in_turn`."""
    import jax

    if DEVICES.value and members > 1:
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
    from finetune.classifier.pretrained import load_encoder_for_classification
    from finetune.config import FinetuneConfig
    from finetune.population import in_turn
    from finetune.population.state import (
        abstract_state,
        batch_shardings,
        first_state,
        population_mesh,
        to_devices,
    )
    from finetune.population.step_inputs import input_shardings, step_inputs
    from finetune.population.train_step import make_train_step, optimizer_of

    config = FinetuneConfig(seeds=members, global_batch=BATCH.value, dtype=dtype)
    start = load_encoder_for_classification(
        MODEL.value, ("no", "yes"), dtype=dtype, overrides={"scan_unroll": 0}
    )
    mesh = population_mesh(config.mesh, members)
    optimizer = optimizer_of(config, start.classifier)
    abstract = abstract_state(start.classifier, optimizer, members, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    layout, host = batch_shardings(mesh, members=True), rows(members)
    with jax.set_mesh(mesh):
        state = first_state(
            start.classifier, start.params, start.fresh_head, config.members, optimizer, abstract
        )
        train_step = make_train_step(start.classifier, optimizer, config)
        if how == in_turn.IN_TURN:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, in_turn.abstract_member(abstract))
        step = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))
        inputs = step_inputs(config, STEPS)
        members_in_turn, wanted = in_turn.Turns(inputs, mesh), True
        placed = to_devices(inputs, input_shardings(mesh))
        while wanted:
            if how == in_turn.IN_TURN:
                state, metrics = members_in_turn.step(step, state, host, {})
            else:
                state, metrics = step(state, {**to_devices(host, layout), **placed})
            jax.block_until_ready(metrics)
            wanted = turns.next()


def trainer(bf16: bool, turns: Turns) -> None:
    """Take steps of transformers' Trainer."""
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

    host = {name: array[0] for name, array in rows(1).items()}
    examples = [
        {"input_ids": torch.tensor(tokens).long(), "labels": int(label)}
        for tokens, label in zip(host["tokens"], host["labels"], strict=True)
    ]

    class TakeTurns(TrainerCallback):
        """Waits for a turn after each step."""

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            control.should_training_stop = not turns.next()  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH.value,
            max_steps=STEPS,
            bf16=bf16,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = AutoModelForSequenceClassification.from_pretrained(MODEL.value, num_labels=2)
        Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[TakeTurns()]).train()


def contest(name: str, arguments: list[str], pipe: Connection) -> None:
    """Run one of the contestants in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    flags.FLAGS(arguments)
    contestants()[name](Turns(pipe))


def contestants() -> dict[str, Callable[[Turns], None]]:
    """Who takes part, by name."""
    members = MEMBERS.value
    everyone = {
        "one run fp32": functools.partial(ours, 1, "float32", "together"),
        "one run bf16": functools.partial(ours, 1, "bfloat16", "together"),
        "together fp32": functools.partial(ours, members, "float32", "together"),
        "together bf16": functools.partial(ours, members, "bfloat16", "together"),
        "in_turn fp32": functools.partial(ours, members, "float32", "in_turn"),
        "in_turn bf16": functools.partial(ours, members, "bfloat16", "in_turn"),
        "HF Trainer fp32": functools.partial(trainer, False),
        "HF Trainer bf16": functools.partial(trainer, True),
    }
    wanted = tuple(ONLY.value) or ("",)
    return {name: function for name, function in everyone.items() if name.startswith(wanted)}


def main(argv: list[str]) -> None:
    """Print the table."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        for name in contestants():
            pipes[name], theirs = spawn.Pipe()
            arguments = [*sys.argv, f"--model={folder}"]
            ours = not name.startswith("HF")
            os.environ[kept_memory.TUNABLES] = kept_memory.tunables() if ours else ""  # as `finetune` does
            spawn.Process(target=contest, args=(name, arguments, theirs), daemon=True).start()
            theirs.close()  # so that a contestant that fails ends the benchmark
            pipes[name].recv()  # its first step, compilation included
        seconds: dict[str, list[float]] = {name: [] for name in pipes}
        for _ in range(ROUNDS.value + 1):
            for name, pipe in pipes.items():
                pipe.send(True)
                seconds[name].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(False)
    report({name: times[1:] for name, times in seconds.items()})  # the first round warms up


def report(seconds: dict[str, list[float]]) -> None:
    """Print examples a second, and medians of each round's ratios."""
    print(f"RoBERTa, {LAYERS.value} layers of width {HIDDEN.value}, batch {BATCH.value} x {SEQ_LEN.value}")
    rates = {}
    for name, times in seconds.items():
        examples = BATCH.value * (MEMBERS.value if name.startswith(SEVERAL) else 1)
        rates[name] = [examples / second for second in times]
    runs = [run for run in ("one run fp32", "one run bf16") if run in rates]
    print(f"{'':18s} examples/s   " + "   ".join(f"{run} / this" for run in runs))
    for name, values in rates.items():
        ratios = [statistics.median(map(operator.truediv, rates[run], values)) for run in runs]
        print(
            f"  {name:16s} {statistics.median(values):10.1f}   "
            + "   ".join(f"{each:19.2f}" for each in ratios)
        )
    for name in (name for name in rates if name.startswith(SEVERAL)):
        how, dtype = name.split()
        gain = statistics.median(map(operator.truediv, rates[name], rates[f"one run {dtype}"]))
        print(f"  {MEMBERS.value} runs {how} against one after another, {dtype}: {gain:.2f}")


if __name__ == "__main__":
    app.run(main)

"""One accelerator in ten minutes: attention kernels, training, fine-tuning of five seeds, losses against a CPU's.

python -m benchmarks.device [--json=device.json] [--small] [--sections=kernels,train,seeds,losses]

Written for one H200. `--small` runs everything on tiny sizes, on a CPU too. Each part has a process of its own. So it
has the whole memory, and a part that fails does not end the others. The parts:

- kernels: each attention kernel of this hardware against the reference in float32: largest error of values and
  gradients as a share of the largest value, and time of both directions against the reference in the same type.
- train: `python -m pretrain` on RoBERTa-base (512) and ModernBERT-base (1024, documents packed), in bfloat16, from
  text: tokens a second, MFU, memory, time waiting for data.
- seeds: fine-tuning of 5 seeds as one program, against one after another.
- losses: 200 steps on this device and on its CPU, in float32, from the same seed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 600
"""Seconds of the whole benchmark."""
SECTIONS = ("losses", "train", "seeds", "kernels")
"""In this order: the seeds are fine-tuned from a network that `train` has left."""
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]

Table = list[dict[str, Any]]
"""Rows of a section: column -> value."""

FAILED: list[str] = []
"""What has failed in this process: sections, or recipes of runs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the sections, print a table of each, and write them to a file; the exit status."""
    options = parse(arguments)
    FAILED.clear()
    if options.only:
        from pretrain.devices.platforms import leave_out_absent_tpu

        leave_out_absent_tpu()
        run = {"kernels": kernels, "train": train, "seeds": seeds, "losses": losses}[options.only]
        Path(options.json).write_text(json.dumps(run(Path(options.folder), options.small)))
        return int(bool(FAILED))
    end, found = time.monotonic() + LIMIT, dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "text.txt", documents=200 if options.small else 40_000)
        for section in (each for each in SECTIONS if each in options.sections):
            begin = time.monotonic()
            file = Path(folder) / f"{section}.json"
            command = [
                f"--only={section}",
                f"--folder={folder}",
                f"--json={file}",
                *["--small"] * options.small,
            ]
            printed, problem = python(["benchmarks.device", *command], end - begin, is_section=True)
            print(printed, end="")
            if problem:
                FAILED.append(section)
                print(f"{section} failed: {problem}")
            found[section] = json.loads(file.read_text()) if file.exists() else []
            show(section, found[section], time.monotonic() - begin)
            Path(options.json).write_text(json.dumps(found, indent=1))
    return int(bool(FAILED))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, which is that of the process by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", default="device.json", help="where the figures are written")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--sections", default=SECTIONS, type=names_of_sections, help="the parts to run")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def names_of_sections(text: str) -> list[str]:
    """The sections that a list with commas names."""
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
    if "seeds" in names and "train" not in names:
        raise argparse.ArgumentTypeError("seeds need the network that train leaves: --sections=train,seeds")
    return names


def python(
    module: list[str], seconds: float, *, is_section: bool = False, **environment: str
) -> tuple[str, str]:
    """Run a module for some seconds at most; returns what it printed, and what went wrong ('' if nothing).

    A section is killed with the run that it has started, and so it is if this process is interrupted.
    """
    started = subprocess.Popen(
        [sys.executable, "-m", *module],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=is_section,
    )

    def killed() -> str:
        if is_section:
            os.killpg(started.pid, signal.SIGKILL)
        else:
            started.kill()
        return started.communicate()[0]

    try:
        printed = started.communicate(timeout=max(seconds, 1))[0]
    except subprocess.TimeoutExpired:
        return killed(), f"not finished after {seconds:.0f} s"
    except BaseException:
        killed()
        raise
    return printed, f"exit status {started.returncode}" if started.returncode else ""


def show(section: str, table: Table, seconds: float) -> None:
    """Print a section's rows in columns."""
    print(f"\n{section} ({seconds:.0f} s)")
    columns = list(dict.fromkeys(name for row in table for name in row))
    lines = [columns, *([shown(row.get(name)) for name in columns] for row in table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)), flush=True)


def shown(value: Any) -> str:
    """A value in the table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def write_text(path: Path, documents: int) -> None:
    """Write documents of 20 to 1,000 words, one a line. Words are made of syllables, the first of them most often."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    with path.open("w") as file:
        for _ in range(documents):
            file.write(" ".join(draw.choices(words, weights, k=draw.randint(20, 1000))) + "\n")


def kernels(folder: Path, small: bool) -> Table:
    """Each attention kernel that the hardware has, on rows of one document and on packed rows."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from pretrain.models.attention import KERNELS, LONG
    from pretrain.models.kernels.sight import Sight, WeightDropout

    shapes = ((2, 256, 2),) if small else ((32, 1024, 12), (4, 2 * LONG, 12))
    platform, found = jax.default_backend(), Table()
    for (rows, length, heads), documents in ((shape, n) for shape in shapes for n in (1, 4)):
        draw = np.random.default_rng(0)
        arrays = [draw.normal(size=(rows, length, heads, 64)) for _ in range(4)]
        segments = np.tile(np.repeat(np.arange(1, documents + 1), length // documents), (rows, 1))

        def compiled(
            name: str, dtype: str, arrays: Any = arrays, segments: Any = segments
        ) -> Callable[[], Any]:
            given = [jnp.asarray(x, dtype) for x in arrays]

            def total(query: Any, key: Any, value: Any, weights: Any) -> Any:
                sight = Sight(jnp.asarray(segments, jnp.int32), None, False)
                out = KERNELS[name].compute(query, key, value, sight, WeightDropout(0.0, None))
                return jnp.sum((out * weights).astype(jnp.float32)), out

            step = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
            return lambda: jax.block_until_ready(step(*given))

        exact = jax.tree.leaves(compiled("chunked" if length > 1024 else "xla", "float32")())
        names = [
            name
            for name, kernel in KERNELS.items()
            if platform in kernel.platforms and (kernel.segments or documents == 1)
        ]
        steps = {name: compiled(name, "bfloat16") for name in names}
        took = interleaved(steps, 3 if small else 20)
        for name, step in steps.items():
            errors = [
                float(jnp.abs(mine.astype(jnp.float32) - other).max() / jnp.abs(other).max())
                for mine, other in zip(jax.tree.leaves(step()), exact, strict=True)
            ]
            found.append(
                {
                    "kernel": name,
                    "rows": f"{rows} x {length}, {documents} documents",
                    "gradients' error": max(errors[:3]),
                    "values' error": errors[3],
                    "ms": 1000 * statistics.median(took[name]),
                    "time / xla": statistics.median(a / b for a, b in zip(took[name], took["xla"])),
                }
            )
    return found


def interleaved(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, taken in turn; the first round warms up."""
    took: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            took[name].append(time.perf_counter() - begin)
    return {name: seconds[1:] for name, seconds in took.items()}


def pretrained(
    workdir: Path, recipe: str, fields: dict[str, Any], seconds: float, **environment: str
) -> tuple[Table, str]:
    """Run `python -m pretrain`; returns its metrics, and what it printed."""
    settings = {"config": recipe, "workdir": workdir} | {
        f"config.{field}": value
        for field, value in {
            "data.source": "files",
            "data.path": workdir.parent / "text.txt",
            "data.streams": 8,
            "eval.every": 0,
            "checkpoint.every": 100_000,
            **fields,
        }.items()
    }
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    printed, problem = python(["pretrain", *arguments], seconds, is_section=False, **environment)
    if problem:
        FAILED.append(recipe)
        print(f"pretrain {' '.join(arguments)}: {problem}\n{printed[-3000:]}")
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else [], printed


SHRUNK = {
    "seq_len": 64,
    "global_batch": 8,
    "steps": 12,
    "log.every": 4,
    "model.num_hidden_layers": 3,
    "tokenizer.vocab_size": 500,
    "model.hidden_size": 64,
    "model.num_attention_heads": 1,
    "model.intermediate_size": 64,
}
"""What `--small` changes in a recipe."""


def train(folder: Path, small: bool) -> Table:
    """Tokens a second of both networks, from text to update."""
    found = Table()
    for name, rows in (("roberta_base", 128), ("modernbert_base", 64)):
        fields: dict[str, Any] = {
            "steps": 60,
            "log.every": 10,
            "global_batch": rows,
            "grad_accum": 1,
            "schedule.warmup_steps": 4,
            "tokenizer.sample_documents": 5000,
            "tokenizer.vocab_size": 8000,
            "model.vocab_size": 50_368,
            "model.attention_probs_dropout_prob": 0.0,
        }
        fields |= (SHRUNK | {"model.vocab_size": 500}) if small else {}
        begin = time.monotonic()
        metrics, printed = pretrained(folder / name, f"configs/{name}.py", fields, 240)
        settled = [line for line in metrics if "train/tokens_per_second" in line][1:]
        found.append(
            {
                "network": name,
                "attention": after(printed, "attention"),
                "tokens/s": middle(settled, "train/tokens_per_second"),
                "MFU": middle(settled, "train/mfu"),
                "waiting for data": middle(settled, "train/data_wait"),
                "memory": after(printed, "memory per device"),
                "seconds in all": time.monotonic() - begin,
            }
        )
    return found


def middle(metrics: Table, name: str) -> float | None:
    """The median of a metric; None where there is none."""
    values = [line[name] for line in metrics if line.get(name) is not None]
    return statistics.median(values) if values else None


def after(printed: str, name: str) -> str:
    """The rest of the first line that begins with these words."""
    lines = (line.strip() for line in printed.splitlines())
    return next((line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")), "")


def seeds(folder: Path, small: bool) -> Table:
    """A step of a population of 5 seeds, and one of a single seed."""
    import jax
    import numpy as np

    from finetune.classifier.pretrained import load_encoder_for_classification
    from finetune.config import FinetuneConfig
    from finetune.population.state import (
        abstract_state,
        batch_shardings,
        first_state,
        population_mesh,
        to_devices,
    )
    from finetune.population.step_inputs import input_shardings, step_inputs
    from finetune.population.train_step import make_train_step, optimizer_of

    def step_of(members: int) -> Callable[[], Any]:
        config = FinetuneConfig(seeds=members, global_batch=32, dtype="bfloat16")
        start = load_encoder_for_classification(
            str(folder / "roberta_base"), ("no", "yes"), dtype="bfloat16", overrides={"scan_unroll": 0}
        )
        mesh, optimizer = population_mesh(config.mesh, members), optimizer_of(config, start.classifier)
        abstract = abstract_state(start.classifier, optimizer, members, mesh)
        layouts = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        draw, shape = np.random.default_rng(0), (members, 32, 16 if small else 128)
        rows = {
            "tokens": draw.integers(5, 400, shape, dtype=np.int32),
            "segments": np.ones(shape, np.int32),
            "token_types": np.zeros(shape, np.int32),
            "labels": draw.integers(0, 2, shape[:2], dtype=np.int32),
            "weights": np.ones(shape[:2], np.float32),
        }
        with jax.set_mesh(mesh):
            state = first_state(
                start.classifier, start.params, start.fresh_head, config.members, optimizer, abstract
            )
            function = make_train_step(start.classifier, optimizer, config)
            step = jax.jit(function, donate_argnums=0, out_shardings=(layouts, None))
            inputs = to_devices(step_inputs(config, 1000), input_shardings(mesh))
            batch = {**to_devices(rows, batch_shardings(mesh, members=True)), **inputs}

        def take() -> Any:
            nonlocal state
            with jax.set_mesh(mesh):
                state, metrics = step(state, batch)
            return jax.block_until_ready(metrics)

        return take

    took = interleaved({"one": step_of(1), "five": step_of(5)}, 3 if small else 20)
    gain = statistics.median(5 * one / five for one, five in zip(took["one"], took["five"]))
    return [
        {
            "examples/s, one seed": 32 / statistics.median(took["one"]),
            "examples/s, five as one program": 160 / statistics.median(took["five"]),
            "five as one program / in a row": gain,
        }
    ]


def losses(folder: Path, small: bool) -> Table:
    """The largest difference of losses between this device and its CPU; the first steps, and all."""
    fields: dict[str, Any] = {
        "steps": 200,
        "log.every": 1,
        "schedule.warmup_steps": 20,
        "tokenizer.vocab_size": 8000,
        "tokenizer.sample_documents": 5000,
        "matmul_precision": "highest",
    }
    if small:
        fields |= SHRUNK | {"log.every": 1, "schedule.warmup_steps": 4}
    on = {"device": {}, "CPU": {"JAX_PLATFORMS": "cpu"}}
    found: dict[str, list[float]] = {}
    for name, environment in on.items():
        metrics, _ = pretrained(
            folder / f"losses {name}", "configs/roberta_small.py", fields, 200, **environment
        )
        found[name] = [line["train/loss"] for line in metrics if "train/loss" in line]
    apart = [abs(mine - theirs) for mine, theirs in zip(*found.values())]
    return [
        {
            "steps": len(apart),
            "last loss": found["device"][-1] if found["device"] else None,
            "largest difference, 20 steps": max(apart[:20], default=None),
            "largest difference, all": max(apart, default=None),
        }
    ]


if __name__ == "__main__":
    for stops in (signal.SIGTERM, signal.SIGHUP):  # end the section too, which is in a session of its own
        signal.signal(stops, lambda number, _: sys.exit(128 + number))
    sys.exit(main())

"""Time of saving, verifying and restoring checkpoints: `python -m benchmarks.checkpoint_time --millions=10,125`.

A checkpoint has params and two moments, float32: 12 bytes a parameter. `stall` is what the loop waits for in a save;
the rest is written beside it. Pairs with and without a manifest are interleaved, and ratios are of medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from pretrain.runtime.checkpointer import Checkpointer

ARRAYS = 16
"""Arrays that the parameters are divided among."""


def state(parameters: int) -> dict[str, object]:
    """Arrays as a run has them."""
    size = parameters // ARRAYS
    keys = jax.random.split(jax.random.key(0), 3 * ARRAYS)
    parts = [jax.random.normal(key, (size // 256, 256)) for key in keys]
    named = {f"array{index}": part for index, part in enumerate(parts[:ARRAYS])}
    moments = {f"array{index}": part for index, part in enumerate(parts[ARRAYS:])}
    return {"params": named, "opt_state": moments, "step": jnp.int32(1)}


def times(parameters: int, verify: bool, rounds: int) -> list[dict[str, float]]:
    """Seconds of each round: stall, save in all, and restore."""
    whole = state(parameters)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), whole
    )
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            checkpointer = Checkpointer(Path(folder), verify=verify)
            begin = time.perf_counter()
            checkpointer.save(1, whole, {"best": None})
            stall = time.perf_counter() - begin
            checkpointer.wait()
            saved = time.perf_counter() - begin
            begin = time.perf_counter()
            assert checkpointer.restore(abstract) is not None
            found.append({"stall": stall, "save": saved, "restore": time.perf_counter() - begin})
            checkpointer.close()
    return found


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_time")
    parser.add_argument("--millions", default="10,125", help="millions of parameters, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    values = parser.parse_args(argv[1:])
    for millions in map(int, values.millions.split(",")):
        rounds: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for _ in range(values.rounds):
            for verify in (False, True):
                rounds[verify] += times(millions * 10**6, verify, 1)
        for name in ("stall", "save", "restore"):
            plain, checked = (
                statistics.median(each[name] for each in rounds[verify]) for verify in (False, True)
            )
            print(
                f"{millions:4} M  {name:8} {plain:7.2f} s without, {checked:7.2f} s with a manifest: "
                f"{checked / plain:.2f}"
            )


if __name__ == "__main__":
    main(sys.argv)

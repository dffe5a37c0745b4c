"""A process of a run of the soak: a training command that also writes down what each step reads.

`python -m benchmarks.soak_run STAGE [flags of the command]`, with RECORDS set to a file's name without its ending.
Each process appends to RECORDS.PROCESS.jsonl, a line for each batch that it reads:
{"step": n, "rows": {row: [digest of the row, [digest of each document in it]]}}. In fine-tuning, a member is a row.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime import processes

RECORDS = "SOAK_RECORDS"


def digest(*arrays: np.ndarray) -> str:
    """A name for the contents of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def documents(tokens: np.ndarray, segments: np.ndarray) -> list[str]:
    """The digests of the documents of a row, [S], without the special tokens around them."""
    return [digest(tokens[segments == number][1:-1]) for number in range(1, int(segments.max()) + 1)]


def rows_of_batch(steps: Any, batch: Any) -> dict[int, Any]:
    """What is in each of this process's rows of a batch of pretraining."""
    from pretrain.devices.global_batch import local_rows

    mesh, size = steps._stage.job.mesh, steps._phase.global_batch
    arrays = batch.arrays
    return {
        row: [
            digest(*(arrays[name][at] for name in sorted(arrays))),
            documents(arrays["tokens"][at], arrays["segments"][at]),
        ]
        for at, row in enumerate(local_rows(mesh, size))
    }


def rows_of_members(steps: Any, batch: Any) -> dict[int, Any]:
    """What is in the batch of each member of fine-tuning."""
    arrays = batch.arrays
    members = len(arrays["tokens"])
    return {at: [digest(*(arrays[name][at] for name in sorted(arrays))), []] for at in range(members)}


def recorded(steps: type, rows: Callable[[Any, Any], dict[int, Any]]) -> None:
    """Have a stage's stretches write down each batch that they read."""
    original = steps.next  # type: ignore[attr-defined]

    def reading(self: Any, step: int) -> Any:
        batch = original(self, step)
        with Path(f"{os.environ[RECORDS]}.{processes.number()}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step + 1, "rows": rows(self, batch)}) + "\n")
        return batch

    steps.next = reading  # type: ignore[attr-defined]


def main(argv: Sequence[str]) -> int:
    """Run the command of the stage."""
    stage, sys.argv = argv[1], [argv[0], *argv[2:]]
    if stage == "pretrain":
        from pretrain import train
        from pretrain.__main__ import main as command

        recorded(train._PhaseSteps, rows_of_batch)
    else:
        from finetune import run_steps
        from finetune.__main__ import main as command

        recorded(run_steps.RunSteps, rows_of_members)
    return command(sys.argv)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    processes.run(main)

"""A run in a process of its own: `python -m benchmarks.recipes.run FOLDER`, where FOLDER has the run's run.json."""

import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.recipes.runs import Run
from pretrain.runtime.train_command import use_compilation_cache


def main(folder: Path) -> None:
    run = Run.read(folder)
    logging.basicConfig(level=logging.WARNING)
    if run.peer is not None:
        from benchmarks.recipes import peers

        peers.train_and_score(run, folder)
    else:
        from benchmarks.recipes import ours

        use_compilation_cache("~/.cache/unmask/xla")
        ours.train_and_score(run, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The ladder: recipes and baselines at equal tokens and equal time, and which of them have won.

python -m benchmarks.recipes --out=DIR --text=no=/data/norwegian --text=en=/data/english \
    [--rungs=base,small,modern] [--seeds=2] [--spread_seeds=4] [--tokens=1000000] [--minutes=60] [--set=FIELD=VALUE] \
    [--report] [--small]

A text is a .txt file or a folder of them (.gz too), or a folder in OSCAR's layout. A blank line ends a document; where
there is none, each line is a document.
benchmarks/recipes/rungs.py has the rungs. docs/recipes.md says how to read what comes out.

All runs of a text have the same tokenizer and the same held-out rows with the same masks, by transformers' own
collation, and are scored in float32. The first rung runs with --spread_seeds seeds before the others: their spread says
which differences count. Each run is a process of its own, and runs one at a time. A finished run is read back from
DIR/TEXT/RUNG/SEED, and one that was stopped goes on. Results: DIR/TEXT/table.md, table.json and curves.png.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base import kept_memory, terminal
from benchmarks.recipes import report
from benchmarks.recipes.rungs import BASE, RUNGS, Rung, fields_of
from benchmarks.recipes.runs import RESULT, Run
from benchmarks.recipes.text import Text, prepare

SMALL: dict[str, Any] = {
    "seq_len": 32,
    "global_batch": 8,
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 64,
}
SMALL_SIZES = {"vocab_size": 300, "rows": 16, "tokens": 2048, "points": 2, "seeds": 1, "spread_seeds": 2}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line's options; ends the process where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text", action="append", required=True, metavar="NAME=PATH", help="a text, and its name"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and results")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="names by commas, in this order")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="training tokens of a run")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each rung")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them")
    parser.add_argument("--spread_seeds", type=int, default=3, help="seeds of the first rung")
    parser.add_argument("--points", type=int, default=8, help="scores of a run")
    parser.add_argument("--vocab_size", type=int, default=8000, help="tokens of the vocabulary")
    parser.add_argument("--rows", type=int, default=256, help="held-out rows")
    parser.add_argument(
        "--megabytes", type=float, default=64, help="most characters of training text, in millions"
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="begin no run after so many minutes; 0: no limit"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of every rung's config and network",
    )
    parser.add_argument("--report", action="store_true", help="run nothing; write tables and pictures")
    parser.add_argument(
        "--small", action="store_true", help="tiny networks and few steps, to try the command"
    )
    options = parser.parse_args(argv)
    options.rungs = options.rungs.split(",")
    if unknown := [name for name in options.rungs if name not in RUNGS]:
        parser.error(f"--rungs: {', '.join(map(repr, unknown))} not among {', '.join(RUNGS)}")
    for given in options.text:
        name, _, path = given.partition("=")
        if not (name and path and Path(path).exists()):
            parser.error(f"--text={given!r} should be NAME=PATH of a file or folder that exists")
    options.changes = dict(SMALL) if options.small else {}
    for given in options.set:
        name, _, value = given.partition("=")
        try:
            options.changes[name] = json.loads(value)
        except ValueError:
            quoted = f"; a text has quotes there: --set='{name}={json.dumps(value)}'" if value else ""
            parser.error(f"--set={given!r} should be FIELD=VALUE, with a value of JSON{quoted}")
    if options.small:
        vars(options).update(SMALL_SIZES)
    return options


def run_of(rung: Rung, seed: int, text: Text, options: argparse.Namespace) -> Run:
    """The run of a rung with a seed."""
    shared = {"text": str(text.folder.resolve()), "rung": rung.name, "seed": seed, "points": options.points}
    tokens = round(rung.share * options.tokens)
    if rung.peer is not None:
        values = dict(BASE) | options.changes
        sizes = {
            name: values[name] for name in values if name.startswith(("model.", "seq_len", "global_batch"))
        }
        return Run(**shared, tokens=tokens, peer=dataclasses.asdict(rung.peer), sizes=sizes)
    return Run(**shared, tokens=tokens, fields=fields_of(rung) | options.changes)


def environment(run: Run) -> dict[str, str]:
    """The environment of a run: of ours with the memory settings that `python -m pretrain` starts itself with."""
    return dict(os.environ) | ({kept_memory.TUNABLES: kept_memory.tunables()} if run.peer is None else {})


def make(run: Run, folder: Path) -> bool:
    """Make a run in a process of its own, unless it is finished; returns whether it now is."""
    run.write(folder)
    if not (folder / RESULT).exists():
        began = time.monotonic()
        with (folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "benchmarks.recipes.run", str(folder)]
            subprocess.run(command, env=environment(run), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if not (folder / RESULT).exists():
            last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
            terminal.say(
                f"{run.rung}, seed {run.seed}: failed; {folder / 'log'}: {' '.join(last)}", error=True
            )
            return False
        score = json.loads((folder / RESULT).read_text())["curve"][-1]
        terminal.say(
            f"{run.rung}, seed {run.seed}: loss {score['loss']:.3f}, accuracy {score['accuracy']:.2%}, "
            f"{score['wall']:.0f} s of steps, {time.monotonic() - began:.0f} s in all"
        )
    return True


def results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results in a text's folder, by rung."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob(f"*/*/{RESULT}")):
        found.setdefault(file.parts[-3], []).append(json.loads(file.read_text()))
    return found


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    began, status = time.monotonic(), 0
    for given in options.text:
        name, _, path = given.partition("=")
        folder = options.out / name
        seq_len = (dict(BASE) | options.changes)["seq_len"]
        text = prepare(
            name, Path(path), folder / "text",
            vocab_size=options.vocab_size, seq_len=seq_len, rows=options.rows, megabytes=options.megabytes,
        )  # fmt: skip
        for index, rung in enumerate([] if options.report else options.rungs):
            for seed in range(options.spread_seeds if index == 0 else options.seeds):
                if options.minutes and time.monotonic() - began > 60 * options.minutes:
                    break
                seed += options.first_seed
                run = run_of(RUNGS[rung], seed, text, options)
                status |= not make(run, folder / rung / str(seed))
        if there := results(folder):
            terminal.say(report.write(folder, there, text.facts))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

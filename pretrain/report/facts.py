"""What the files of a workdir say about a run: metrics, config, time, memory, documents.

Files of a run that trains are read while it writes them. So a file that is missing or damaged only leaves out its part.
"""

import functools
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from base.errors import UserError
from base.json_files import json_object
from pretrain.phases import saved_phases
from pretrain.reports.metric_writer import FILE_NAME as METRICS_FILE
from pretrain.reports.metric_writer import Line, parsed_line
from pretrain.reports.start_summary import Memory
from pretrain.runtime import goodput, processes
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.workdir import FINISHED_FILE, write_text

START_FILE = "start.json"
"""The devices, parameters and memory of a run, as its newest call found them."""
MOST_LINES = 4000
"""Lines of training that are read of a metrics.jsonl, so that the report of a long run takes no longer."""
MOST_HELD_OUT_ROWS = 256
"""Rows of the held-out documents that lengths and bytes a token are taken from."""


def keep(workdir: epath.Path, mesh: Mesh, memory: Memory, parameters: int) -> None:
    """Write WORKDIR/start.json. A failure is only a warning.

    Args:
      workdir: the run's folder.
      mesh: its devices.
      memory: what it takes of each.
      parameters: number of parameters of the network.
    """
    values = {
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "processes": processes.count(),
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "parameters": parameters,
        "memory": vars(memory),
    }
    attempt(START_FILE, write_text, workdir / START_FILE, json.dumps(values, indent=2) + "\n")


class NothingLoggedError(UserError):
    """A workdir has no metrics and no checkpoint; those of a run that trains may come."""


@dataclass(frozen=True)
class Corpus:
    """What is known of a run's documents."""

    counts: Mapping[str, Mapping[str, Any]]
    """By corpus: documents, held_out, and dropped by reason, up to the newest checkpoint; each pass counts."""
    lengths: Sequence[int] = ()
    """Tokens of held-out documents, or of the pieces that rows cut them into."""
    bytes_per_token: float | None = None
    """Bytes of text for a token of the held-out documents; None where it is not known."""


@dataclass(frozen=True)
class Run:
    """What the files of a workdir say."""

    name: str
    workdir: epath.Path
    lines: Sequence[Line]
    """Those of metrics.jsonl."""
    config: Mapping[str, Any]
    """As nested dicts; {} where it is not known."""
    saved: Mapping[str, Any]
    """The `run` item of the newest checkpoint; {} without one."""
    start: Mapping[str, Any]
    """The contents of start.json; {} without it."""
    spent: goodput.Spent | None
    is_finished: bool

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((line["step"] for line in self.lines), default=0)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps at which a metric is known, and its values."""
        known = [(line["step"], float(line[name])) for line in self.lines if line.get(name) is not None]
        return [step for step, _ in known], [value for _, value in known]

    def tokens(self, steps: Sequence[int]) -> list[float]:
        """Tokens of the rows, padding included, up to each of the steps."""
        try:
            phases = saved_phases(self.config, max(self.step, 1))
            stops = [phase.stop for phase in phases]
            sums = np.cumsum(
                [(phase.stop - phase.start) * phase.global_batch * phase.seq_len for phase in phases]
            )
        except (UserError, LookupError, TypeError, AttributeError, ValueError):
            return []
        return np.interp(steps, [0, *stops], [0.0, *sums]).tolist()

    def seconds(self, steps: Sequence[int]) -> list[float]:
        """Seconds of training up to each of the steps, without evaluations, checkpoints and compilations."""
        known, each = self.series("train/step_seconds")
        if not known:
            return []
        sums = np.cumsum(np.diff([0, *known]) * np.asarray(each))
        return np.interp(steps, [0, *known], [0.0, *sums]).tolist()


def read_run(workdir: epath.Path, name: str = "") -> Run:
    """Read the files of a workdir.

    Args:
      workdir: the folder of a run of either stage.
      name: what the report calls it; '' takes the folder's name.

    Raises:
      UserError: it is no run's; NothingLoggedError, it has logged nothing.
    """
    lines, saved = read_lines(workdir / METRICS_FILE), _newest_checkpoint(workdir)
    if not lines and not saved:
        flaw = "has no metrics and no checkpoint yet" if workdir.exists() else "does not exist"
        raise NothingLoggedError(f"{workdir} {flaw}; name the workdir of a run")
    found = goodput.read(workdir / goodput.FILE_NAME) if (workdir / goodput.FILE_NAME).exists() else None
    return Run(
        name=name or workdir.name,
        workdir=workdir,
        lines=lines,
        config=read_json(workdir / "config.json") or as_mapping(saved.get("config")),
        saved=saved,
        start=read_json(workdir / START_FILE),
        spent=found[0] if found else None,
        is_finished=(workdir / FINISHED_FILE).exists(),
    )


def read_lines(file: epath.Path) -> list[Line]:
    """The whole lines of a metrics.jsonl that may be growing; damaged ones are left out.

    Of a long file it is all evaluations, the last line, and every n-th of the others, MOST_LINES of them.
    """
    try:
        texts = file.read_bytes().rpartition(b"\n")[0].splitlines()
    except OSError:
        return []
    stride = -(-len(texts) // MOST_LINES)
    kept = [text for index, text in enumerate(texts[:-1]) if index % stride == 0 or b'"eval/' in text]
    return [line for line in map(parsed_line, [*kept, *texts[-1:]]) if line is not None]


def read_json(file: epath.Path) -> dict[str, Any]:
    """A JSON object in a file; {} if there is none, or it is damaged."""
    try:
        return json_object(file)
    except (OSError, ValueError):
        return {}


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A value of a JSON file that should be an object; {} if it is none."""
    return value if isinstance(value, Mapping) else {}


def _newest_checkpoint(workdir: epath.Path) -> dict[str, Any]:
    """The `run` item of the newest checkpoint, as it is in its file: a report does without what checks it."""
    folder = workdir / "checkpoints"
    steps = [int(each.name) for each in folder.iterdir() if each.name.isdecimal()] if folder.exists() else []
    return read_json(folder / str(max(steps)) / "run" / "metadata") if steps else {}


def corpus(run: Run) -> Corpus:
    """What is known of the documents of a pretraining run."""
    counts = {key: _added(streams) for key, streams in run.saved.get("data", {}).items()}
    file = run.workdir / "heldout_0.npz"
    if not file.exists():
        return Corpus(counts)
    lengths, size = _held_out(os.fspath(file), os.fspath(run.workdir / "tokenizer" / "tokenizer.json"))
    return Corpus(counts, lengths, size)


def _added(streams: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"documents": 0, "held_out": 0, "dropped": {}}
    for state in streams.values():
        counts = state.get("counts", {})
        total["documents"] += counts.get("documents", 0)
        total["held_out"] += counts.get("held_out", 0)
        for reason, number in counts.get("dropped", {}).items():
            total["dropped"][reason] = total["dropped"].get(reason, 0) + number
    return total


@functools.lru_cache(maxsize=8)
def _held_out(rows_file: str, tokenizer_file: str) -> tuple[tuple[int, ...], float | None]:
    """Lengths of held-out documents in tokens, and bytes a token. A run's rows never change."""
    from tokenizers import Tokenizer

    try:
        with np.load(io.BytesIO(epath.Path(rows_file).read_bytes()), allow_pickle=False) as kept:
            tokens, segments = (kept[name][:MOST_HELD_OUT_ROWS] for name in ("tokens", "segments"))
        tokenizer = Tokenizer.from_str(epath.Path(tokenizer_file).read_text())
    except Exception:  # damage shows itself as errors of many kinds, and only these two figures are lost
        return (), None
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    lengths, count, size = list[int](), 0, 0
    for row, part in zip(tokens, segments):
        # A special token ends a document where documents are joined; a new segment does where they are apart.
        borders = np.flatnonzero(np.isin(row, special) | (np.diff(part, prepend=part[:1]) != 0))
        pieces = [
            piece[~np.isin(piece, special)] for piece in np.split(row[: int((part > 0).sum())], borders)
        ]
        pieces = [piece for piece in pieces if len(piece)]
        lengths += map(len, pieces)
        count += sum(map(len, pieces))
        size += sum(
            len(text.encode()) for text in tokenizer.decode_batch([piece.tolist() for piece in pieces])
        )
    return tuple(lengths), size / count if count else None

"""`python -m finetune.export_onnx --model=DIR`: model.onnx of a masked language model, a classifier or an embedder.

DIR is a folder in transformers' format, such as `python -m pretrain.export` writes, or a fine-tuning workdir.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from base import formatting, terminal
from base.errors import UserError
from base.plain_arguments import Arguments
from base.storage import is_remote
from data.sources.compressed_lines import read_lines
from data.sources.documents import FlawError, decode
from finetune.job import MODEL
from finetune.kinds import EMBEDDING
from finetune.onnx import INT8_NAME, SUFFIXES, OnnxClassifier, export_onnx
from finetune.onnx_embedder import export_embedder
from finetune.onnx_int8 import write_int8
from pretrain.models.huggingface import CONFIG, class_names, parse_config, read_config
from pretrain.runtime import processes
from pretrain.runtime.workdir import MODEL_FILE
from tokenizer.load import load as load_tokenizer

ROWS, LENGTH, SHARE, BATCH = 256, 128, 0.15, 16
"""Of the measurement: most rows, tokens of a row, the share of them that is hidden, rows of a batch."""


@dataclass(frozen=True)
class Cost:
    """What a file loses at hidden tokens."""

    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share of hidden tokens that are the most probable one."""


def folder_of(model: str) -> Path:
    """The folder that --model names: itself, or the model of a fine-tuning run's workdir.

    Raises:
      UserError: there is none, or it is a run of pretraining, or in a bucket.
    """
    if is_remote(model):
        raise UserError(f"--model={model}: ONNX is written to a file system; copy the folder first")
    path = Path(model).expanduser()
    if (path / MODEL / CONFIG).is_file():
        return path / MODEL
    if (path / MODEL_FILE).is_file():
        raise UserError(
            f"--model={model} is a run of pretraining; export it first: python -m pretrain.export --workdir={model} "
            "--out=HF_DIR"
        )
    if not (path / CONFIG).is_file():
        raise UserError(
            f"--model={model} has no {CONFIG}; name a folder that pretrain.export or a fine-tuning run wrote"
        )
    return path


def hidden_rows(folder: Path, lines: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows of text with hidden tokens: the same for every call with the same tokenizer and text.

    Args:
      folder: of the model, with its tokenizer.
      lines: texts; each begins a row, and what is longer than a row is cut.

    Returns:
      tokens, attention (1 for tokens) and targets (-1 where nothing is hidden), int64 [R, S] each.

    Raises:
      UserError: there is no text.
    """
    tokenizer = load_tokenizer(str(folder))
    special = tokenizer.special
    room = parse_config(read_config(str(folder)), CONFIG).max_length
    length, random = min(LENGTH, room), np.random.default_rng(0)
    texts = [line for line in lines if line.strip()][:ROWS]
    if not texts:
        raise UserError("--text holds no text")
    tokens = np.full((len(texts), length), special.pad, np.int64)
    attention = np.zeros_like(tokens)
    for row, encoded in enumerate(tokenizer.encode(texts)):
        ids = [special.cls, *encoded[: length - 2], special.sep]
        tokens[row, : len(ids)], attention[row, : len(ids)] = ids, 1
    inside = (attention > 0) & ~np.isin(tokens, [each for each in special.ids if each != special.mask])
    hidden = inside & (random.random(tokens.shape) < SHARE)
    hidden[0, int(np.argmax(inside[0]))] |= inside[0].any()
    return {
        "tokens": np.where(hidden, special.mask, tokens),
        "attention": attention,
        "targets": np.where(hidden, tokens, -1),
    }


def cost_of(folder: Path, name: str, rows: dict[str, np.ndarray]) -> Cost:
    """The loss and accuracy of an ONNX masked language model at hidden tokens."""
    model, losses, right = OnnxClassifier(folder, name), [], []
    for start in range(0, len(rows["tokens"]), BATCH):
        tokens, attention, targets = (rows[each][start : start + BATCH] for each in rows)
        logits = model.logits(tokens, attention)[targets >= 0].astype(np.float64)
        wanted = targets[targets >= 0]
        highest = logits.max(axis=-1)
        normaliser = np.log(np.exp(logits - highest[:, None]).sum(axis=-1)) + highest
        losses.append(normaliser - logits[np.arange(len(wanted)), wanted])
        right.append(logits.argmax(axis=-1) == wanted)
    return Cost(float(np.concatenate(losses).mean()), float(np.concatenate(right).mean()))


def _lines(path: str) -> list[str]:
    try:
        return [decode(line).rstrip("\r\n") for line in read_lines(path)]
    except FlawError as flaw:
        raise UserError(f"--text={path}: {flaw}") from None


def _table(costs: dict[str, Cost]) -> Table:
    shown = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("file", "loss", "accuracy"):
        shown.add_column(name, justify="left" if name == "file" else "right")
    for name, cost in costs.items():
        shown.add_row(name, f"{cost.loss:.4f}", formatting.percent(cost.accuracy, 2))
    first, *others = costs.values()
    for last in others:
        points = 100 * (last.accuracy - first.accuracy)
        shown.add_row("cost of int8", f"{last.loss - first.loss:+.4f}", f"{points:+.2f}%")
    return shown


def _arguments(argv: Sequence[str]) -> Any:
    parser = Arguments(
        prog="python -m finetune.export_onnx", usage="python -m finetune.export_onnx --model=DIR [flags]"
    )
    parser.add_argument(
        "--model", default="", help="a folder in transformers' format, or a fine-tuning workdir"
    )
    parser.add_argument("--out", default="", help="the folder to write to; by default that of the model")
    parser.add_switch("--int8", f"also write {INT8_NAME}, with weights in int8")
    parser.add_argument(
        "--text",
        default="",
        help="a file of texts, one a line: print the loss of a masked language model on it",
    )
    values = parser.read(argv)
    if not values.model:
        raise UserError("no --model given: a folder in transformers' format, or a fine-tuning workdir")
    return values


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    values = _arguments(argv)
    folder = folder_of(values.model)
    names = class_names(read_config(str(folder)))
    is_masked_lm = any(name.endswith(SUFFIXES[-1]) for name in names)
    embeds = any(name.endswith(EMBEDDING.task_class) for name in names)
    rows = {}
    if values.text:
        if embeds:
            raise UserError(f"--text is for masked language models; {folder} gives vectors: leave it out")
        if not is_masked_lm:
            raise UserError(
                "--text is for masked language models; the score of a classifier's files: python -m finetune.evaluate "
                f"--model={values.model} --config.inference=onnx --int8"
            )
        rows = hidden_rows(folder, _lines(values.text))
    out = Path(values.out).expanduser() if values.out else folder
    files = [(export_embedder if embeds else export_onnx)(folder, out)]
    files += [write_int8(out)] if values.int8 else []
    for file in files:
        size = sum(each.stat().st_size for each in out.glob(f"{file.name}*"))
        terminal.say(f"{file} ({formatting.size(size)})")
    if rows:
        terminal.console().print(_table({file.name: cost_of(out, file.name, rows) for file in files}))
    return 0


if __name__ == "__main__":
    processes.run(main, alone=True)

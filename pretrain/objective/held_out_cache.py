"""The held-out rows of a run: read from the corpus once, then kept in its workdir.

Only one document in hundreds is held out. So a search for them reads much of the corpus. A resumed run skips it.
"""

import io
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from base import schema
from base.storage import check_damage
from data.config import DataConfig
from data.corpus import open_sources
from data.held_out_rows import evaluation_rows, held_out_documents
from data.source_protocol import Source
from data.sources import open_source
from pretrain.phases import Phase
from pretrain.runtime import processes
from pretrain.runtime.workdir import write_bytes
from tokenizer.load import Loaded

logger = logging.getLogger(__name__)

ARRAYS = ("tokens", "segments", "positions")
FEW_ROWS, FEW_DOCUMENTS = 20, 8
CHARACTERS_OF_A_TOKEN = 4
"""Estimated number of characters in a token, for use before there is a tokenizer."""


def check_held_out(data: DataConfig, seq_len: int, where: str = "config.data") -> None:
    """Refuse data without held-out documents, and warn if there are few, before the tokenizer is made from the others.

    Reads on until there are enough. `where` is the place of the data that messages name.

    Raises:
      UserError: there is no document to evaluate on.
    """
    documents = characters = tokens = 0
    for document in held_out_documents(data, where):
        documents += 1
        if isinstance(document, str):
            characters += len(document)
        else:
            tokens += len(document)
        if documents >= FEW_DOCUMENTS and tokens + characters // CHARACTERS_OF_A_TOKEN >= FEW_ROWS * seq_len:
            return
    sizes = [f"{size} {unit}" for size, unit in ((characters, "characters"), (tokens, "tokens")) if size]
    logger.warning(
        "only %d documents of %s are held out, too few to measure by; %s%s",
        documents,
        " and ".join(sizes) or "no text",
        _remedy(data, where),
        " now, before the tokenizer is made from the other documents" if characters else "",
    )


def held_out_rows(
    workdir: epath.Path, phase: Phase, tokenizer: Loaded, max_rows: int, *, warn: bool = True
) -> dict[str, np.ndarray]:
    """The rows that a phase is evaluated on, from WORKDIR/heldout_N.npz where it holds them, else from the corpus.

    Args:
      workdir: the run's folder.
      phase: the phase.
      tokenizer: the run's tokenizer.
      max_rows: the largest R.
      warn: whether to warn if there are few.

    Returns:
      tokens, segments, positions: int32 [R, S], 1 <= R <= max_rows; the same to the bit from either.

    Raises:
      UserError: there is no document to evaluate on.
    """
    rows = processes.first_then_all(
        lambda: _read_or_make(workdir, phase, tokenizer, max_rows), "reading the held-out rows"
    )
    if warn and processes.is_first():
        _warn_of_few(rows["tokens"], phase, tokenizer, max_rows)
    return rows


def _read_or_make(
    workdir: epath.Path, phase: Phase, tokenizer: Loaded, max_rows: int
) -> dict[str, np.ndarray]:
    """Read the rows from their file. If the file does not hold them, read them from the corpus and write the file."""
    data, file = phase.data, workdir / f"heldout_{phase.number}.npz"
    sources = _sources(data, phase.place("data"))
    key = _key(data, sources, tokenizer, phase.seq_len, max_rows)
    rows = _load(file, key)
    if rows is None:
        rows = evaluation_rows(
            data,
            tokenizer.encode,
            tokenizer.special,
            seq_len=phase.seq_len,
            max_rows=max_rows,
            sources=sources,
            where=phase.place("data"),
        )
        if processes.is_first():
            buffer = io.BytesIO()
            tokens, segments, positions = (rows[name] for name in ARRAYS)
            np.savez_compressed(
                buffer, key=np.array(key), tokens=tokens, segments=segments, positions=positions
            )
            write_bytes(file, buffer.getvalue())
    return rows


def _sources(data: DataConfig, where: str) -> list[Source] | None:
    """The opened sources of the held-out documents; None where none are held out, which `evaluation_rows` refuses."""
    if data.eval_source is not None:
        return [open_source(data.eval_source, f"{where}.eval_source")]
    return open_sources(data, where) if data.eval_fraction else None


def _key(
    data: DataConfig, sources: Sequence[Source] | None, tokenizer: Loaded, seq_len: int, max_rows: int
) -> str:
    """Everything that the rows depend on, as JSON."""
    deciding: dict[str, Any] = {
        "data": schema.as_dict(data),
        "corpus": [source.fingerprint() for source in sources or ()],
        "tokenizer": tokenizer.fingerprint(),
        "seq_len": seq_len,
        "max_rows": max_rows,
    }
    return json.dumps(deciding, sort_keys=True)


def _load(file: epath.Path, key: str) -> dict[str, np.ndarray] | None:
    """The rows in a file; None if there is no file. If it holds other rows or is damaged, log this and return None."""
    if not file.exists():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as kept:
            if kept["key"].item() == key:
                return {name: kept[name] for name in ARRAYS}
            flaw = "is of another config, tokenizer or corpus"
    except Exception as error:  # damage shows itself as errors of many kinds
        check_damage(error, os.fspath(file))
        flaw = f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
    logger.info("%s %s: the held-out rows are read from the corpus again", file, flaw)
    return None


def _warn_of_few(tokens: np.ndarray, phase: Phase, tokenizer: Loaded, max_rows: int) -> None:
    """Warn if the held-out rows `tokens` [R, S] are all that there are, and too few to measure by."""
    rows, documents = len(tokens), int((tokens == tokenizer.special.sep).sum())
    if rows == max_rows or (rows >= FEW_ROWS and documents >= FEW_DOCUMENTS):
        return
    logger.warning(
        "only %d row%s of %d document%s are held out: eval/loss, and which checkpoint is best, are mostly noise; %s",
        *(rows, "s" * (rows != 1), documents, "s" * (documents != 1)),
        _remedy(phase.data, phase.place("data")),
    )


def _remedy(data: DataConfig, where: str) -> str:
    if data.eval_source:
        return f"give {where}.eval_source more text"
    return f"raise {where}.eval_fraction={data.eval_fraction} or set {where}.eval_source"

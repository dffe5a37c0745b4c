"""A preparation from its configuration to `index.json`: stages that go on where they were stopped."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etils import epath

from base import schema
from base.errors import UserError
from base.storage import explained, is_remote, write_text
from data.config import DataConfig, leaf_sources
from data.corpus import open_sources
from data.held_out_documents import threshold
from data.prepare import steps, tokenizing
from data.prepare.config import PrepareConfig
from data.prepare.report import Report, make_report, report_json, seconds
from data.prepare.work import PART, Work, write_json
from data.prepared.index import INDEX, TOKENIZER, WORK, Index, Shard, SourceCounts, read_index
from data.source_protocol import Source
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.tokenizer_files import TOKENIZER as TOKENIZER_FILE
from tokenizer.train import train_tokenizer

logger = logging.getLogger(__name__)

SHARDS_OF_A_HOST = 8
"""A host copies ten at most: eight and a half on each side, and that in which the held-out documents end."""
MADE_FROM, REPORT = "made_from.json", "report.json"


@dataclass(frozen=True)
class Task:
    """What to prepare."""

    config: PrepareConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    seq_len: int
    """Tokens of the longest row of the run; the tokenizer's files name it."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation has made."""

    index: Index
    report: Report
    seconds: dict[str, float]
    """Processor time of each step; empty if it was prepared before."""


def prepare(
    task: Task, out: epath.Path, work_folder: Path | None, workers: int, *, keep_work: bool = False
) -> Prepared:
    """Prepare a corpus, or go on with a preparation that was stopped. The caller holds the lock of `out`.

    Args:
      task: what to prepare.
      out: the folder for the shards, local or in a bucket.
      work_folder: a local folder for what the stages leave for each other; None for OUT/work.
      workers: number of processes; the output does not depend on it.
      keep_work: keep the cleaned texts.

    Raises:
      UserError: bad input, a folder with another corpus, or no document left.
    """
    if task.data.source == "prepared" or any(member.source == "prepared" for member in task.data.mix):
        raise UserError("config.data.source='prepared' is prepared already; set the source of the text")
    if work_folder is None and is_remote(out):
        raise UserError(f"--out={out} is in a bucket; set --work to a local folder with room for the corpus")
    sources = open_sources(task.data)
    made_from = fingerprint(task, sources)
    work = Work(Path(os.fspath(out)) / WORK if work_folder is None else work_folder)
    if (out / INDEX).exists():
        found = _as_before(out, made_from)
        if not keep_work:
            work.remove()
        return found
    _begin(work, made_from)
    shards = [(number, shard) for number, source in enumerate(sources) for shard in range(len(source.shards))]
    tasks = len(shards) * task.config.parts
    logger.info("reading and cleaning %d shards of the source", len(shards))
    steps.clean(work, task.data, task.config, shards, workers)
    logger.info("looking for duplicates")
    steps.find(work, task.config, tasks)
    _check_any(work, tasks)
    tokenizer = _tokenizer(task, out / TOKENIZER, work, tasks)
    ids = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    logger.info("tokenizing")
    tokenizing.tokenize(work, out / TOKENIZER, ids, tasks, workers)
    tokens = sum(work.json(tokenizing.RUNS, rank)["tokens"] for rank in range(tasks))
    count = shard_count(task.config, tokens)
    logger.info("writing %d shards of %d tokens", count, tokens)
    tokenizing.write_shards(work, out, ids, count, workers)
    names = _names(task.data)
    report = make_report(work, tasks, names, task.config.steps)
    times = seconds(work, tasks)
    index = _index(work, count, names, ids, tokenizer.fingerprint(), made_from)
    if not is_remote(out):
        for part in Path(out).glob(f"*{PART}"):  # of a process that was killed
            part.unlink()
    with explained(out, "--out"):
        write_text(out / REPORT, report_json(report))
        write_text(out / INDEX, index.to_json())
    if not keep_work:
        work.remove()
    return Prepared(index, report, times)


def fingerprint(task: Task, sources: Sequence[Source]) -> str:
    """Hex digest of everything that the shards depend on."""
    values = [
        [source.fingerprint() for source in sources],
        schema.as_dict(task.config),
        schema.as_dict(task.tokenizer),
        task.data.eval_fraction if not task.tokenizer.path else None,
        task.seq_len,
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def shard_count(config: PrepareConfig, tokens: int) -> int:
    """The number of shards."""
    if config.shards:
        return config.shards
    return max(-(-tokens // config.shard_tokens), SHARDS_OF_A_HOST * config.hosts if config.hosts > 1 else 1)


def _as_before(out: epath.Path, made_from: str) -> Prepared:
    index = read_index(out, f"--out={out}")
    if index.made_from != made_from:
        raise UserError(
            f"--out={out} holds a corpus that was prepared with another config.prepare, config.tokenizer or "
            "config.data; set another --out, or delete that folder"
        )
    return Prepared(index, json.loads((out / REPORT).read_text()), {})


def _begin(work: Work, made_from: str) -> None:
    file = work.folder / MADE_FROM
    if not file.exists():
        write_json(file, made_from)
    elif json.loads(file.read_text()) != made_from:
        raise UserError(
            f"{work.folder} holds the unfinished preparation of another config.prepare, config.tokenizer or "
            "config.data; set it back, delete that folder, or set another --out"
        )


def _check_any(work: Work, tasks: int) -> None:
    """Refuse to go on without a document.

    Raises:
      UserError: the step that dropped the most is named.
    """
    left = dropped = 0
    reasons: dict[str, int] = {}
    for task in range(tasks):
        facts = work.json(steps.CLEAN, task)
        left += facts["documents"]
        dropped += facts["read"]
        for name, counts in facts["steps"].items():
            for reason, count in counts["dropped"].items():
                reasons[f"{name}: {reason}"] = reasons.get(f"{name}: {reason}", 0) + count
        for reason, count in facts["dropped"].items():
            reasons[f"source: {reason}"] = reasons.get(f"source: {reason}", 0) + count
    if left:
        return
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    shown = ", ".join(f"{reason} ({count:,})" for reason, count in most)
    raise UserError(
        f"none of the {dropped:,} documents is left after the steps; most were dropped by {shown or 'no step'}; relax "
        "config.prepare and delete the work folder, or leave steps out of config.prepare.steps"
    )


def _tokenizer(task: Task, folder: epath.Path, work: Work, tasks: int) -> Loaded:
    """The tokenizer of the shards, in OUT/tokenizer: that of config.tokenizer.path, or one trained on what is left."""
    if (folder / TOKENIZER_FILE).exists():
        return load(str(folder))
    if task.tokenizer.path:
        loaded = load(task.tokenizer.path)
        loaded.save(folder)
        return loaded
    logger.info("training the tokenizer on what is left")
    below = threshold(0.0 if task.data.eval_source else task.data.eval_fraction)
    texts = (
        text for rank in range(tasks) for digest, text in tokenizing.kept_texts(work, rank) if digest >= below
    )
    return train_tokenizer(texts, task.tokenizer, folder, model_max_length=task.seq_len, progress=True)


def _names(data: DataConfig) -> list[str]:
    """Names of the sources for the report: kind, and what tells them apart; never a path."""
    names = []
    for number, source in enumerate(leaf_sources(data)):
        parts = [source.source, source.name, source.subset]
        names.append(" ".join([f"{number}:", *(part for part in parts if part)]))
    return names


def _index(work: Work, shards: int, names: Sequence[str], ids: str, tokenizer: str, made_from: str) -> Index:
    facts = [work.json(tokenizing.SHARDS, rank) for rank in range(shards)]
    sources = []
    for number, name in enumerate(names):
        counts = [each["sources"].get(str(number), (0, 0)) for each in facts]
        sources.append(SourceCounts(name, sum(count for count, _ in counts), sum(size for _, size in counts)))
    return Index(
        ids=ids,
        tokenizer=tokenizer,
        made_from=made_from,
        sources=tuple(sources),
        shards=tuple(Shard(**each["shard"]) for each in facts),
    )

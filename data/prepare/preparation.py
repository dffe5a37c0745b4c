"""A preparation from its configuration to `index.json`: stages that go on where they were stopped."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from base.json_files import json_object, parsed
from base.storage import explained, is_remote, write_text
from data.config import DataConfig, leaf_sources
from data.corpus import open_sources
from data.held_out_documents import threshold
from data.prepare import steps, tokenizing
from data.prepare.clusters import Workers
from data.prepare.config import PrepareConfig
from data.prepare.report import Report, make_report, report_json, seconds
from data.prepare.work import PART, Work, write_json, write_whole
from data.prepared.index import INDEX, TOKENIZER, WORK, Index, Shard, SourceCounts, read_index
from data.source_protocol import Source
from data.sources.paths import find_files, open_file
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.tokenizer_files import TOKENIZER as TOKENIZER_FILE
from tokenizer.train import train_tokenizer

logger = logging.getLogger(__name__)

SHARDS_OF_A_HOST = 8
"""A host copies ten at most: eight and a half on each side, and that in which the held-out documents end."""
MADE_FROM, REPORT = "made_from.json", "report.json"
FIELDS = "fields.json"
"""The file of the work folder with the fields of its preparation, which names those that another has otherwise."""
TRAINED = "tokenizer.json"
"""The file of the work folder that tells that the output's tokenizer is whole, and of this preparation."""
UNFINISHED = re.compile(
    rf"shard-\d{{5,}}-of-\d{{5,}}\.(array_record|lengths)\.\d+{re.escape(PART)}", re.ASCII
)
"""Names of files of the output that a process has left unfinished."""


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
    task: Task, out: epath.Path, work_folder: Path | None, workers: Workers, *, keep_work: bool = False
) -> Prepared:
    """Prepare a corpus, or go on with a preparation that was stopped. The caller holds the lock of `out`.

    Args:
      task: what to prepare.
      out: the folder for the shards, local or in a bucket.
      work_folder: a local folder for what the stages leave for each other; None for `out`. They have a folder of
        their own in it, which is removed at the end.
      workers: number of processes, or a cluster; the output does not depend on it.
      keep_work: keep the cleaned texts.

    Raises:
      UserError: bad input, a folder with another corpus, or no document left.
    """
    if task.data.source == "prepared" or any(member.source == "prepared" for member in task.data.mix):
        raise UserError("config.data.source='prepared' is prepared already; set the source of the text")
    if work_folder is None and is_remote(out):
        raise UserError(f"--out={out} is in a bucket; set --work to a local folder with room for the corpus")
    sources = open_sources(task.data)
    made_from, texts = fingerprints(task, sources)
    work = Work(Path(out if work_folder is None else work_folder) / WORK)
    if (out / INDEX).exists():
        found = _as_before(out, made_from, task)
        if not keep_work and _begun(work) == made_from:
            work.remove()
        return found
    _begin(work, made_from, texts, task)
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
            if UNFINISHED.fullmatch(part.name):
                part.unlink()
    with explained(out, "--out"):
        write_text(out / REPORT, report_json(report))
        write_text(out / INDEX, index.to_json())
    if not keep_work:
        work.remove()
    return Prepared(index, report, times)


def fingerprints(task: Task, sources: Sequence[Source]) -> tuple[str, str]:
    """Hex digests of everything that the shards depend on, and of what the cleaned texts do: no tokenizer."""
    texts = _of_texts(task, sources)
    return _digest(texts + _of_tokens(task)), _digest(texts)


def _of_texts(task: Task, sources: Sequence[Source]) -> list[Any]:
    return [
        [source.fingerprint() for source in sources],
        schema.as_dict(task.config),
        _overlap_digests(task.config),
    ]


def _of_tokens(task: Task) -> list[Any]:
    named, trained = task.tokenizer.path, schema.as_dict(task.tokenizer)
    del trained["sample_from"]  # it has no effect here
    # A tokenizer that is trained depends on its config, on what is held out, and names the length of rows.
    return [load(named).fingerprint() if named else [trained, _held_out(task), task.seq_len]]


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _held_out(task: Task) -> float:
    """The share of the corpus that a tokenizer is not trained on."""
    return 0.0 if task.data.eval_source else task.data.eval_fraction


def _overlap_digests(config: PrepareConfig) -> list[str]:
    """Digests of the evaluation's files."""
    digests = []
    if "overlap" in config.steps:
        for file in find_files(config.overlap.files, "config.prepare.overlap.files"):
            with open_file(file.path) as opened:
                digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests


def _decides(task: Task) -> str:
    """The settings that decide the shards, for messages."""
    own = "" if task.tokenizer.path else "config.seq_len, "
    return f"config.prepare, config.tokenizer, {own}config.data or their files"


def shard_count(config: PrepareConfig, tokens: int) -> int:
    """The number of shards."""
    if config.shards:
        return config.shards
    return max(-(-tokens // config.shard_tokens), SHARDS_OF_A_HOST * config.hosts if config.hosts > 1 else 1)


def _as_before(out: epath.Path, made_from: str, task: Task) -> Prepared:
    index = read_index(out, f"--out={out}")
    if index.made_from != made_from:
        raise UserError(
            f"--out={out} holds a corpus that was prepared with another {_decides(task)}; set another --out, or "
            "delete that folder"
        )
    try:
        report = json_object(out / REPORT)
        if missing := {"steps", "total", "sources"} - set(report):
            raise ValueError(f"it lacks {min(missing)!r}")
    except (FileNotFoundError, ValueError) as error:
        flaw = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        raise UserError(
            f"{out / REPORT} {flaw}; the shards are whole: train from them, or delete {out / INDEX} to prepare again"
        ) from error
    return Prepared(index, report, {})


def _begun(work: Work) -> str | None:
    """What the work folder was begun for; None if it was not begun.

    Raises:
      UserError: the file that tells it is damaged.
    """
    file = work.folder / MADE_FROM
    try:
        return str(parsed(file.read_bytes()))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}); delete the folder {work.folder} to begin anew"
        ) from error


def _begin(work: Work, made_from: str, texts: str, task: Task) -> None:
    begun = _begun(work)
    fields = {"prepare": schema.as_dict(task.config), "tokenizer": schema.as_dict(task.tokenizer)}
    if begun not in (None, made_from):
        saved = _saved_fields(work)
        if saved.get("texts") != texts or (work.folder / TRAINED).exists():
            names = list(schema.differences(saved.get("fields", fields), fields).items())[:3]
            other = ", ".join(f"config.{name}={was!r}" for name, (was, _) in names)
            raise UserError(
                f"{work.folder} holds an unfinished preparation with {other or f'another {_decides(task)}'}; set it "
                "back, delete that folder, or set another --out"
            )
        logger.info("the tokenizer's fields have changed; documents that are cleaned stay")
    write_json(work.folder / FIELDS, {"texts": texts, "fields": fields})
    write_json(work.folder / MADE_FROM, made_from)


def _saved_fields(work: Work) -> dict[str, Any]:
    """What `_begin` has left; nothing where an older version or a crash has left none."""
    try:
        return json_object(work.folder / FIELDS)
    except (FileNotFoundError, ValueError):
        return {}


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
        f"config.prepare and delete {work.folder}, or leave steps out of config.prepare.steps"
    )


def _tokenizer(task: Task, folder: epath.Path, work: Work, tasks: int) -> Loaded:
    """The tokenizer of the shards, in OUT/tokenizer: that of config.tokenizer.path, or one trained on what is left."""
    done = work.folder / TRAINED
    if done.exists() and (folder / TOKENIZER_FILE).exists():
        return load(str(folder))
    if task.tokenizer.path:
        loaded = load(task.tokenizer.path)
        loaded.save(folder)
    else:
        loaded = _trained(task, folder, work, tasks)
    write_whole(done, [loaded.fingerprint().encode()])
    return loaded


def _trained(task: Task, folder: epath.Path, work: Work, tasks: int) -> Loaded:
    logger.info("training the tokenizer on what is left")
    below = threshold(_held_out(task))
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

"""The pipelines of datatrove: readers of our sources, the steps of one document, and the writers of each stage."""

import functools
import multiprocessing
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from base.errors import UserError
from data.config import DataConfig
from data.corpus import open_sources
from data.held_out_documents import digest
from data.prepare.clusters import Workers
from data.prepare.config import NearConfig, PrepareConfig
from data.prepare.near_duplicates import KEPT, REASONS, MinHash, find_duplicates, split
from data.prepare.rules import Rule, StepCounts, document_rules
from data.prepare.work import TextWriter, Work, read_array, write_array, write_json
from data.source_protocol import BLANK, Source

try:
    from datatrove.data import Document
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from loguru import logger
except ImportError:
    raise UserError(
        "python -m data.prepare needs datatrove; install it: pip install 'unmask[prepare]'"
    ) from None

logger.disable(
    "datatrove"
)  # it reports each task and the traceback of each error; the command says both in its way

CLEAN, UNIQUE = "clean", "unique"
RECORDS = 64
"""Records in a row that belong to one part of a shard."""
Documents = Iterator[Document]


class Executor(LocalPipelineExecutor):
    """datatrove's executor on one machine.

    One worker runs in this process. More have a pool alone: datatrove's own counts tasks in a further process, which it
    forks from this one and its threads.
    """

    def run(self) -> None:
        """Run the tasks that have not ended."""
        ranks = self.get_incomplete_ranks()
        if self.workers == 1:
            for rank in ranks:
                self._run_for_rank(rank)
        elif ranks:
            with multiprocessing.get_context("forkserver").Pool(min(self.workers, len(ranks))) as pool:
                for _ in pool.imap_unordered(self._run_for_rank, ranks):
                    pass


def execute(work: Work, stage: str, pipeline: Sequence[Any], tasks: int, workers: Workers) -> None:
    """Run a stage: the tasks of it that have not ended, on several processes or machines.

    Raises:
      UserError: a task found bad input.
    """
    folder = str(work.folder / stage / "tasks")
    if not isinstance(workers, int):
        workers.run(pipeline, tasks, folder)
        return
    executor = Executor(pipeline=list(pipeline), tasks=tasks, workers=min(workers, tasks), logging_dir=folder)
    executor.run()


class Step(PipelineStep):
    """A step of ours; its counts begin with each task."""

    type = "Unmask"


class SourceReader(Step):
    """Reads the documents of a shard of one of our sources, or of a part of it; that is a task."""

    name = "reader"

    def __init__(self, data: DataConfig, shards: Sequence[tuple[int, int]], parts: int):
        """Read part `rank % parts` of shard `shards[rank // parts]`: (number of the source, number of the shard)."""
        super().__init__()
        self._data, self._shards, self._parts = data, tuple(shards), parts
        self.counts: dict[str, Any] = {}

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Yield the documents that the source keeps; count the others by reason."""
        number, shard = self._shards[rank // self._parts]
        dropped: dict[str, int] = {}
        self.counts.clear()
        self.counts.update(source=number, read=0, dropped=dropped)
        for record in _opened(self._data)[number].read(shard):
            if record.dropped == BLANK or record.number // RECORDS % self._parts != rank % self._parts:
                continue
            self.counts["read"] += 1
            if record.dropped:
                dropped[record.dropped] = dropped.get(record.dropped, 0) + 1
            else:
                yield Document(text=record.text, id=str(record.number))


@functools.lru_cache(maxsize=1)
def _opened(data: DataConfig) -> list[Source]:
    """The sources, opened once in each process."""
    return open_sources(data)


class RuleStep(Step):
    """Applies one rule to each document."""

    def __init__(self, name: str, rule: Rule):
        """Apply `rule`."""
        super().__init__()
        self.name, self._rule = name, rule
        self.counts = StepCounts()
        self.dropped: dict[str, int] = {}

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Yield the documents that the rule keeps."""
        counts = self.counts = StepCounts()
        dropped = self.dropped = {}
        for document in data:
            begin = time.thread_time()
            text, reason = self._rule(document.text)
            counts.seconds += time.thread_time() - begin
            counts.documents += 1
            counts.characters += len(document.text)
            if reason:
                dropped[reason] = dropped.get(reason, 0) + 1
                continue
            if text is not document.text and text != document.text:
                counts.changed += 1
                document.text = text
            yield document

    def facts(self) -> dict[str, Any]:
        """What the step did in this task."""
        return {**asdict(self.counts), "dropped": dict(sorted(self.dropped.items()))}


class CleanWriter(Step):
    """Writes the texts that are left, their digests and the hashes of their bands, and the counts of all steps."""

    name = "writer"

    def __init__(
        self, folder: Path, reader: SourceReader, rules: Sequence[RuleStep], near: NearConfig | None
    ):
        """Write for the tasks of `reader`; `near` is None without near-duplicates."""
        super().__init__()
        self._work, self._reader, self._rules = Work(folder), reader, tuple(rules)
        self._near = near

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Write the files of one task."""
        minhash = MinHash(self._near) if self._near else None
        writer = TextWriter(self._work.path(CLEAN, rank, ".jsonl.zst"))
        digests, bands = array("Q"), array("Q")
        characters, seconds = 0, 0.0
        for document in data:
            writer.write(document.text)
            digests.append(digest(document.text))
            characters += len(document.text)
            if minhash:
                begin = time.thread_time()
                bands.frombytes(minhash(document.text).tobytes())
                seconds += time.thread_time() - begin
        writer.close()
        write_array(self._work.path(CLEAN, rank, ".digests.npy"), np.array(digests, np.uint64))
        if self._near:
            hashed = np.array(bands, np.uint64).reshape(-1, self._near.bands)
            write_array(self._work.path(CLEAN, rank, ".bands.npy"), np.ascontiguousarray(hashed.T))
        facts = {
            **self._reader.counts,
            "steps": {rule.name: rule.facts() for rule in self._rules},
            "documents": len(digests),
            "characters": characters,
            "minhash_seconds": seconds,
        }
        write_json(self._work.path(CLEAN, rank, ".json"), facts)
        yield from ()


class DuplicateFinder(Step):
    """Finds the duplicates among the documents of all tasks; one task."""

    name = "duplicates"

    def __init__(self, folder: Path, tasks: int, config: PrepareConfig):
        """Look at the files of `tasks` tasks of the stage before."""
        super().__init__()
        self._work, self._tasks, self._config = Work(folder), tasks, config

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Documents:
        """Write, for each task of the stage before, what to drop of it."""
        work, steps = self._work, self._config.steps
        facts = [work.json(CLEAN, task) for task in range(self._tasks)]
        sizes = [each["documents"] for each in facts]
        sources = np.repeat([each["source"] for each in facts], sizes)

        def joined(suffix: str, row: int | None = None) -> np.ndarray:
            parts = [read_array(work.path(CLEAN, task, suffix)) for task in range(self._tasks)]
            return np.concatenate([part if row is None else part[row] for part in parts])

        digests = joined(".digests.npy") if "exact" in steps else None
        bands = range(self._config.near.bands if "near" in steps else 0)
        found = find_duplicates(digests, (joined(".bands.npy", band) for band in bands), sources)
        for task, reasons in enumerate(split(found, sizes)):
            write_array(work.path(UNIQUE, task, ".npy"), reasons)
            codes, counts = np.unique(reasons, return_counts=True)
            dropped: dict[str, dict[str, int]] = {}
            for code, count in zip(codes.tolist(), counts.tolist()):
                if code != KEPT:
                    step, reason = REASONS[code]
                    dropped.setdefault(step, {})[reason] = count
            write_json(work.path(UNIQUE, task, ".json"), dropped)
        yield from ()


def clean(
    work: Work, data: DataConfig, config: PrepareConfig, shards: Sequence[tuple[int, int]], workers: Workers
) -> None:
    """The first stage: read the sources, and apply the steps that look at one document."""
    reader = SourceReader(data, shards, config.parts)
    rules = [RuleStep(name, rule) for name, rule in document_rules(config)]
    near = config.near if "near" in config.steps else None
    pipeline = [reader, *rules, CleanWriter(work.folder, reader, rules, near)]
    execute(work, CLEAN, pipeline, len(shards) * config.parts, workers)


def find(work: Work, config: PrepareConfig, tasks: int) -> None:
    """The second stage: find the duplicates among all documents."""
    execute(work, UNIQUE, [DuplicateFinder(work.folder, tasks, config)], 1, 1)

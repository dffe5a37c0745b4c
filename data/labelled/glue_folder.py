"""GLUE tasks from a folder of its tsv files, as the benchmark distributes them, plain or compressed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from base.errors import UserError
from data.labelled.classes import Classes
from data.labelled.config import LabelledConfig
from data.labelled.example_rows import Columns, collect
from data.labelled.examples import Examples, Limits, glue_examples
from data.labelled.labels import as_array, read_class, read_score
from data.labelled.tables import delimited_rows
from data.labelled.tasks import Task
from data.sources.paths import File, walk_files

DEPTH = 2
COMPRESSIONS = ("", ".gz", ".zst")
STAND_INS = ("_subset", "_unofficial")
"""What the name of a file ends in that stands for an official one that cannot be had."""


@dataclass(frozen=True)
class Layout:
    """Where GLUE's tsv files keep a task."""

    folders: tuple[str, ...]
    texts: tuple[str, ...] = ("sentence1", "sentence2")
    label: str = "label"
    id: str = "index"
    """The column with GLUE's index, in the files that have one."""
    headless: tuple[str, ...] = ()
    """Columns of the training and development file, where they have no header."""
    skip_ragged: bool = False
    """Whether the official files have broken rows, which everyone who reads them passes over."""


LAYOUTS = {
    "cola": Layout(("CoLA",), ("sentence",), headless=("source", "label", "mark", "sentence")),
    "mnli": Layout(("MNLI",), label="gold_label"),
    "mrpc": Layout(("MRPC",), ("#1 String", "#2 String"), "Quality"),
    "qnli": Layout(("QNLI",), ("question", "sentence")),
    "qqp": Layout(("QQP",), ("question1", "question2"), "is_duplicate", "id", skip_ragged=True),
    "rte": Layout(("RTE",)),
    "sst2": Layout(("SST-2",), ("sentence",)),
    "stsb": Layout(("STS-B",), label="score"),
    "wnli": Layout(("WNLI",)),
    "ax": Layout(("AX", "diagnostic")),
}


def read_folder(
    config: LabelledConfig, task: Task, splits: Collection[str], limits: Limits
) -> dict[str, Examples]:
    """Splits of a task from the files below config.data.path; a test file that is not there is left out.

    Where an official file is absent and one is there that says by its name that it stands in (`train_subset.tsv`,
    `dev_unofficial.tsv`), that is read, and its examples say so.

    Raises:
      UserError: no such folder or file, or a file that is not as GLUE's.
    """
    if not config.path:
        raise UserError(
            "config.data.path is empty; set it to the folder that holds CoLA, MRPC, ... in GLUE's layout"
        )
    layout = LAYOUTS[task.dataset]
    files = [file for file in walk_files(config.path, depth=DEPTH) if "/" in file.name]
    there = [file for file in files if PurePosixPath(file.name).parts[0] in layout.folders]
    if not there:
        names = sorted({PurePosixPath(file.name).parts[0] for file in files})
        raise UserError(
            f"config.data.path={config.path!r} has no folder {' or '.join(layout.folders)} with files; "
            f"it should be the folder that holds CoLA, MRPC, ...; folders there: {', '.join(names[:20]) or 'none'}"
        )
    found = {}
    for split in splits:
        stem = _stem(task, split)
        file = _find(there, stem)
        if file is not None:
            found[split] = _read(file, stem, task, split, layout, limits.of(task, split))
        elif split not in task.tests:
            names = [PurePosixPath(file.name).name for file in there]
            raise UserError(
                f"config.data.path={config.path!r} has no {layout.folders[0]}/{stem}.tsv; files there: "
                f"{', '.join(names)}"
            )
    return found


def _stem(task: Task, split: str) -> str:
    """A split's file, without .tsv."""
    return "diagnostic" if task.dataset == "ax" else split.replace("validation", "dev")


def _find(files: Sequence[File], stem: str) -> File | None:
    """The official file of a split, else one that stands in for it."""
    by_name = {PurePosixPath(file.name).name: file for file in files}
    names = [f"{stem}{ending}.tsv{packed}" for ending in ("", *STAND_INS) for packed in COMPRESSIONS]
    return next((by_name[name] for name in names if name in by_name), None)


def _read(file: File, stem: str, task: Task, split: str, layout: Layout, limit: int | None) -> Examples:
    labelled = split not in task.tests
    header = layout.headless if labelled and layout.headless else None
    columns = Columns(layout.texts, layout.label if labelled else "", layout.id)
    rows = delimited_rows(
        file.path, columns.needed, quoted=False, header=header, skip_ragged=layout.skip_ragged
    )
    read_label = (
        (read_class(Classes(task.labels, ids=True), "") if task.labels else read_score(""))
        if labelled
        else None
    )
    collected = collect(rows, columns, read_label, limit, file.path)
    return glue_examples(
        task,
        split,
        collected.texts,
        as_array(collected.labels, task.labels) if labelled else None,
        collected.ids,
        origin=f"folder {file.name}",
        limit=limit,
        same_file=PurePosixPath(file.name).name.split(".")[0] == stem,
    )

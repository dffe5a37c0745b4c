"""GLUE tasks from a folder of GLUE's tsv files, plain or compressed."""

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
"""Endings in the name of a file that replaces an official file which is not available."""


@dataclass(frozen=True)
class Layout:
    """Folder names and columns of a task in GLUE's tsv files."""

    folders: tuple[str, ...]
    texts: tuple[str, ...] = ("sentence1", "sentence2")
    label: str = "label"
    id: str = "index"
    """Column of GLUE's index, in files that have it."""
    headless: tuple[str, ...] = ()
    """Columns of the training and development files, if these files have no header."""
    skip_ragged: bool = False
    """Whether the official files have broken rows. Every reader of the task skips them."""


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
    """Read splits of a task from the files in config.data.path; a missing test file is left out.

    If an official file is missing, a replacement (`train_subset.tsv`, `dev_unofficial.tsv`) is read. The origin of its
    examples then tells so.

    Raises:
      UserError: a folder or file is missing, or a file does not have GLUE's layout.
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
    examples = {}
    for split in splits:
        stem = _stem(task, split)
        file = _find(there, stem)
        if file is not None:
            examples[split] = _read(file, stem, task, split, layout, limits.of(task, split))
        elif split not in task.tests:
            names = [PurePosixPath(file.name).name for file in there]
            raise UserError(
                f"config.data.path={config.path!r} has no {layout.folders[0]}/{stem}.tsv; files there: "
                f"{', '.join(names)}"
            )
    return examples


def _stem(task: Task, split: str) -> str:
    """Name of a split's file, without .tsv."""
    return "diagnostic" if task.dataset == "ax" else split.replace("validation", "dev")


def _find(files: Sequence[File], stem: str) -> File | None:
    """The official file of a split, or else a replacement; None if there is neither."""
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

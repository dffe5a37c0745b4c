"""Test-set predictions in the format of a GLUE submission, and a check of a submission.

The rules are from gluebenchmark.com. A submission is one zip without folders. It has one tab-separated file for each
test set (MNLI has two) and one for the diagnostic set. A file has the header `index<TAB>prediction` and one line for
each example of the test set, numbered from 0. A prediction is the name of a class for MNLI, QNLI, RTE and AX, a number
for STS-B, and the id of a class for the other tasks.

`python -m finetune.submission FILE.zip` checks a submission.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Num

from base import terminal
from base.command_line import run
from base.errors import UserError
from data.labelled.tasks import SCORE_RANGE, TASKS, Task
from data.sources.paths import open_file
from pretrain.runtime.workdir import write_text

HEADER = "index\tprediction"
SCORE_DECIMALS = 3
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a zip. It is fixed, so that the same predictions give the same bytes."""


class WantedFile(NamedTuple):
    """A file of a submission: the predictions of one test set."""

    rows: int
    """Number of examples in the test set."""
    predictions: tuple[str, ...]
    """The allowed predictions, by the class's id; () if a prediction is a number."""


def _wanted(task: Task, split: str) -> WantedFile:
    ids = tuple(str(index) for index in range(len(task.labels)))
    return WantedFile(task.rows[split], task.labels if task.submits_names else ids)


FILES: Mapping[str, WantedFile] = MappingProxyType(
    {file: _wanted(task, split) for task in TASKS.values() for split, file in task.submissions.items()}
)
"""Every file of a submission, by its name."""


def write_predictions(
    folder: epath.Path, task: Task, split: str, ids: Sequence[int | str], predictions: Num[np.ndarray, "n"]
) -> epath.Path:
    """Write a test set's predictions to its file in `folder`, in the order of GLUE's index.

    Args:
      folder: the folder for the files of a submission; it is made if it does not exist.
      task: a GLUE task.
      split: the test set, such as 'test_matched'.
      ids: GLUE's index of each example, in any order, as in `Examples.ids`.
      predictions: class ids or scores [n], one for each example; scores are clipped to 0..5.

    Returns:
      The file's path.

    Raises:
      UserError: the ids are not the numbers from 0 to n - 1, or a prediction is not finite.
    """
    name = task.submissions[split]
    if set(ids) != set(range(len(ids))):
        raise UserError(
            f"{name}: the examples of {task.title} {split} are not numbered 0 to {len(ids) - 1}, as GLUE's are; "
            "read the official test set, see config.data.source"
        )
    if not np.isfinite(predictions).all():
        raise UserError(
            f"{name}: a prediction is {predictions[~np.isfinite(predictions)][0]}; the model has diverged"
        )
    written = _written(FILES[name], predictions)
    by_index = dict(zip(ids, written, strict=True))
    lines = [f"{index}\t{by_index[index]}" for index in range(len(ids))]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / name, "\n".join([HEADER, *lines]) + "\n")
    return folder / name


def write_zip(folder: epath.Path, path: epath.Path) -> list[str]:
    """Zip the files of a submission that are in `folder`.

    Returns:
      The names of the missing files; GLUE refuses a submission without them.
    """
    content = io.BytesIO()
    missing = []
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            if (folder / name).exists():
                info = zipfile.ZipInfo(name, EARLIEST)
                archive.writestr(info, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
            else:
                missing.append(name)
    path.write_bytes(content.getvalue())
    return missing


def check_submission(path: str) -> list[str]:
    """Check a submission by GLUE's rules.

    Args:
      path: the zip, local or gs://.

    Returns:
      One line for each fault that GLUE would refuse; [] for a correct submission.

    Raises:
      UserError: the file does not exist, or it is not a zip.
    """
    with open_file(path) as opened:
        content = io.BytesIO(opened.read())
    try:
        with zipfile.ZipFile(content) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            faults = list(_check_names(names))
            for name in FILES:
                if name in names:
                    faults += [f"{name}{fault}" for fault in _check_file(archive, name)]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: {error}; it should be a zip of {', '.join(FILES)}") from None
    return faults


def main(argv: Sequence[str]) -> int:
    """Check the submission named on the command line. The exit status is 1 if it has a fault."""
    if {"--help", "-h"} & {*argv[1:]}:
        terminal.say(__doc__ or "")
        return 0
    if len(argv) != 2 or argv[1].startswith("-"):
        raise UserError("name one zip to check: python -m finetune.submission FILE.zip")
    faults = check_submission(argv[1])
    for fault in faults:
        terminal.say(fault)
    if faults:
        terminal.say(f"{argv[1]}: {len(faults)} faults; GLUE would refuse it", error=True)
        return 1
    terminal.say(f"{argv[1]}: {len(FILES)} files, as GLUE wants them")
    return 0


def _written(wanted: WantedFile, predictions: np.ndarray) -> list[str]:
    if wanted.predictions:
        return [wanted.predictions[int(index)] for index in predictions]
    return [f"{score:.{SCORE_DECIMALS}f}" for score in np.clip(predictions, *SCORE_RANGE)]


def _check_names(names: Sequence[str]) -> Iterator[str]:
    for name in FILES:
        if name not in names:
            yield f"{name}: missing"
        elif names.count(name) > 1:
            yield f"{name}: {names.count(name)} files have this name"
    for name in names:
        if name not in FILES:
            base = PurePosixPath(name).name
            hint = f"it should be {base}, in no folder" if base in FILES else "GLUE has no such file"
            yield f"{name}: {hint}"


def _check_file(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """The faults of one file. Of several faults of the same kind, only the first is described."""
    try:
        lines = [line.decode("utf-8") for line in archive.read(name).splitlines()]
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        UnicodeDecodeError,
        EOFError,
        OSError,
    ) as error:
        yield f": cannot be read: {error}"
        return
    if not lines or lines[0] != HEADER:
        yield f" line 1: {lines[0] if lines else ''!r} should be the header {HEADER!r}"
    wanted, rows = FILES[name], [line.split("\t") for line in lines[1:]]
    if len(rows) != wanted.rows:
        yield f": {len(rows)} predictions; the test set has {wanted.rows} examples"
    for check in (_check_fields, _check_index, _check_prediction):
        faults = [
            (number, fault) for number, fields in enumerate(rows) if (fault := check(number, fields, wanted))
        ]
        if faults:
            number, fault = faults[0]
            more = f" (and {len(faults) - 1} more such lines)" if len(faults) > 1 else ""
            yield f" line {number + 2}: {fault}{more}"


def _check_fields(number: int, fields: list[str], wanted: WantedFile) -> str:
    return "" if len(fields) == 2 else f"{len(fields)} fields where there should be an index and a prediction"


def _check_index(number: int, fields: list[str], wanted: WantedFile) -> str:
    return "" if len(fields) == 1 or fields[0] == str(number) else f"index {fields[0]!r} should be {number}"


def _check_prediction(number: int, fields: list[str], wanted: WantedFile) -> str:
    if len(fields) != 2 or fields[1] in wanted.predictions:
        return ""
    if wanted.predictions:
        return f"prediction {fields[1]!r} should be {' or '.join(wanted.predictions)}"
    low, high = SCORE_RANGE
    try:
        score = float(fields[1])
    except ValueError:
        score = math.nan
    return (
        ""
        if low <= score <= high
        else f"prediction {fields[1]!r} should be a number from {low:g} to {high:g}"
    )


if __name__ == "__main__":
    run(main)

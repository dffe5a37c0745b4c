"""A run's folder: a check that it can be written, and its files besides the checkpoints."""

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from base.json_files import json_object
from base.lock import Lock
from base.storage import check_readable, check_writable, is_remote
from base.storage import write_bytes as write_bytes
from base.storage import write_text as write_text
from pretrain.config import PretrainConfig
from pretrain.runtime import processes
from pretrain.runtime.checkpointer import SAVED_FILE as SAVED_FILE
from pretrain.runtime.checkpointer import Checkpointer, first_line

logger = logging.getLogger(__name__)

MODEL_FILE = "model.json"
"""The network of a run, as a transformers config.json, in its workdir; written before the first checkpoint."""

FINISHED_FILE = "finished.json"
"""{"step": N, "steps": N}, written when nothing is left to do; launchers tell a finished run by it.

Fine-tuning writes it after its results, with a smaller step where the run stopped early; of several tasks it counts
tasks."""


def prepare(workdir: epath.Path) -> None:
    """Make the run's folder and check that it can be written. In a bucket, which has no folders, only check this.

    Raises:
      UserError: it cannot.
    """
    if re.match(r"\w+:/(?!/)", str(workdir)):
        raise UserError(f"--workdir={workdir}: a folder in a bucket is written gs://BUCKET/FOLDER")
    whole = str(workdir if is_remote(workdir) else Path(workdir).absolute())
    # Orbax takes a name with *, ? or [ for a pattern, and TensorStore takes \ for /: they would find no checkpoint.
    if found := re.search(r"[*?\[\\]", whole):
        raise UserError(
            f"--workdir={workdir} lies at {whole}, where {found[0]} stands for other names: checkpoints could not be "
            "read again; name a folder without *, ?, [ and \\"
        )
    probe = workdir / f".writable-{processes.number()}"
    if is_remote(workdir):
        check_writable(workdir, "--workdir", probe.name)
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except Exception as error:  # every file system has errors of its own
        if any(place.is_file() for place in (workdir, *workdir.parents)):
            where = "is a file" if workdir.is_file() else "lies in a file"
            raise UserError(f"--workdir={workdir} {where}; name a folder") from error
        raise UserError(f"--workdir={workdir} cannot be written: {error}") from error


@contextlib.contextmanager
def opened(workdir: epath.Path, config: Any, *, keep: int, verify: bool) -> Iterator[Checkpointer]:
    """The checkpoints of a run whose processes agree on its folder, its config and where it stands.

    Args:
      workdir: the run's folder.
      config: its config, a dataclass.
      keep: newest checkpoints kept.
      verify: whether checkpoints are compared with their manifests.

    Raises:
      UserError: they do not, or the folder cannot be written.
    """
    fields = schema.flatten(schema.as_dict(config))
    processes.check_same({"--workdir": str(workdir)} | {f"config.{name}": fields[name] for name in fields})
    prepare(workdir)
    lock = _lock(workdir)
    before_save = None if lock is None else lock.check
    try:
        checkpointer = Checkpointer(workdir, keep=keep, verify=verify, before_save=before_save)
        with processes.closing(checkpointer.close):
            processes.check_same({"the newest checkpoint": max(checkpointer.steps, default=0)})
            yield checkpointer
    finally:
        if lock is not None:
            lock.release()
        remove_empty(workdir)


def _lock(workdir: epath.Path) -> Lock | None:
    """The lock of a workdir, on the first process; None on the others.

    Raises:
      UserError: on all processes: another run holds it.
    """
    lock, flaw = None, ""
    if processes.is_first():
        try:
            lock = Lock(workdir)
        except UserError as error:
            flaw = str(error)
    if flaw := processes.from_first(lambda: flaw):
        raise UserError(flaw)
    return lock


def check_not_lost(workdir: epath.Path) -> None:
    """Refuse to begin a run in a folder without checkpoints whose run has saved one.

    Raises:
      UserError: it has; the message says how far it had come.
    """
    for name in (SAVED_FILE, FINISHED_FILE):
        if (workdir / name).exists():
            step = re.search(r'"step": (\d+)', (workdir / name).read_bytes().decode(errors="replace"))
            raise UserError(
                f"the run in {workdir} has saved step {step[1] if step else '?'} ({name}), and has no checkpoint any "
                "more: put its folder checkpoints back, or set another --workdir"
            )


def has_network(workdir: epath.Path) -> bool:
    """Whether a run's folder has its MODEL_FILE, undamaged."""
    try:
        return "model_type" in json_object(workdir / MODEL_FILE)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def is_workdir(workdir: epath.Path) -> bool:
    """Whether a folder is the workdir of a run that has begun to train."""
    return any((workdir / name).exists() for name in (MODEL_FILE, "checkpoints"))


def check_workdir(workdir: epath.Path) -> None:
    """Refuse a --workdir to read from that is not a pretraining run's.

    Raises:
      UserError: it does not exist, holds something else, or is in a bucket that cannot be read.
    """
    check_readable(workdir, "--workdir")
    if not (workdir / MODEL_FILE).exists():
        flaw = f"has no {MODEL_FILE}" if workdir.exists() else "does not exist"
        raise UserError(f"--workdir={workdir} {flaw}; it should be the folder of a pretraining run")


def remove_empty(workdir: epath.Path) -> None:
    """Take away WORKDIR/checkpoints and WORKDIR where they are empty: the run was refused."""
    if is_remote(workdir):
        return  # a bucket has no empty folders
    for folder in (workdir / "checkpoints", workdir):
        with contextlib.suppress(OSError):  # not empty, or another process was first
            Path(folder).rmdir()  # epath's rmdir would remove another process's new files too


def write_config(workdir: epath.Path, config: PretrainConfig) -> None:
    """Write the resolved config to WORKDIR/config.json."""
    write_text(workdir / "config.json", json.dumps(schema.as_dict(config), indent=2) + "\n")


def write_card(workdir: epath.Path, config: PretrainConfig) -> None:
    """Write what the model card is to say to WORKDIR/config.json, and nothing else of a config.

    A run that is complete makes no further checkpoint that could hold it.
    """
    try:
        kept = read_config(workdir)
    except UserError:  # it is missing or damaged
        write_config(workdir, config)
        return
    kept["card"] = schema.as_dict(config.card)
    write_text(workdir / "config.json", json.dumps(kept, indent=2) + "\n")


def read_card(workdir: epath.Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What the model card is to say, by WORKDIR/config.json, or by a checkpoint's config where that is damaged."""
    try:
        return dict(read_config(workdir).get("card") or {})
    except (UserError, ValueError, TypeError) as error:
        if (workdir / "config.json").exists():
            logger.warning("%s; the model card says what the checkpoint's config says", first_line(error))
        return dict(saved.get("card", {}))


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """The config of a run as nested dicts.

    Raises:
      UserError: the folder is not a run's.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise UserError(f"{workdir} has no config.json; it should be the --workdir of a pretraining run")
    try:
        found = json_object(file)
        if not isinstance(found.get("data"), dict):
            raise ValueError("it has no data")
        return found
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}): delete it, and run the run's own command again, which writes it anew"
        ) from error


def write_saved(workdir: epath.Path, step: int) -> None:
    """Note in WORKDIR/saved.json that the checkpoint of a step is committed."""
    write_text(workdir / SAVED_FILE, json.dumps({"step": step}) + "\n")


def write_finished(workdir: epath.Path, step: int, steps: int) -> None:
    """Note in WORKDIR/finished.json that nothing is left to do of a run, after `step` of `steps` steps."""
    write_text(workdir / FINISHED_FILE, json.dumps({"step": step, "steps": steps}) + "\n")

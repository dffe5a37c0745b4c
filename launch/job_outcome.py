"""What a job has come to, judged by what every machine says and by what lies in the workdir."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from base.errors import UserError
from launch.job import Job
from launch.subprocesses import Runner
from launch.tpu import gcloud
from launch.tpu.gcloud_errors import Failure, classify, message
from launch.tpu.machines import UnreachableError, Worker

USER_ERROR = 2
STOPPED = 3
"""Exit status of the launcher when the job has stopped before its end, with its last step saved."""
INTERRUPTED = (0, 143)
"""Exit statuses of a job that a signal stopped: with a step saved, or before the first."""


class Stage(Enum):
    """Where a job stands, over all machines."""

    ABSENT = "not started"
    RUNNING = "running"
    FAILING = "failed on some machines, not ended on all"
    FINISHED = "finished"
    STOPPED = "stopped, as it was told to"
    INTERRUPTED = "stopped by a signal, or lost with its machine"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """Where a job stands, and the machine and exit status that say so if it failed."""

    stage: Stage
    worker: Worker | None = None
    status: int = 0


def judge(answers: Mapping[Worker, dict[str, Any] | None], finished: bool | None = None) -> Verdict:
    """Where a job stands.

    An exit status counts only if the machine itself wrote it down. The first one that is not zero is reported, never
    the largest: a machine that was killed must not pass for one that finished.

    Args:
      answers: what each machine says; None where it could not be asked.
      finished: whether the workdir says that nothing is left to do; None where the command leaves no such word.
    """
    known = {worker: fields for worker, fields in answers.items() if fields is not None}
    states = {worker: fields.get("state") for worker, fields in known.items()}
    ended = {
        worker: int(fields["exit"]) for worker, fields in known.items() if fields.get("state") == "exited"
    }
    failed = [(worker, status) for worker, status in ended.items() if status not in INTERRUPTED]
    broken = [worker for worker, state in states.items() if state in ("lost", "none")]
    asked = any(fields.get("asked") for fields in known.values())
    if len(known) < len(answers) or "running" in states.values():
        if "running" in states.values() and broken:
            failed = failed or [(broken[0], 0)]
        return Verdict(Stage.FAILING, *failed[0]) if failed and not asked else Verdict(Stage.RUNNING)
    if all(state == "none" for state in states.values()):
        return Verdict(Stage.ABSENT)
    if len(ended) == len(answers) and not any(ended.values()) and finished is not False:
        return Verdict(Stage.FINISHED)
    if asked:
        return Verdict(Stage.STOPPED)
    return Verdict(Stage.FAILED, *failed[0]) if failed and not broken else Verdict(Stage.INTERRUPTED)


def is_finished(job: Job, runner: Runner) -> bool | None:
    """Whether the workdir of a job says that nothing is left to do; None where its command leaves no such word.

    Raises:
      UnreachableError: the bucket does not answer.
      UserError: it may not be read.
    """
    if not job.markers:
        return None
    return any(_exists(file, runner) for file in job.markers)


def _exists(file: str, runner: Runner) -> bool:
    """Whether a file of the workdir is there.

    Raises:
      UnreachableError: the bucket does not answer.
      UserError: it may not be read.
    """
    if not file.startswith("gs://"):
        return Path(file).expanduser().exists()
    result = runner.run(gcloud.read(file))
    match Failure.PRESENT if result.ok else classify(result):
        case Failure.PRESENT:
            return True
        case Failure.ABSENT:
            return False
        case Failure.TRANSIENT:
            raise UnreachableError(message(result))
    raise UserError(f"{file} cannot be read: {message(result)}")

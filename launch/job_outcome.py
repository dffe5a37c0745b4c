"""The outcome of a job, decided from the answers of all machines and the files in the workdir."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from base.errors import UserError
from launch.finished import HUNG
from launch.job import Job
from launch.subprocesses import Runner
from launch.tpu import gcloud
from launch.tpu.gcloud_errors import Failure, classify, message
from launch.tpu.machines import UnreachableError, Worker

USER_ERROR = 2
INTERRUPTED = (0, 143)
"""Exit statuses of a job that a signal stopped: after it saved a step, or before its first step."""


class Stage(Enum):
    """The stage of a job, over all its machines."""

    ABSENT = "not started"
    RUNNING = "running"
    FAILING = "failed on some machines, not ended on all"
    FINISHED = "finished"
    STOPPED = "stopped, as a person requested"
    INTERRUPTED = "stopped by a signal, lost with its machine, or ended by its watchdog"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """The stage of a job; for a failed job also the machine that failed and its exit status."""

    stage: Stage
    worker: Worker | None = None
    status: int = 0


def judge(answers: Mapping[Worker, dict[str, Any] | None], finished: bool | None = None) -> Verdict:
    """Decide the stage of a job.

    An exit status counts only if the machine itself wrote it down. The verdict has the first failure's status, not the
    largest status: a machine that was killed must not count as a machine that finished. If a watchdog ended the job on
    one machine, the failures of the others follow from that.

    Args:
      answers: the answer of each machine; None for a machine that did not answer.
      finished: whether the workdir has a marker file of a finished run; None for a command that writes no marker.
    """
    known = {worker: fields for worker, fields in answers.items() if fields is not None}
    states = {worker: fields.get("state") for worker, fields in known.items()}
    ended = {
        worker: int(fields["exit"]) for worker, fields in known.items() if fields.get("state") == "exited"
    }
    hung = [(worker, status) for worker, status in ended.items() if status == HUNG]
    failed = hung or [(worker, status) for worker, status in ended.items() if status not in INTERRUPTED]
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
    if hung:
        return Verdict(Stage.INTERRUPTED, *hung[0])
    return Verdict(Stage.FAILED, *failed[0]) if failed and not broken else Verdict(Stage.INTERRUPTED)


def is_finished(job: Job, runner: Runner) -> bool | None:
    """Whether the workdir of a job has a marker file of a finished run; None for a command that writes no marker.

    Raises:
      UnreachableError: the bucket does not answer.
      UserError: this user may not read the bucket.
    """
    if not job.markers:
        return None
    return any(_exists(file, runner) for file in job.markers)


def _exists(file: str, runner: Runner) -> bool:
    """Whether a file exists.

    Raises:
      UnreachableError: the bucket does not answer.
      UserError: this user may not read the file.
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

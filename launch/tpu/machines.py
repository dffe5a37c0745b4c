"""The machines of a pod: copy files to them, send them commands, and read their answers."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.errors import UserError
from base.tpu_types import tpu_slice
from launch.archive import Archive
from launch.config import LaunchConfig
from launch.job import Job
from launch.subprocesses import ROOT, say
from launch.tpu.gcloud_errors import message
from launch.tpu.pod_state import Pod

ANSWER = "UNMASK "
BARE = "can't open file"
"""Python's error message on a machine that has no remote.py yet."""
TRIES = 3
SETUP_SECONDS = 3600.0
STATUS_SECONDS = 180.0


@dataclass(frozen=True, order=True)
class Worker:
    """One machine of a pod."""

    node: str
    index: int


@dataclass(frozen=True)
class Workers:
    """All machines of a pod."""

    pod: Pod

    @property
    def folder(self) -> str:
        """The pod's folder in the home folder of each machine."""
        return f"unmask/{self.pod.name}"

    @property
    def all(self) -> list[Worker]:
        """Every machine, in order of slice and number."""
        hosts = tpu_slice(self.pod.gcloud.tpu.accelerator).hosts
        return [Worker(node, index) for node in self.pod.nodes for index in range(hosts)]

    def remote(self, command: str) -> str:
        """The shell command that runs a command of remote.py. It needs no quotes."""
        return f"python3 {self.folder}/remote.py {command}"

    def ask(self, command: str, *, seconds: float = STATUS_SECONDS) -> "Answers":
        """Run a command of remote.py on every machine.

        Only the line that a machine prints counts as its answer. gcloud's exit status does not tell how many machines
        were reached. It does not show either that a signal or a broken connection ended the command on one of them.

        Args:
          command: a command of remote.py with its options.
          seconds: time limit.
        """
        calls = [self.pod.gcloud.ssh(node, "all", self.remote(command)) for node in self.pod.nodes]
        answers: dict[Worker, dict[str, Any]] = {}
        complaint = ""
        for node, result in zip(self.pod.nodes, self.pod.runner.run_all(calls, seconds=seconds)):
            for fields in answered(result.stdout):
                answers[Worker(node, int(fields["worker"]))] = fields
            unheard = [worker for worker in self.all if worker.node == node and worker not in answers]
            if unheard and len(unheard) <= result.stderr.count(BARE):
                answers |= {worker: {"worker": worker.index, "state": "none"} for worker in unheard}
            elif not result.ok:
                complaint = complaint or message(result)
        return Answers({worker: answers.get(worker) for worker in self.all}, complaint)

    def copy(self, files: Sequence[str]) -> None:
        """Copy files of the checkout into the pod's folder on every machine.

        Raises:
          UnreachableError: the copy to one of the machines failed.
        """
        calls = [
            self.pod.gcloud.ssh(node, "all", f"mkdir -p -m 700 {self.folder}") for node in self.pod.nodes
        ]
        copies = [self.pod.gcloud.scp(files, node, self.folder) for node in self.pod.nodes]
        for step in (calls, copies):
            for attempt in range(TRIES):
                failed = next((result for result in self.pod.runner.run_all(step) if not result.ok), None)
                if failed is None:
                    break
                if attempt == TRIES - 1:
                    raise UnreachableError(message(failed))
                self.pod.runner.sleep(self.pod.gcloud.tpu.poll_seconds)

    def setup(self, config: LaunchConfig, archive: Archive) -> None:
        """Install the code and its environment on every machine. A machine that has them already answers at once.

        Raises:
          UnreachableError: a machine does not answer, or has another archive.
          UserError: the installation failed on a machine.
        """
        say(f"setting up {len(self.all)} machine{'s' * (len(self.all) > 1)}: {archive.label}")
        settings = {"python": config.python, "extras": list(config.extras or ("tpu",))}
        with staged(self.pod.name, {"code.tar.gz": archive.content, "setup.json": settings}) as files:
            self.copy([*files, "launch/tpu/remote.py"])
        answers = self._ask_all("setup", seconds=SETUP_SECONDS)
        wrong = [worker for worker, fields in answers.items() if fields.get("archive") != archive.digest]
        if wrong and not self.pod.runner.dry:
            raise UnreachableError(
                f"the code did not arrive whole at worker {wrong[0].index} of {wrong[0].node}"
            )

    def start(self, job: Job) -> None:
        """Start the job once on every machine.

        Raises:
          UnreachableError: a machine does not answer.
          UserError: another job is running there.
        """
        say(f"starting run {job.run} on every machine: {job.workdir}")
        content: dict[str, Any] = {"job.json": job.description(self.pod.gcloud.project)}
        if job.environment:
            content["env.json"] = dict(job.environment)
        with staged(self.pod.name, content) as files:
            self.copy(files)
        self._ask_all("start")

    def status(self) -> "Answers":
        """Ask every machine for the state of the job."""
        return self.ask("status")

    def stop(self, grace: int, *, asked: bool = True) -> "Answers":
        """Tell the job on every machine to save and stop, and wait for its end.

        Args:
          grace: seconds until the job is killed.
          asked: whether a person stops the job; False if it stops because it failed on another machine.
        """
        return self.ask(f"stop --grace={grace} --asked={int(asked)}", seconds=grace + STATUS_SECONDS)

    def _ask_all(self, command: str, *, seconds: float = STATUS_SECONDS) -> dict[Worker, dict[str, Any]]:
        """Send a command until every machine has answered, at most TRIES times. A machine may get it more than once."""
        for attempt in range(TRIES):
            answers = self.ask(command, seconds=seconds)
            for worker, fields in answers.of.items():
                if fields and "error" in fields:
                    raise UserError(f"{command} on worker {worker.index} of {worker.node}: {fields['error']}")
            if not answers.missing:
                return {worker: fields or {} for worker, fields in answers.of.items()}
            if attempt < TRIES - 1:
                self.pod.runner.sleep(self.pod.gcloud.tpu.poll_seconds)
        worker = answers.missing[0]
        raise UnreachableError(f"no answer from worker {worker.index} of {worker.node}: {answers.complaint}")


@dataclass(frozen=True)
class Answers:
    """The answers of the machines of a pod."""

    of: Mapping[Worker, dict[str, Any] | None]
    """The answer of each machine; None for a machine that did not answer."""
    complaint: str
    """gcloud's error message if a call failed; else ""."""

    @property
    def missing(self) -> list[Worker]:
        """Machines without an answer."""
        return [worker for worker, fields in self.of.items() if fields is None]


class UnreachableError(Exception):
    """A machine or a bucket does not answer. Ask the cloud whether the machine still exists."""


def answered(output: str) -> Iterator[dict[str, Any]]:
    """Find the answers in the output of machines, which also has other lines, such as a shell's greeting."""
    for line in output.splitlines():
        _, marker, text = line.partition(ANSWER)
        if marker:
            try:
                fields = json.loads(text)
            except ValueError:
                continue  # two machines wrote at once; both count as without an answer
            if isinstance(fields, dict) and "worker" in fields:
                yield fields


@contextmanager
def staged(name: str, content: Mapping[str, Any]) -> Iterator[list[str]]:
    """Write temporary files below the checkout's .cache, which only this user may read, while they are copied.

    A lock keeps two launchers of one checkout apart.

    Args:
      name: the pod's name.
      content: content of each file: bytes, or an object to write as JSON.

    Yields:
      The paths of the files, relative to the checkout.
    """
    folder = Path(".cache") / "launch" / name
    (ROOT / folder.parent).mkdir(parents=True, exist_ok=True)
    with (ROOT / folder).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(ROOT / folder, ignore_errors=True)
        (ROOT / folder).mkdir(mode=0o700)
        try:
            for file, value in content.items():
                path = ROOT / folder / file
                path.touch(mode=0o600)
                path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
            yield [str(folder / file) for file in content]
        finally:
            shutil.rmtree(ROOT / folder, ignore_errors=True)

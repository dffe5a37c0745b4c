"""Create a pod and keep a job running on it: create, wait, set up, start, follow; after a preemption repeat all steps.

The launcher keeps no state. It asks the cloud and the machines each time, so another machine can take over at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from base.errors import UserError
from base.tpu_types import tpu_slice
from launch.archive import Archive
from launch.config import LaunchConfig
from launch.finished import HUNG, UNFINISHED
from launch.job import Job
from launch.job_outcome import USER_ERROR, Stage, Verdict, is_finished, judge
from launch.subprocesses import say
from launch.tpu.gcloud_errors import Failure, classify, message, pause
from launch.tpu.log_following import Follower, tail
from launch.tpu.machines import Answers, UnreachableError, Worker, Workers
from launch.tpu.pod_state import Do, Pod, Seen, decide, observe

DELETE_TRIES = 6
SETTLE = 3
"""Number of checks, after a job has failed, until the launcher counts it as the job's own failure. The cloud reports a
lost pod late."""
PATIENCE = 60
"""Number of checks without an answer from the machines until the launcher creates them again, although the cloud still
reports them. Also the number of checks without an answer from the cloud itself."""
FAILING_GRACE = 60
"""Seconds that the other machines have to stop when the job has failed on one machine."""


def create(pod: Pod, config: LaunchConfig) -> None:
    """Make the pod ready from any state: wait for it, request it, or delete its remains and request it again.

    Raises:
      UserError: the cloud refuses the pod, or another tool made a pod with this name.
    """
    tpu, before, refused = config.tpu, "", 0
    while True:
        seen = observe(pod)
        do = decide(seen, queued=pod.queued)
        if str(seen) != before and do is not Do.CREATE:
            before = str(seen)
            say(f"{pod.name}: {before}")
        if do in (Do.USE, Do.RECREATE) and seen.label != pod.name:
            raise UserError(not_ours(pod, seen))
        match do:
            case Do.USE:
                return
            case Do.GIVE_UP:
                raise UserError(f"{pod.name}: {seen}{f': {seen.reason}' if seen.reason else ''}")
            case Do.WAIT:
                pod.runner.sleep(tpu.poll_seconds)
            case Do.RECREATE:
                say(f"{pod.name} is lost: deleting what is left of it")
                delete(pod)
            case Do.CREATE:
                refused = _ask_for(pod, config, refused)


REMEDIES = {
    Do.CREATE: "create it again",
    Do.RECREATE: "delete it and create it again",
    Do.GIVE_UP: "start it again",
}
"""What the owner of an attached TPU VM has to do, by what the launcher would do with its own."""


def attach(pod: Pod, *, before: str = "") -> None:
    """Wait until TPU VMs that exist are ready. Nothing is created or deleted.

    Args:
      pod: the pod, whose TPU VMs somebody else may have made.
      before: what happened before, for the message.

    Raises:
      UserError: they do not exist, they are lost, or they have another TPU type.
    """
    tpu, last = pod.gcloud.tpu, ""
    wanted = tpu_slice(tpu.accelerator).accelerator
    while True:
        seen = observe(pod)
        do = decide(seen, queued=False)
        missing = [node for node, state in seen.nodes.items() if state is None]
        if missing and not before:
            raise UserError(
                f"--attach: there is no TPU VM {missing[0]} in {pod.gcloud.zone} of {pod.gcloud.project}; name one "
                "that exists, or leave out --attach to create it"
            )
        if missing or do in REMEDIES:
            state = f"TPU VM {missing[0]} is gone" if missing else f"{pod.name} is not usable ({seen})"
            raise UserError(
                f"{before}{state}, and --attach neither deletes nor creates it: its owner has to "
                f"{REMEDIES[Do.CREATE if missing else do]}"
            )
        if seen.accelerator not in ("", wanted):
            raise UserError(
                f"config.tpu.accelerator={tpu.accelerator!r}, but {pod.name} is a {seen.accelerator}: set "
                f"--config.tpu.accelerator={seen.accelerator}"
            )
        if do is Do.USE:
            return
        if str(seen) != last:
            last = str(seen)
            say(f"{pod.name}: {last}; waiting until it is ready")
        pod.runner.sleep(tpu.poll_seconds)


def not_ours(pod: Pod, seen: Seen) -> str:
    """The message about resources that this tool did not make."""
    return (
        f"{pod.name} exists ({seen}), but was not made by this tool: add --attach to up, setup or run to use it as "
        "it is, or choose another NAME"
    )


def _ask_for(pod: Pod, config: LaunchConfig, refused: int) -> int:
    """Send a request for the pod. Returns how often the cloud has refused it for lack of capacity."""
    tpu = config.tpu
    say(f"asking for {tpu.slices} x {tpu.accelerator} ({tpu.capacity}) in {pod.gcloud.zone}")
    result = pod.runner.run(pod.gcloud.create(pod.name))
    if result.ok:
        pod.runner.sleep(min(tpu.poll_seconds, 5.0))
        return 0
    match classify(result):
        case Failure.PRESENT:
            pod.runner.sleep(tpu.poll_seconds)
            return refused
        case Failure.TRANSIENT if refused + 1 < tpu.create_attempts:
            seconds = pause(refused, tpu.backoff_seconds)
            say(f"{message(result)}; again in {seconds:.0f} s")
            pod.runner.sleep(seconds)
            return refused + 1
    raise UserError(f"{pod.name} cannot be created: {message(result)}")


def delete(pod: Pod) -> bool:
    """Delete the pod's queued resource and TPU VMs, if they exist. Returns whether any of them existed.

    Raises:
      UserError: this tool did not make the resources, or one of them still exists afterwards.
    """
    seen, complaint = observe(pod, all_of_it=True), ""
    anything = not seen.absent
    for attempt in range(DELETE_TRIES):
        if seen.absent:
            return anything
        if seen.label != pod.name:
            if not seen.unanswered:
                raise UserError(
                    f"{pod.name} ({seen}) was not made by this tool, and is not deleted; its owner deletes it by "
                    "gcloud compute tpus"
                )
            complaint = "the cloud does not tell who made it"
            pod.runner.sleep(pause(attempt, pod.gcloud.tpu.backoff_seconds))
            seen = observe(pod, all_of_it=True)
            continue
        if seen.queued:
            calls = [pod.gcloud.delete(pod.name, queued=True)]
        else:
            calls = [pod.gcloud.delete(node, queued=False) for node, state in seen.nodes.items() if state]
        failed = [result for result in pod.runner.run_all(calls) if not result.ok]
        complaint = message(failed[0]) if failed else "it is still there"
        if failed and classify(failed[0]) is Failure.PERMANENT:
            break
        if failed:
            pod.runner.sleep(pause(attempt, pod.gcloud.tpu.backoff_seconds))
        seen = observe(pod, all_of_it=True)
    if seen.absent:
        return anything
    raise UserError(f"{pod.name} is not deleted, and costs money: {seen}: {complaint}")


@dataclass(frozen=True)
class Launch:
    """A job and its pod, with everything needed to start the job repeatedly."""

    pod: Pod
    config: LaunchConfig
    job: Job
    archive: Archive

    @property
    def workers(self) -> Workers:
        """The pod's machines."""
        return Workers(self.pod)

    @property
    def _go_on(self) -> str:
        return f"the same command goes on with the run: {self.job.workdir}"

    def run(self, *, create_first: bool) -> int:
        """Run the job to its end, and restart it after preemptions. Returns the launcher's exit status.

        Args:
          create_first: whether to create the pod if it does not exist.

        Raises:
          UserError: the cloud or a machine refuses something.
        """
        losses = 0
        while True:
            if losses and self.pod.attached:
                try:
                    attach(self.pod, before="the job was interrupted: ")
                except UserError as error:
                    say(f"{error}; {self._go_on}")
                    return UNFINISHED
            elif not self.pod.attached and (create_first or losses):
                create(self.pod, self.config)
            verdict = self._run_once(fresh=losses > 0 or create_first)
            if verdict.stage not in (Stage.INTERRUPTED, Stage.ABSENT):
                return self._close(verdict)
            losses += 1
            most = self.config.tpu.max_restarts
            lost = "the pod or the job on it was lost"
            if verdict.status == HUNG:
                lost = "the job hung, and its watchdog ended it"
            if losses > most:
                say(f"{lost} {losses} times, more than config.tpu.max_restarts={most}: {self._go_on}")
                return UNFINISHED
            say(f"{lost} ({losses} of at most {most} times)")

    def _run_once(self, *, fresh: bool) -> Verdict:
        """Start the job if it is not running, and wait for its end. With `fresh`, set up the machines first."""
        lines = None
        try:
            answers = self.workers.status()
            now = judge(answers.of)
            if now.stage in (Stage.RUNNING, Stage.FAILING) and not answers.missing:
                self._check_same(answers.of)
                say("the job is running already: following it")
                lines = 10
            else:
                if fresh:
                    self.workers.setup(self.config, self.archive)
                elif any(fields and not fields.get("archive") for fields in answers.of.values()):
                    raise UserError(
                        f"{self.pod.name} is not set up: python -m launch.tpu setup {self.pod.name}"
                        f"{' --attach' * self.pod.attached}"
                    )
                self.workers.start(self.job)
        except UnreachableError as error:
            say(f"{error}")
            self.pod.runner.sleep(self.config.tpu.poll_seconds)
            return Verdict(Stage.ABSENT)
        follower = Follower(self.workers, self.workers.all[0], lines=lines)
        follower.run() if self.pod.runner.dry else follower.start()
        try:
            return self._watch()
        finally:
            follower.end(15.0)

    def _check_same(self, answers: Mapping[Worker, dict[str, Any] | None]) -> None:
        digests = {fields.get("digest") for fields in answers.values() if fields}
        if digests - {""} and digests != {self.job.digest}:  # a job of tpu_pod.sh has the digest ""
            raise UserError(
                f"another command, or one for another workdir, is running on {self.pod.name}; stop it first: "
                f"python -m launch.tpu stop {self.pod.name}"
            )

    def _watch(self) -> Verdict:
        """Check the pod and the job until one of them has ended."""
        looks, before, silent, unanswered, culprit = 0, Stage.RUNNING, 0, 0, None
        while True:
            seen = observe(self.pod)
            unanswered = unanswered + 1 if seen.unanswered else 0
            if 0 < unanswered <= PATIENCE:
                self.pod.runner.sleep(self.config.tpu.poll_seconds)
                continue
            if decide(seen, queued=self.pod.queued) is not Do.USE:
                return Verdict(Stage.INTERRUPTED)
            answers = self.workers.status()
            verdict = judge(answers.of)
            if verdict.stage is Stage.FINISHED:
                verdict = self._confirm(answers)
            if verdict.stage in (Stage.FINISHED, Stage.STOPPED):
                return verdict
            looks = looks + 1 if verdict.stage is before else 1
            before = verdict.stage
            silent = silent + 1 if answers.missing else 0
            if silent == 1:
                say(f"{len(answers.missing)} machines do not answer ({answers.complaint}); the job may go on")
            if silent > PATIENCE:
                return Verdict(Stage.ABSENT)
            if verdict.stage is Stage.FAILING:
                culprit = culprit or verdict
                if looks == SETTLE:
                    say("the job has failed on one machine: ending it on the others")
                    self.workers.stop(FAILING_GRACE, asked=False)
            if verdict.stage in (Stage.FAILED, Stage.INTERRUPTED, Stage.ABSENT) and looks >= SETTLE:
                return replace(culprit, stage=verdict.stage) if culprit and verdict.worker else verdict
            self.pod.runner.sleep(self.config.tpu.poll_seconds)

    def _confirm(self, answers: Answers) -> Verdict:
        """Decide the stage of a job with exit status 0 on every machine: it has finished, or it was only stopped."""
        try:
            return judge(answers.of, is_finished(self.job, self.pod.runner))
        except UnreachableError as error:
            say(f"{self.job.workdir}: {error}")
            return Verdict(Stage.RUNNING)

    def _close(self, verdict: Verdict) -> int:
        """Tell the user how the job ended. Returns the launcher's exit status."""
        match verdict.stage:
            case Stage.FINISHED:
                say(f"finished: {self.job.workdir}")
                status = 0
            case Stage.STOPPED:
                say(f"stopped; {self._go_on}")
                status = UNFINISHED
            case _:
                assert verdict.worker is not None
                worker = verdict.worker
                tail(self.workers, worker, 15)
                say(f"the job failed with status {verdict.status} on worker {worker.index} of {worker.node}")
                status = USER_ERROR if verdict.status == USER_ERROR else 1
        return status

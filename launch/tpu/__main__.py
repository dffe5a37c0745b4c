"""`python -m launch.tpu COMMAND NAME [--config=FILE.py] [--config.FIELD=VALUE ...] [flags] [-- COMMAND TO RUN ...]`.

up       check, plan, create, set up and run; repeat this after a preemption, until the job has finished
create   request the pod and wait until it is ready         setup    copy the code to the pod and install it
run      start the job, follow it, and keep it running      status   the pod and the job on every machine
logs     the output of the job on the machines              ssh      a shell on a machine, or a command on all
stop     tell the job to save and stop                      delete   delete the pod, whatever state it is in

up --attach uses TPU VMs that exist, which this tool did not make, and never deletes them.
"""

import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from absl import flags

from base import terminal
from base.command_line import parse, python, read, run
from base.errors import UserError
from base.set_fields import say_all, settled
from launch import preflight_checks
from launch.archive import Archive, make_archive
from launch.config import LaunchConfig, of_attached, unused_by
from launch.dry_run import DryRunner
from launch.job import Job, check_name, make_job
from launch.job_outcome import judge
from launch.launch_command import split, take_words
from launch.subprocesses import ROOT, Runner, say
from launch.tpu.gcloud import Gcloud
from launch.tpu.keep_running import Launch, attach, create, delete, not_ours
from launch.tpu.log_following import Follower
from launch.tpu.machines import UnreachableError, Worker, Workers
from launch.tpu.pod_state import Pod, observe
from launch.tpu.status_table import status_table

DEFAULT_CONFIG = "configs/launch_tpu.py"
INTERRUPTED = 130


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("dry_run", False, "print the commands, execute nothing", flag_values=values)
    flags.DEFINE_bool("no_plan", False, "up: do not compile the train step beforehand", flag_values=values)
    flags.DEFINE_bool(
        "attach",
        False,
        "up, setup, run: use TPU VMs that exist; never create or delete them",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "delete", False, "up, run: delete the pod when the job has finished", flag_values=values
    )
    flags.DEFINE_bool("follow", False, "logs: go on until the job has ended", flag_values=values)
    flags.DEFINE_integer("lines", 100, "logs: how many of the last lines", flag_values=values)
    flags.DEFINE_string(
        "worker", "", "logs, ssh: number of a machine of the slice, or all", flag_values=values
    )
    flags.DEFINE_integer("slice", 0, "logs, ssh: number of the slice", flag_values=values)


@dataclass(frozen=True)
class Call:
    """A parsed command line. It is checked as far as possible without a call to the cloud."""

    name: str
    config: LaunchConfig
    values: flags.FlagValues
    command: list[str]
    hosts: int
    runner: Runner
    fields: list[str]
    """The arguments of the command line that set the config."""

    def again(self, verb: str) -> str:
        """The text of another launch.tpu command for the same pod, with the same config."""
        return shlex.join([python(), "-m", "launch.tpu", verb, self.name, *self.fields])

    @cached_property
    def pod(self) -> Pod:
        """The pod, in its project and zone."""
        project, zone = preflight_checks.find_place(self.config, self.runner)
        return Pod(self.name, Gcloud(project, zone, self.config.tpu), self.runner, self.values.attach)

    @property
    def workers(self) -> Workers:
        """The pod's machines."""
        return Workers(self.pod)

    @cached_property
    def archive(self) -> Archive:
        """The code for the machines."""
        return make_archive(self.config, ROOT)

    @cached_property
    def job(self) -> Job:
        """The job, made from the command after `--`."""
        return make_job(self.config, self.name, self.command, self.hosts)

    def need(self, *, ours: bool = False) -> None:
        """Check that the pod is ready.

        Args:
          ours: whether this tool must have made the pod, unless it is attached.

        Raises:
          UserError: the pod does not exist, it is not ready, or this tool did not make it.
        """
        if self.pod.attached:
            attach(self.pod)
            return
        seen = observe(self.pod)
        if ours and not seen.absent and not seen.unanswered and seen.label != self.name:
            raise UserError(not_ours(self.pod, seen))
        if not seen.ready:
            there = "there is no pod" if seen.absent else f"the pod is not ready ({seen}):"
            raise UserError(
                f"{there} {self.name} in {self.pod.gcloud.zone}; {self.again('create')} makes it, or waits for it"
            )

    def chosen(self, default: str) -> list[Worker]:
        """The machines that --worker and --slice name."""
        asked = self.values.worker or default
        if asked == "all":
            return self.workers.all
        nodes = self.pod.nodes
        hosts = self.hosts // len(nodes)
        if not asked.isdecimal() or int(asked) >= hosts or not 0 <= self.values.slice < len(nodes):
            raise UserError(
                f"--worker={asked} --slice={self.values.slice}: {self.name} has {len(nodes)} "
                f"slice{'s' * (len(nodes) > 1)} of {hosts} machines, counted from 0; or --worker=all"
            )
        return [Worker(nodes[self.values.slice], int(asked))]


def _create(call: Call) -> int:
    _ = call.pod
    create(call.pod, call.config)
    say(f"{call.name} is ready, and costs money until it is deleted: {call.again('delete')}")
    return 0


def _setup(call: Call) -> int:
    _ = call.archive
    call.need(ours=True)
    call.workers.setup(call.config, call.archive)
    return 0


def _run(call: Call) -> int:
    launch = _checked(call, plan=False)
    call.need(ours=True)
    return _done(call, launch.run(create_first=False))


def _up(call: Call) -> int:
    if call.values.no_plan:
        say("--no-plan: whether the run fits the memory of the chips is not known before it starts")
    return _done(call, _checked(call, plan=not call.values.no_plan).run(create_first=True))


def _checked(call: Call, *, plan: bool) -> Launch:
    """Do all checks that need no machine, and return the launch."""
    job, archive = call.job, call.archive
    preflight_checks.check_config_file(job, archive)
    pod = call.pod
    if pod.attached:
        attach(pod)
    preflight_checks.check_plan(job, call.config, call.runner, full=False)
    preflight_checks.check_workdir(job, call.runner)
    if plan:
        preflight_checks.check_plan(job, call.config, call.runner, full=True)
    return Launch(pod, call.config, job, archive)


def _done(call: Call, status: int) -> int:
    if status == 0 and call.values.delete:
        return _delete(call)
    if call.pod.attached:
        say(f"{call.name} was attached, and is left as it is")
        return status
    say(f"the pod is still there, and costs money; to delete it: {call.again('delete')}")
    return status


def _status(call: Call) -> int:
    seen = observe(call.pod, all_of_it=True)
    answers = call.workers.status() if seen.ready else None
    terminal.say(status_table(call.pod, seen, answers))
    return 0


def _logs(call: Call) -> int:
    call.need()
    lines = max(0, call.values.lines)
    followers = [
        Follower(call.workers, worker, lines=lines, on=call.values.follow) for worker in call.chosen("0")
    ]
    for follower in followers:
        follower.run() if call.runner.dry else follower.start()
    for follower in followers:
        while follower.is_alive():
            follower.join(0.5)  # with a time limit, so that Ctrl-C works
    return 0


def _ssh(call: Call) -> int:
    gcloud = call.pod.gcloud
    # A single argument is text for the remote shell, as in 'ls | wc -l'. Several are a program and its arguments.
    command = call.command[0] if len(call.command) == 1 else shlex.join(call.command)
    if call.values.worker == "all":
        if not command:
            raise UserError("--worker=all needs a command: -- COMMAND")
        statuses = [call.runner.interactive(gcloud.ssh(node, "all", command)) for node in call.pod.nodes]
        return next((status for status in statuses if status), 0)
    worker = call.chosen("0")[0]
    return call.runner.interactive(gcloud.ssh(worker.node, str(worker.index), command))


def _stop(call: Call) -> int:
    seen = observe(call.pod)
    if not seen.ready:
        say(f"nothing runs on {call.name} in {call.pod.gcloud.zone}: {seen}")
        return 0
    say(f"telling the job to save and stop; it has {call.config.tpu.grace_seconds} s")
    answers = call.workers.stop(call.config.tpu.grace_seconds)
    stopped = [fields for fields in answers.of.values() if fields and fields.get("stopped")]
    killed = [fields for fields in stopped if fields.get("killed")]
    if answers.missing:
        raise UserError(f"{len(answers.missing)} machines do not answer: {answers.complaint}")
    if not stopped:
        say("no job was running")
    else:
        say(
            f"stopped{f', on {len(killed)} machines by force' if killed else ''}: {judge(answers.of).stage.value}"
        )
    return 0


def _delete(call: Call) -> int:
    existed = delete(call.pod)
    gcloud = call.pod.gcloud
    nothing = f"there is nothing called {call.name} in {gcloud.zone} of {gcloud.project}"
    say(f"{call.name} is deleted: nothing is left of it" if existed else nothing)
    return 0


COMMANDS: dict[str, Callable[[Call], int]] = {
    "up": _up,
    "create": _create,
    "setup": _setup,
    "run": _run,
    "status": _status,
    "logs": _logs,
    "ssh": _ssh,
    "stop": _stop,
    "delete": _delete,
}
OF_VERBS = {
    "no_plan": ("up",),
    "attach": ("up", "setup", "run"),
    "delete": ("up", "run"),
    "follow": ("logs",),
    "lines": ("logs",),
    "worker": ("logs", "ssh"),
    "slice": ("logs", "ssh"),
}
"""Flags that only some commands read."""
MAKES = ("up", "create")
"""Commands that need no pod at their start."""
STARTS = ("up", "run", "create", "setup")
"""Commands after which something that costs money may exist when a Ctrl-C interrupts them."""


def main(argv: Sequence[str]) -> int:
    """Run a command of the launcher.

    Returns:
      The exit status: 0 done or finished, 1 the job failed, 2 a user's mistake, 75 the job was stopped or lost and can
      continue, 130 interrupted.
    """
    own, command = split(argv)
    if {"--help", "-h"} & set(own):
        terminal.say(__doc__ or "")
        parse(LaunchConfig, own, _flags)
    (verb, name), rest = take_words(own, ["COMMAND", "NAME"])
    if verb not in COMMANDS:
        raise UserError(f"{verb!r} is not a command; there are {', '.join(COMMANDS)}")
    check_name(name)
    rest = [_underscored(argument) for argument in rest]
    fields = [argument for argument in rest[1:] if argument.startswith("--config")]
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in rest[1:]):
        rest.insert(1, f"--config={ROOT / DEFAULT_CONFIG}")
    given = read(LaunchConfig, rest, _flags, unused=unused_by("tpu"))
    values = given.values
    _check_flags(verb, values)
    config = settled(given.config, given.given, of_attached) if values.attach else given.config
    say_all(given.given)
    hosts = preflight_checks.check_machines(config).hosts * config.tpu.slices
    if command and verb not in ("up", "run", "ssh"):
        raise UserError(f"{verb} takes no command after --")
    there = values.attach or verb not in MAKES
    runner = DryRunner(name, config.tpu.accelerator, there=there) if values.dry_run else Runner()
    call = Call(name, config, values, command, hosts, runner, fields)
    if verb in ("up", "run"):
        _ = call.job
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM acts like Ctrl-C
    try:
        status = COMMANDS[verb](call)
        if values.dry_run:
            say("a dry run: nothing was executed")
        return status
    except UnreachableError as error:
        raise UserError(f"{name}: {error}") from error
    except KeyboardInterrupt:
        return _interrupted(call, verb)
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_flags(verb: str, values: flags.FlagValues) -> None:
    """Refuse a flag that the command does not read."""
    for flag, verbs in OF_VERBS.items():
        if values[flag].present and verb not in verbs:
            raise UserError(
                f"--{flag} has no effect on {verb}: it is a flag of {' and '.join(verbs)}; leave it out"
            )
    if values.attach and values["delete"].value:
        raise UserError("--delete has no effect with --attach, which never deletes a TPU VM; leave it out")
    if values.worker == "all" and values["slice"].present:
        raise UserError(f"--worker=all means all machines of all slices; leave out --slice={values.slice}")


def _underscored(argument: str) -> str:
    """Write a flag's name with underscores, as absl expects it (--dry_run). Config fields and values do not change."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name.startswith("--config"):
        return argument
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _interrupted(call: Call, verb: str) -> int:
    """After a Ctrl-C, tell the user which resources exist, and how to continue or delete them."""
    if verb not in STARTS:
        return INTERRUPTED
    try:
        seen = observe(call.pod, all_of_it=True)
        left = "nothing has been created" if seen.absent else f"there is: {seen}"
    except (UserError, KeyboardInterrupt) as error:
        seen, left = None, f"what exists is not known ({error or 'interrupted'})"
    say(f"interrupted; {left}")
    if call.values.attach:
        say(f"{call.name} was attached, and is left as it is; a job that has started goes on")
    elif seen is None or not seen.absent:
        say(f"it goes on without this launcher, and costs money; to delete it: {call.again('delete')}")
    if verb in ("up", "run"):
        say(f"the same command follows it again; to tell the job to save and stop: {call.again('stop')}")
    return INTERRUPTED


if __name__ == "__main__":
    run(main)

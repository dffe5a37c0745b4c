"""Checks before the pod costs money: the machines, the workdir, the config, and the memory of the chips."""

import os
import re
import sys
from collections.abc import Sequence

from base.errors import UserError
from base.tpu_types import TpuSlice, tpu_slice
from launch.archive import Archive
from launch.config import LaunchConfig
from launch.job import Job
from launch.launch_command import flag_of, module_of
from launch.subprocesses import Runner, say
from launch.tpu import gcloud
from launch.tpu.gcloud_errors import Failure, classify, message

PROBE = ".launch-probe"
LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")
FIELDS = {
    "runtime_version": (r"[a-z0-9][a-z0-9.-]*", "an image of TPU VMs: tpu-ubuntu2204-base"),
    "network": (r"[A-Za-z0-9][\w.:/-]*", "the name of a network"),
    "subnetwork": (r"[A-Za-z0-9][\w.:/-]*", "the name of a subnetwork"),
    "service_account": (r"[A-Za-z0-9][\w.@:-]*", "a service account: NAME@PROJECT.iam.gserviceaccount.com"),
    "valid_until": (r"(\d+[smhdw])+", "a duration: 6h, 1d12h"),
}
"""Fields of config.tpu that go to gcloud unchanged: pattern of a right value, and its description for the message."""
ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
DOES_NOT_FIT = 3
"""Exit status of pretrain.plan when the run needs more memory than the chips have."""


def check_machines(config: LaunchConfig) -> TpuSlice:
    """The TPU slice that a launch config requests.

    Raises:
      UserError: the type does not exist or has no TPU VMs, a value is malformed, or two fields contradict each other.
    """
    tpu = config.tpu
    try:
        slice_ = tpu_slice(tpu.accelerator)
    except UserError as error:
        raise UserError(f"config.tpu.accelerator: {error}") from error
    if slice_.gke_only:
        raise UserError(
            f"config.tpu.accelerator={tpu.accelerator!r} is available only on Google Kubernetes Engine: use "
            "python -m launch.kubernetes"
        )
    if tpu.zone and not ZONE.fullmatch(tpu.zone):
        raise UserError(f"config.tpu.zone={tpu.zone!r} should be a zone, not a region, as in us-central2-b")
    if tpu.slices < 1:
        raise UserError(f"config.tpu.slices={tpu.slices} should be 1 or more")
    if tpu.slices > 1 and not tpu.queued:
        raise UserError(f"config.tpu.slices={tpu.slices} needs a queued resource: set config.tpu.queued=True")
    if tpu.capacity == "guaranteed" and not tpu.queued:
        raise UserError(
            "config.tpu.capacity='guaranteed' needs a queued resource: set config.tpu.queued=True"
        )
    for field, (pattern, right) in FIELDS.items():
        value = getattr(tpu, field)
        if value and not re.fullmatch(pattern, value, re.ASCII):
            raise UserError(f"config.tpu.{field}={value!r} should be {right}")
    if not re.fullmatch(r"[A-Za-z0-9/][\w./+-]*", config.python, re.ASCII):
        raise UserError(
            f"config.python={config.python!r} should name a Python on the machines, or a version, as in python3.11"
        )
    for index, extra in enumerate(config.extras):
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", extra, re.ASCII):
            raise UserError(f"config.extras[{index}]={extra!r} should be the name of an extra: tpu")
    for index, label in enumerate(tpu.labels):
        if not LABEL.fullmatch(label):
            raise UserError(
                f"config.tpu.labels[{index}]={label!r} should be KEY=VALUE in small letters and digits"
            )
    return slice_


def find_place(config: LaunchConfig, runner: Runner) -> tuple[str, str]:
    """The project and the zone of the pod, from the config or else from gcloud's settings.

    Raises:
      UserError: neither of them has a value, or the value is not a name.
    """
    places = []
    for field, setting in (("project", "project"), ("zone", "compute/zone")):
        value = getattr(config.tpu, field) or runner.run(gcloud.config_value(setting)).stdout.strip()
        if not value or value == "(unset)":
            raise UserError(f"no {field}: set config.tpu.{field}, or gcloud config set {setting} ...")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]*", value):
            raise UserError(f"config.tpu.{field}={value!r} is not a valid name of a {field}")
        places.append(value)
    return places[0], places[1]


def check_workdir(job: Job, runner: Runner) -> None:
    """Write a test file into a workdir in a bucket, and remove the file.

    Raises:
      UserError: the workdir is not writable.
    """
    if not job.workdir.startswith("gs://"):
        return
    probe = f"{job.workdir.rstrip('/')}/{PROBE}"
    result = runner.run(gcloud.store(probe), stdin="written to see whether it can be\n")
    if not result.ok:
        retry = " (or try again)" if classify(result) is Failure.TRANSIENT else ""
        raise UserError(f"--workdir={job.workdir} cannot be written{retry}: {message(result)}")
    runner.run(gcloud.remove(probe))


def check_config_file(job: Job, archive: Archive) -> None:
    """Check that the machines get the config file that the command names.

    Raises:
      UserError: the file is not among the files for the machines.
    """
    if module_of(job.command) not in ("pretrain", "finetune", "tokenizer"):
        return
    path = (flag_of(job.command, "config") or "").partition(":")[0]
    if path and os.path.normpath(path) not in archive.names:
        raise UserError(
            f"--config={path} is not in {archive.label}, which the machines get; name a file of the project, "
            "as in --config=configs/roberta_base.py"
        )


def plan_call(job: Job, config: LaunchConfig, *, full: bool) -> list[str]:
    """The command line of pretrain.plan for a pretraining command; [] for other commands.

    Args:
      job: the job with the command.
      config: the launch config, with the type, the slices and the price.
      full: whether to compile the train step; False only checks the config (--check).
    """
    if module_of(job.command) != "pretrain":
        return []
    return [
        sys.executable,
        "-m",
        "pretrain.plan",
        *config_arguments(job.command),
        f"--topology={config.tpu.slices}x {config.tpu.accelerator}" if config.tpu.slices > 1 else
        f"--topology={config.tpu.accelerator}",
        *([] if full else ["--check"]),
        *([f"--price={config.price:g}"] if full and config.price else []),
    ]  # fmt: skip


def config_arguments(command: Sequence[str]) -> list[str]:
    """The arguments of a command that set its config: --config=... and --config.FIELD=..."""
    taken: list[str] = []
    arguments = iter(command)
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name.lstrip("-") == "config" or name.lstrip("-").startswith("config."):
            taken.append(argument)
            if not equals:
                taken += [value for value in (next(arguments, None),) if value is not None]
    return taken


def check_plan(job: Job, config: LaunchConfig, runner: Runner, *, full: bool) -> None:
    """Let pretrain.plan check the run for this pod.

    Args:
      job: the job with the command; nothing is checked for other commands than pretraining.
      config: the launch config.
      runner: runs pretrain.plan on this machine.
      full: False checks that the config loads and that its sizes divide by the mesh. True also compiles the train
        step, and checks that it fits the memory of the chips.

    Raises:
      UserError: the run cannot be planned, or it does not fit.
    """
    call = plan_call(job, config, full=full)
    if not call:
        return
    if not full:
        result = runner.run(call)
        if not result.ok:
            raise UserError(_last_error(result.stderr) or f"pretrain.plan --check failed: {message(result)}")
        return
    say("compiling the train step here, before the pod costs money (--no-plan skips this)")
    status = runner.show(call, seconds=7200.0)
    if status == DOES_NOT_FIT:
        raise UserError(
            f"the run does not fit the memory of {config.tpu.accelerator}: see the plan above; more slices or chips, "
            "config.mesh.fsdp, config.model.remat or config.grad_accum reduce the memory of each chip"
        )
    if status:
        raise UserError(
            f"the run could not be planned (exit status {status}, see above). A plan needs libtpu "
            "(pip install -c constraints.txt -e .[plan]); --no-plan goes on without a plan"
        )


def _last_error(stderr: str) -> str:
    """The message of a command's last error line; "" if there is none."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else ""

"""`python -m launch.kubernetes NAME --config=configs/launch_gke_tpu.py -- python -m pretrain ...`: a manifest.

The manifest has an indexed Job with one Pod on each machine, and a headless Service through which the Pods find each
other. For several TPU slices it has a JobSet with one Job for each slice. The manifest is printed, or written to --out.
`kubectl apply -f` starts the run.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from base import terminal
from base.command_line import parse, run
from base.errors import UserError
from base.storage import write_out
from launch import launch_command as commands
from launch.config import KubernetesConfig, LaunchConfig, unused_by
from launch.finished import UNFINISHED
from launch.kubernetes.pods import Machines, machines, pod
from launch.kubernetes.yaml_text import dump
from launch.variables import check_names

EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
"""JobSet's annotation that gives each Job a node pool of its own. A node pool is a slice."""
USER_ERROR = 2
"""Exit status of a user's mistake; another start would not help."""
STOPPED_EARLY = 143
"""Exit status of a process that SIGTERM stopped before the run's first step."""
FAIL: dict[str, Any] = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [USER_ERROR]}}
"""Rule that ends a Job at once."""
IGNORE: tuple[dict[str, Any], ...] = (
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [UNFINISHED, STOPPED_EARLY]}},
)
"""Rules for ends that are not failures: the cloud took the node away, or the run was stopped, and is saved or had not
made a step."""
LONGEST_NAME = 40
"""Most characters of a run's name. The names of Pods, NAME-slice-0-15-abcde, have at most 63."""


def main(argv: Sequence[str]) -> int:
    """Render the manifest of a run, and print it or write it to a file."""
    own, command = commands.split(argv)
    name, own = commands.take_name(own)
    config, values = parse(LaunchConfig, own, _flags, unused=unused_by("kubernetes"))
    text = render(name, command, config, os.environ)
    if values.out:
        write_out(values.out, text, "--out")
        terminal.say(
            f"written: {values.out}; to start the run: {shlex.join(['kubectl', 'apply', '-f', values.out])}"
        )
    else:
        terminal.pass_on(text)
    return 0


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "out", "", "write the manifest to this file instead of printing it", flag_values=values
    )


def render(name: str, command: Sequence[str], config: LaunchConfig, environment: Mapping[str, str]) -> str:
    """The manifest as YAML, ready for `kubectl apply -f`."""
    title = f"# Run {name}, rendered by python -m launch.kubernetes.\n"
    return title + dump(objects(name, command, config, environment))


def objects(
    name: str, command: Sequence[str], config: LaunchConfig, environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The Kubernetes objects of a run: a Service and a Job, or a JobSet, which makes its own Service.

    Args:
      name: the run's name.
      command: the command after `--`.
      config: the launch config; its group `kubernetes` and the shared fields are used.
      environment: values of the variables in config.env.

    Raises:
      UserError: there is no command, the workdir would vanish with its Pod, or Kubernetes would refuse a field's value.
    """
    _check_name("NAME", name, LONGEST_NAME)
    check_names(config, command)
    job = config.kubernetes
    command, workdir = commands.with_workdir(command, config.workdir, name)
    if "://" not in workdir:
        raise UserError(
            f"--workdir={workdir} is on a Pod's own disk, which is deleted with the Pod; name a bucket, gs://..."
        )
    _check(job)
    hardware = machines(job)
    metadata = {"name": name, "namespace": job.namespace, "labels": {"app.kubernetes.io/name": "unmask"}}
    template = pod(name, _until_finished(command, workdir), config, hardware, environment)
    if hardware.slices > 1:
        return [_job_set(metadata, template, job, hardware)]
    indexed = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": _job(template, hardware.nodes, job.max_restarts * hardware.nodes, [FAIL, *IGNORE]),
    }
    return [_service(metadata), indexed] if hardware.nodes > 1 else [indexed]


def _until_finished(command: Sequence[str], workdir: str) -> list[str]:
    """Wrap the command so that its exit status is 0 only for a finished run. Kubernetes never restarts a Pod with 0."""
    markers = commands.markers(command, workdir)
    if not markers:
        return list(command)
    return [commands.python_of(command), "-m", "launch.finished", *markers, "--", *command]


def _service(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The Service that gives each Pod a host name, NAME-INDEX.NAME, even before the Pod is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": dict(metadata),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"job-name": metadata["name"]},
        },
    }


def _job(
    template: dict[str, Any], nodes: int, failures: int, rules: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The spec of a Job. All Pods start at once, and each has an index. Up to `failures` failed Pods are replaced."""
    return {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": failures,
        "podFailurePolicy": {"rules": list(rules)},
        "template": template,
    }


def _job_set(
    metadata: dict[str, Any], template: dict[str, Any], job: KubernetesConfig, hardware: Machines
) -> dict[str, Any]:
    """A JobSet with one Job for each slice. GKE sets the variables MEGASCALE_*, through which the slices connect.

    The run cannot continue without one of its slices. So every failure of a Pod fails its Job, and JobSet restarts all
    Jobs; only a user's mistake ends the JobSet.
    """
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {**metadata, "annotations": {EXCLUSIVE: "cloud.google.com/gke-nodepool"}},
        "spec": {
            "failurePolicy": {
                "maxRestarts": job.max_restarts,
                "rules": [
                    {
                        "name": "usererror",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {
                    "name": "slice",
                    "replicas": hardware.slices,
                    "template": {"spec": _job(template, hardware.nodes, 0, [FAIL])},
                }
            ],
        },
    }


def _check_name(what: str, name: str, longest: int) -> None:
    if len(name) > longest or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise UserError(
            f"{what}={name!r} should have at most {longest} characters: lower-case letters, digits and '-', with a "
            "letter first and no '-' at the end (Kubernetes uses it in host names)"
        )


def _check(job: KubernetesConfig) -> None:
    """Refuse values that Kubernetes would refuse or misread."""
    _check_name("config.kubernetes.namespace", job.namespace, 63)
    if job.service_account:
        _check_name("config.kubernetes.service_account", job.service_account, 63)
    if not re.fullmatch(r"[a-z0-9][\w.:/@-]*", job.image, re.ASCII):
        raise UserError(
            f"config.kubernetes.image={job.image!r} should name the image that the Dockerfile made: "
            "REGION-docker.pkg.dev/PROJECT/REPOSITORY/unmask:TAG"
        )
    for field, pattern, right in (("cpu", r"\d+m?", "8 or 7500m"), ("memory", r"\d+[KMGT]i?", "64Gi")):
        value = getattr(job, field)
        if value and not re.fullmatch(pattern, value, re.ASCII):
            raise UserError(
                f"config.kubernetes.{field}={value!r} should be a quantity of Kubernetes, {right}"
            )
    limits = {
        "slices": 1,
        "nodes": 1,
        "gpus_per_node": 1,
        "max_restarts": 0,
        "grace_seconds": 1,
        "wait_seconds": 1,
    }
    for field, least in limits.items():
        if getattr(job, field) < least:
            raise UserError(f"config.kubernetes.{field}={getattr(job, field)} should be at least {least}")
    for label in job.node_selector:
        if not re.fullmatch(r"[A-Za-z0-9][\w./-]*=[\w.-]*", label, re.ASCII):
            raise UserError(f"config.kubernetes.node_selector: {label!r} should be KEY=VALUE")


if __name__ == "__main__":
    run(main)

"""The machines of a Kubernetes run, and the template of its Pods; each machine runs one Pod."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base.errors import UserError
from base.tpu_types import parse_topology
from launch.config import KubernetesConfig, LaunchConfig
from launch.kubernetes.yaml_text import literal
from launch.variables import is_text

GKE_NAMES = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
"""GKE's label cloud.google.com/gke-tpu-accelerator, by generation."""
PORTS = (8471, 8080)
"""Ports on which TPU hosts connect, within a slice and between slices."""
COORDINATOR_PORT = 8476
LOCKED_KIB = 68719476736
"""Limit on locked memory for a Pod without privileges, in KiB. Source: GKE's page on TPUs."""
KIND, RUN = "app.kubernetes.io/name", "app.kubernetes.io/instance"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
SECRET_LIKE = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY")


@dataclass(frozen=True)
class Machines:
    """The machines of a run."""

    tpu: bool
    accelerator: str
    """GKE's name of the TPU or GPU."""
    topology: str
    """Number of TPU chips along each axis, as in 2x2x4; "" for GPUs."""
    slices: int
    nodes: int
    """Number of machines of each slice."""
    chips: int
    """Number of chips, or GPUs, of each machine."""

    @property
    def processes(self) -> int:
        """Number of processes; each machine runs one."""
        return self.slices * self.nodes


def machines(job: KubernetesConfig) -> Machines:
    """The machines that a config requests.

    Raises:
      UserError: the accelerator is missing or unknown, or a run of several slices has slices of one machine; GKE does
        not join such slices.
    """
    if not job.accelerator:
        raise UserError(
            "config.kubernetes.accelerator is not set: a TPU type (tpu7x-32, v6e-16), or GKE's name of a GPU "
            "(nvidia-h100-80gb, nvidia-l4)"
        )
    if job.accelerator.startswith("nvidia-"):
        if not re.fullmatch(r"[a-z0-9-]+", job.accelerator):
            raise UserError(
                f"config.kubernetes.accelerator={job.accelerator!r} should be GKE's name of a GPU: nvidia-h100-80gb"
            )
        if job.slices > 1:
            raise UserError(
                f"config.kubernetes.slices={job.slices} is for TPUs; GPUs have config.kubernetes.nodes"
            )
        return Machines(False, job.accelerator, "", 1, job.nodes, job.gpus_per_node)
    number, slice_ = parse_topology(job.accelerator)
    if number > 1:
        raise UserError(
            f"config.kubernetes.accelerator={job.accelerator!r} should be the type of one slice, "
            f"{slice_.accelerator}; set config.kubernetes.slices={number}"
        )
    if slice_.generation not in GKE_NAMES:
        raise UserError(
            f"config.kubernetes.accelerator={job.accelerator!r}: for {slice_.generation} use TPU VMs (python -m "
            f"launch.tpu); GKE has node pools of {', '.join(GKE_NAMES)}"
        )
    if job.slices > 1 and slice_.hosts == 1:
        raise UserError(
            f"config.kubernetes.slices={job.slices}: GKE joins slices of several machines only, and "
            f"{slice_.accelerator} has one; take a larger slice"
        )
    return Machines(
        True,
        GKE_NAMES[slice_.generation],
        slice_.topology.partition(":")[2],
        job.slices,
        slice_.hosts,
        slice_.chips // slice_.hosts,
    )


def pod(
    name: str,
    command: Sequence[str],
    config: LaunchConfig,
    hardware: Machines,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """The template of a run's Pods.

    Args:
      name: the name of the run and of its Service.
      command: the command of the container.
      config: the launch config.
      hardware: the machines of the run.
      environment: values of the variables in config.env.

    Raises:
      UserError: a variable of config.env is not set, or it should be a secret.
    """
    job = config.kubernetes
    resource = "google.com/tpu" if hardware.tpu else "nvidia.com/gpu"
    amount = {resource: hardware.chips}
    asked = {name: value for name, value in (("cpu", job.cpu), ("memory", job.memory)) if value}
    if hardware.tpu and not job.privileged:
        command = _with_locked_memory(command)
    container: dict[str, Any] = {
        "name": "run",
        "image": job.image,
        "command": [literal(argument) for argument in command],
        "env": _environment(name, config, hardware, environment),
        "resources": {"requests": {**asked, **amount}, "limits": amount},
        "securityContext": _security(hardware, job),
    }
    if hardware.tpu:
        container["ports"] = [{"containerPort": port} for port in PORTS[: 2 if hardware.slices > 1 else 1]]
    elif hardware.nodes > 1:
        container["ports"] = [{"containerPort": COORDINATOR_PORT}]
    if not hardware.tpu:
        container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "nodeSelector": _labels(hardware, job),
        "tolerations": _tolerations(resource, spot=job.spot),
        "containers": [container],
    }
    if not hardware.tpu:  # NCCL puts its buffers in /dev/shm, of which a container has only 64 MB
        spec["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if hardware.nodes > 1 and hardware.slices == 1:  # for several slices, JobSet sets the subdomain
        spec["subdomain"] = name
        if hardware.tpu:
            spec["affinity"] = _one_slice(name)
    return {"metadata": {"labels": {KIND: "unmask", RUN: name}}, "spec": spec}


def _one_slice(name: str) -> dict[str, Any]:
    """The affinity that puts all Pods of the run into one node pool without other runs. A node pool is a slice.

    JobSet does the same for several slices.
    """
    pool = {"topologyKey": "cloud.google.com/gke-nodepool"}
    ours = {"matchLabels": {RUN: name}}
    others = {
        "matchLabels": {KIND: "unmask"},
        "matchExpressions": [{"key": RUN, "operator": "NotIn", "values": [name]}],
    }
    return {
        kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": selector, **pool}]}
        for kind, selector in (("podAffinity", ours), ("podAntiAffinity", others))
    }


def _labels(hardware: Machines, job: KubernetesConfig) -> dict[str, str]:
    """The labels that a node must have."""
    labels = (
        {
            "cloud.google.com/gke-tpu-accelerator": hardware.accelerator,
            "cloud.google.com/gke-tpu-topology": hardware.topology,
        }
        if hardware.tpu
        else {"cloud.google.com/gke-accelerator": hardware.accelerator}
    )
    if job.spot:
        labels["cloud.google.com/gke-spot"] = "true"
    return labels | dict(label.split("=", 1) for label in job.node_selector)


def _tolerations(resource: str, *, spot: bool) -> list[dict[str, str]]:
    """The tolerations of the Pods. Nodes with accelerators have a taint, and spot nodes have another one."""
    tolerated = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    if spot:
        tolerated.append(
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    return tolerated


def _security(hardware: Machines, job: KubernetesConfig) -> dict[str, Any]:
    """The fewest rights that work. TPU devices belong to root, and libtpu locks the memory that the chips write to."""
    if not hardware.tpu:
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
        }
    if job.privileged:
        return {"runAsUser": 0, "privileged": True}
    return {"runAsUser": 0, "capabilities": {"add": ["SYS_RESOURCE"]}}


def _with_locked_memory(command: Sequence[str]) -> list[str]:
    """Wrap the command in a shell that first raises the limit on locked memory. The shell needs SYS_RESOURCE for it."""
    return ["sh", "-c", f'ulimit -l {LOCKED_KIB} && exec "$@"', "sh", *command]


def _environment(
    name: str, config: LaunchConfig, hardware: Machines, environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The environment variables of the container: addresses of the processes, config.env and config.secrets."""
    plain: dict[str, Any] = {}
    if hardware.processes > 1:
        plain["UNMASK_DISTRIBUTED"] = "1"
        plain["UNMASK_INITIALIZATION_SECONDS"] = str(config.kubernetes.wait_seconds)
    variables: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in plain.items()]
    # TPU processes need no addresses here: GKE sets TPU_WORKER_HOSTNAMES and MEGASCALE_*.
    if not hardware.tpu and hardware.processes > 1:
        variables += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-0.{name}:{COORDINATOR_PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(hardware.processes)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        ]
    for key in config.env:
        if SECRET_LIKE.search(key.upper()):
            raise UserError(
                f"config.env names {key}, whose value would be in the manifest; make it a Kubernetes Secret and set "
                f"config.secrets={key}=SECRET"
            )
        if key not in environment:
            raise UserError(f"config.env names {key}, not set here; export it, or take it out")
        if not is_text(environment[key]):
            raise UserError(f"config.env names {key}, whose value is not UTF-8 text, as a manifest is")
        variables.append({"name": key, "value": literal(environment[key])})
    for secret in config.secrets:
        variables.append(_secret(secret))
    return variables


def _secret(text: str) -> dict[str, Any]:
    """A variable from a Kubernetes Secret: NAME=SECRET/KEY, or NAME=SECRET if the key has the variable's name."""
    match = re.fullmatch(r"(\w+)=([a-z0-9][a-z0-9.-]*)(?:/([\w.-]+))?", text, re.ASCII)
    if match is None:
        raise UserError(
            f"config.secrets: {text.partition('=')[0]}=... should be NAME=SECRET or NAME=SECRET/KEY, where SECRET is a "
            "Kubernetes Secret"
        )
    key, secret, item = match.groups()
    return {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": item or key}}}

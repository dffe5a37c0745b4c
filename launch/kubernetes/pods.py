"""What runs on each machine of a Kubernetes run: which machines, and the Pod that has one of them."""

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
"""Where TPU hosts reach each other, within a slice and between slices."""
COORDINATOR_PORT = 8476
LOCKED_KIB = 68719476736
"""What GKE's page on TPUs says that a Pod without privileges should be allowed to lock, in KiB."""
KIND, RUN = "app.kubernetes.io/name", "app.kubernetes.io/instance"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
SECRET_LIKE = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY")


@dataclass(frozen=True)
class Machines:
    """The machines of a run."""

    tpu: bool
    accelerator: str
    """GKE's name."""
    topology: str
    """Of TPUs: chips along each axis."""
    slices: int
    nodes: int
    """Machines of each slice."""
    chips: int
    """Chips, or GPUs, of each machine."""

    @property
    def processes(self) -> int:
        """One on each machine."""
        return self.slices * self.nodes


def machines(job: KubernetesConfig) -> Machines:
    """The machines that a config asks for.

    Raises:
      UserError: no accelerator, an unknown one, or slices of one machine, which GKE does not join.
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
            f"config.kubernetes.accelerator={job.accelerator!r}: of {slice_.generation} use TPU VMs (python -m "
            f"launch.tpu); GKE node pools are made of {', '.join(GKE_NAMES)}"
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
    name: str, command: Sequence[str], config: LaunchConfig, found: Machines, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The template of a run's Pods.

    Args:
      name: the run's name, which is the Service's too.
      command: what the container runs.
      config: the launch config.
      found: the machines.
      environment: where the values of config.env are taken from.

    Raises:
      UserError: a variable that is not set, or that should be a secret.
    """
    job = config.kubernetes
    resource = "google.com/tpu" if found.tpu else "nvidia.com/gpu"
    amount = {resource: found.chips}
    asked = {name: value for name, value in (("cpu", job.cpu), ("memory", job.memory)) if value}
    if found.tpu and not job.privileged:
        command = _with_locked_memory(command)
    container: dict[str, Any] = {
        "name": "run",
        "image": job.image,
        "command": [literal(argument) for argument in command],
        "env": _environment(name, config, found, environment),
        "resources": {"requests": {**asked, **amount}, "limits": amount},
        "securityContext": _security(found, job),
    }
    if found.tpu:
        container["ports"] = [{"containerPort": port} for port in PORTS[: 2 if found.slices > 1 else 1]]
    elif found.nodes > 1:
        container["ports"] = [{"containerPort": COORDINATOR_PORT}]
    if not found.tpu:
        container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "nodeSelector": _labels(found, job),
        "tolerations": _tolerations(resource, spot=job.spot),
        "containers": [container],
    }
    if not found.tpu:  # NCCL's buffers; a container has 64 MB of its own
        spec["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if found.nodes > 1 and found.slices == 1:  # JobSet sets its own
        spec["subdomain"] = name
        if found.tpu:
            spec["affinity"] = _one_slice(name)
    return {"metadata": {"labels": {KIND: "unmask", RUN: name}}, "spec": spec}


def _one_slice(name: str) -> dict[str, Any]:
    """All Pods of the run in one node pool, which is a slice, and other runs in others, as JobSet would have it."""
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


def _labels(found: Machines, job: KubernetesConfig) -> dict[str, str]:
    """The labels of the nodes that will do."""
    labels = (
        {
            "cloud.google.com/gke-tpu-accelerator": found.accelerator,
            "cloud.google.com/gke-tpu-topology": found.topology,
        }
        if found.tpu
        else {"cloud.google.com/gke-accelerator": found.accelerator}
    )
    if job.spot:
        labels["cloud.google.com/gke-spot"] = "true"
    return labels | dict(label.split("=", 1) for label in job.node_selector)


def _tolerations(resource: str, *, spot: bool) -> list[dict[str, str]]:
    """Nodes with accelerators, and nodes that may be taken away, turn away Pods that do not say they bear it."""
    tolerated = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    if spot:
        tolerated.append(
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        )
    return tolerated


def _security(found: Machines, job: KubernetesConfig) -> dict[str, Any]:
    """As little as will do: TPU devices belong to root, and libtpu locks memory that the chips write to."""
    if not found.tpu:
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
        }
    if job.privileged:
        return {"runAsUser": 0, "privileged": True}
    return {"runAsUser": 0, "capabilities": {"add": ["SYS_RESOURCE"]}}


def _with_locked_memory(command: Sequence[str]) -> list[str]:
    """The command in a shell that raises the limit on locked memory first, as SYS_RESOURCE lets it."""
    return ["sh", "-c", f'ulimit -l {LOCKED_KIB} && exec "$@"', "sh", *command]


def _environment(
    name: str, config: LaunchConfig, found: Machines, environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The variables of the container: how the processes join, config.env, config.secrets."""
    plain: dict[str, Any] = {}
    if found.processes > 1:
        plain["UNMASK_DISTRIBUTED"] = "1"
        plain["UNMASK_INITIALIZATION_SECONDS"] = str(config.kubernetes.wait_seconds)
    variables: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in plain.items()]
    if (
        not found.tpu and found.processes > 1
    ):  # TPU hosts are found by what GKE sets: TPU_WORKER_HOSTNAMES, MEGASCALE_*
        variables += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-0.{name}:{COORDINATOR_PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(found.processes)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        ]
    for key in config.env:
        if SECRET_LIKE.search(key.upper()):
            raise UserError(
                f"config.env names {key}, whose value would stand in the manifest; make it a Kubernetes Secret and set "
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
    """A variable from a Kubernetes Secret: NAME=SECRET, its key called as the variable, or NAME=SECRET/KEY."""
    match = re.fullmatch(r"(\w+)=([a-z0-9][a-z0-9.-]*)(?:/([\w.-]+))?", text, re.ASCII)
    if match is None:
        raise UserError(
            f"config.secrets: {text.partition('=')[0]}=... should be NAME=SECRET or NAME=SECRET/KEY, where SECRET is a "
            "Kubernetes Secret"
        )
    key, secret, item = match.groups()
    return {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": item or key}}}

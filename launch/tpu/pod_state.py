"""The state of a pod in the cloud, and the next action: wait, create it, create it again, or use it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from base.errors import UserError
from launch.subprocesses import Result, Runner
from launch.tpu.gcloud import LABEL, Gcloud, nodes
from launch.tpu.gcloud_errors import Failure, classify, meaning, message

UNKNOWN = "UNKNOWN"
"""The state of a resource about which the cloud gave no answer."""


@dataclass(frozen=True)
class Pod:
    """A pod's name, the gcloud calls for its project and zone, and the runner of these calls."""

    name: str
    gcloud: Gcloud
    runner: Runner
    attached: bool = False
    """Whether to use TPU VMs that exist (--attach), which are neither created nor deleted."""

    @property
    def queued(self) -> bool:
        """Whether a queued resource creates the pod. How an attached TPU VM was created does not matter."""
        return self.gcloud.tpu.queued and not self.attached

    @property
    def nodes(self) -> list[str]:
        """The names of the TPU VMs, one for each slice."""
        return nodes(self.name, self.gcloud.tpu.slices)


@dataclass(frozen=True)
class Seen:
    """The resources of a pod that exist in the cloud, with their states."""

    queued: str | None
    """State of the queued resource; None if there is none."""
    nodes: Mapping[str, str | None] = field(default_factory=dict)
    """State of each TPU VM; None for a TPU VM that does not exist."""
    label: str = ""
    """Name of the pod in this tool's label; empty if this tool did not create the resources."""
    reason: str = ""
    """The cloud's message about a failure."""
    accelerator: str = ""
    """TPU type of the TPU VMs; empty if the cloud does not tell."""

    @property
    def absent(self) -> bool:
        """Whether no resource of the pod exists."""
        return self.queued is None and not any(self.nodes.values())

    @property
    def unanswered(self) -> bool:
        """Whether the cloud gave no answer about one of the resources."""
        return UNKNOWN in (self.queued, *self.nodes.values())

    @property
    def ready(self) -> bool:
        """Whether every TPU VM is ready. Then the machines can be reached."""
        states = [*self.nodes.values()]
        return self.queued in (None, "ACTIVE") and bool(states) and set(states) == {"READY"}

    def __str__(self) -> str:
        """All existing resources with their states, in one line."""
        parts = [f"queued resource {self.queued}"] if self.queued else []
        parts += [f"TPU VM {node} {state}" for node, state in self.nodes.items() if state]
        return ", ".join(parts) or "nothing"


class Do(Enum):
    """The next action for a pod."""

    CREATE = "create"
    WAIT = "wait"
    USE = "use"
    RECREATE = "delete and create again"
    GIVE_UP = "give up"


# States of queued resources. For a state that is not listed here, wait; never delete.
_LOST = ("SUSPENDED", "FAILED")
# States of TPU VMs. A person has stopped a VM that is STOPPED.
_GONE = ("PREEMPTED", "TERMINATED")
_STOPPED = ("STOPPED", "HIDDEN")


def decide(seen: Seen, *, queued: bool) -> Do:
    """Decide the next action for a pod that the user wants.

    Args:
      seen: the resources of the pod in the cloud.
      queued: True if a queued resource creates the pod; False if the TPU VM is created directly.
    """
    states = list(seen.nodes.values())
    if queued and seen.queued is None:
        return Do.CREATE if not any(states) else Do.RECREATE
    if queued and seen.queued in _LOST:
        return Do.GIVE_UP if meaning(seen.reason) is Failure.PERMANENT else Do.RECREATE
    if queued and seen.queued != "ACTIVE":
        return Do.WAIT
    if any(state in _GONE for state in states):
        return Do.RECREATE
    if any(state in _STOPPED for state in states):
        return Do.GIVE_UP
    if not queued and not any(states):
        return Do.CREATE
    return Do.USE if seen.ready else Do.WAIT


def observe(pod: Pod, *, all_of_it: bool = False) -> Seen:
    """Ask the cloud for the resources of a pod.

    Args:
      pod: the pod.
      all_of_it: whether to ask also for resources that the config does not lead to.

    Raises:
      UserError: the cloud refuses the question: no permission, no such project or zone, or no login.
    """
    queued, label, reason, accelerator = None, None, "", ""
    if pod.queued or all_of_it:
        described = _answer(
            pod.runner.run(pod.gcloud.describe(pod.name, queued=True)), f"queued resource {pod.name}"
        )
        queued = _state(described)
        label, reason = _label_of_nodes(described), _reason(described)
        if queued not in (None, "ACTIVE") and not all_of_it:
            return Seen(queued, {}, label or "", reason)
    states: dict[str, str | None] = {}
    labels = set()
    calls = [pod.gcloud.describe(node, queued=False) for node in pod.nodes]
    for node, result in zip(pod.nodes, pod.runner.run_all(calls)):
        described = _answer(result, f"TPU VM {node}")
        states[node] = _state(described)
        if described is not None:
            labels.add(_label(described))
        accelerator = accelerator or str((described or {}).get("acceleratorType", ""))
    if (
        label is None and len(labels) == 1
    ):  # else the label of the queued resource, which its TPU VMs have too
        label = labels.pop()
    return Seen(queued, states, label or "", reason, accelerator)


def _answer(result: Result, what: str) -> dict[str, Any] | None:
    """The cloud's description of a resource; None if it does not exist, {} if there was no answer."""
    if result.ok:
        try:
            return dict(json.loads(result.stdout))
        except ValueError:
            return {}
    match classify(result):
        case Failure.ABSENT:
            return None
        case Failure.TRANSIENT:
            return {}
    raise UserError(f"gcloud does not tell the state of {what}: {message(result)}")


def _state(described: dict[str, Any] | None) -> str | None:
    if described is None:
        return None
    state = described.get("state", UNKNOWN)
    return str(state.get("state", UNKNOWN) if isinstance(state, dict) else state)


def _label(described: dict[str, Any]) -> str:
    """The value of this tool's label on a TPU VM."""
    return str(described.get("labels", {}).get(LABEL, ""))


def _label_of_nodes(described: dict[str, Any] | None) -> str | None:
    """The value of this tool's label on the TPU VMs that a queued resource creates; None if it does not tell."""
    specs = (described or {}).get("tpu", {}).get("nodeSpec", [])
    return _label(specs[0].get("node", {})) if specs else None


def _reason(described: dict[str, Any] | None) -> str:
    state = (described or {}).get("state", {})
    error = state.get("failedData", {}).get("error", {}) if isinstance(state, dict) else {}
    return str(error.get("message", ""))

"""A pod as the cloud sees it, and what that calls for: wait, make it, make it anew, or use it."""

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
"""The state of what the cloud gave no answer about."""


@dataclass(frozen=True)
class Pod:
    """A pod's name, the calls that concern it, and the runner that makes them."""

    name: str
    gcloud: Gcloud
    runner: Runner

    @property
    def queued(self) -> bool:
        """Whether it is asked for by a queued resource."""
        return self.gcloud.tpu.queued

    @property
    def nodes(self) -> list[str]:
        """The names of its TPU VMs, one a slice."""
        return nodes(self.name, self.gcloud.tpu.slices)


@dataclass(frozen=True)
class Seen:
    """What the cloud has of a pod."""

    queued: str | None
    """State of the queued resource; None where there is none."""
    nodes: Mapping[str, str | None] = field(default_factory=dict)
    """State of each TPU VM that was asked about; None where there is none."""
    label: str = ""
    """The pod that this tool made it for; empty for what others made."""
    reason: str = ""
    """What the cloud says about a failure."""

    @property
    def absent(self) -> bool:
        """Whether nothing is there."""
        return self.queued is None and not any(self.nodes.values())

    @property
    def unanswered(self) -> bool:
        """Whether the cloud gave no answer about some of it."""
        return UNKNOWN in (self.queued, *self.nodes.values())

    def __str__(self) -> str:
        """All that exists, in one line."""
        parts = [f"queued resource {self.queued}"] if self.queued else []
        parts += [f"TPU VM {node} {state}" for node, state in self.nodes.items() if state]
        return ", ".join(parts) or "nothing"


class Do(Enum):
    """What the state of a pod calls for."""

    CREATE = "create"
    WAIT = "wait"
    USE = "use"
    RECREATE = "delete and create again"
    GIVE_UP = "give up"


# Queued resources. A state that is not here is new to us: wait, never delete.
_LOST = ("SUSPENDED", "FAILED")
# TPU VMs. What is STOPPED was stopped by a person.
_GONE = ("PREEMPTED", "TERMINATED")
_STOPPED = ("STOPPED", "HIDDEN")


def decide(seen: Seen, *, queued: bool) -> Do:
    """What to do next about a pod that is wanted.

    Args:
      seen: what the cloud has of it.
      queued: whether it is asked for by a queued resource, or as a TPU VM.
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
    if not queued and states == [None]:
        return Do.CREATE
    return Do.USE if states and all(state == "READY" for state in states) else Do.WAIT


def observe(pod: Pod, *, all_of_it: bool = False) -> Seen:
    """Ask the cloud what there is of a pod.

    Args:
      pod: the pod.
      all_of_it: ask about what the config does not lead one to expect, too.

    Raises:
      UserError: the cloud refuses to say: no permission, no such project or zone, nobody logged in.
    """
    queued, label, reason = None, "", ""
    if pod.queued or all_of_it:
        found = _answer(
            pod.runner.run(pod.gcloud.describe(pod.name, queued=True)), f"queued resource {pod.name}"
        )
        queued = _state(found)
        label, reason = _label(found), _reason(found)
        if queued not in (None, "ACTIVE") and not all_of_it:
            return Seen(queued, {}, label, reason)
    states: dict[str, str | None] = {}
    calls = [pod.gcloud.describe(node, queued=False) for node in pod.nodes]
    for node, result in zip(pod.nodes, pod.runner.run_all(calls)):
        found = _answer(result, f"TPU VM {node}")
        states[node] = _state(found)
        label = label or _label(found)
    return Seen(queued, states, label, reason)


def _answer(result: Result, what: str) -> dict[str, Any] | None:
    """A description; None where the thing does not exist, {} where there was no answer."""
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
    raise UserError(f"gcloud does not say how {what} stands: {message(result)}")


def _state(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    state = found.get("state", UNKNOWN)
    return str(state.get("state", UNKNOWN) if isinstance(state, dict) else state)


def _label(found: dict[str, Any] | None) -> str:
    """Our label, which a queued resource has on what it makes."""
    found = found or {}
    specs = found.get("tpu", {}).get("nodeSpec", [])
    holder = specs[0].get("node", {}) if specs else found
    return str(holder.get("labels", {}).get(LABEL, ""))


def _reason(found: dict[str, Any] | None) -> str:
    state = (found or {}).get("state", {})
    error = state.get("failedData", {}).get("error", {}) if isinstance(state, dict) else {}
    return str(error.get("message", ""))

"""How a process finds and joins the others of its run: by the environment, or by the cluster that jax knows."""

import os
import string
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import clusters  # how jax finds a cluster has no public name

from base.errors import UserError
from pretrain.runtime.roll_call import call_the_roll

DISTRIBUTED = "UNMASK_DISTRIBUTED"
"""1, which launchers set, joins the other processes before anything else. 0 does not join, even if CLUSTER is set."""
CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where all three are set they say who belongs to the run; else jax asks the cluster (TPU pod, Slurm, Kubernetes)."""
HEARTBEAT = "UNMASK_HEARTBEAT_SECONDS"
"""If a process gives no sign of life for this number of seconds, the other processes end."""
JAX_HEARTBEATS = 3
"""jax ends a process with a dump, and may do so after half of its own time. So it gets a longer time, and ends only
processes that cannot end themselves."""
INITIALIZATION = "UNMASK_INITIALIZATION_SECONDS"
"""Number of seconds that a process waits for the other processes at the start."""

DIRECTLY = "no_grpc_proxy"
"""The hosts that gRPC reaches without a proxy, by the ends of their names or addresses."""
EVERY_HOST = ",".join(string.ascii_lowercase + string.digits)


def wanted() -> bool:
    """Whether the environment says that this is one of several processes.

    Raises:
      UserError: UNMASK_DISTRIBUTED is neither 1 nor 0.
    """
    said = os.environ.get(DISTRIBUTED, "")
    if said not in ("", "0", "1"):
        raise UserError(f"{DISTRIBUTED}={said!r} should be 1 or 0")
    return said == "1" or (not said and all(os.environ.get(name) for name in CLUSTER))


def heartbeat_seconds() -> int:
    """Seconds without a sign of life after which a process is taken for dead."""
    return _seconds(HEARTBEAT, 60)


def connect(end: Callable[[str], None]) -> None:
    """Join the other processes.

    Args:
      end: called with a message, in a thread, if not all have come in time; ends the process.

    Raises:
      UserError: they cannot be found, or do not come.
    """
    waiting, heartbeat = _seconds(INITIALIZATION, 300), heartbeat_seconds()
    # jax's own service would take SIGTERM from Python's handlers, so that a process ignores it before its first step.
    jax.config.update("jax_enable_preemption_service", False)
    # jax and libtpu reach the other processes by gRPC, which would use a proxy that is meant for outside connections.
    # Downloads do not read this variable, and still use the proxy.
    os.environ[DIRECTLY] = EVERY_HOST
    jax.config.update("jax_check_proxy_envs", False)  # so there is nothing for jax to warn of
    late = threading.Timer(
        waiting,
        end,
        [f"error: not all processes of the run have come within {waiting} s ({INITIALIZATION})\n"],
    )
    late.daemon = True
    try:
        arguments = _place(waiting)
        if arguments:
            call_the_roll(
                arguments["coordinator_address"],
                arguments["num_processes"],
                arguments["process_id"],
                waiting,
            )
        late.start()
        jax.distributed.initialize(
            **arguments,
            # jax ends the process with a dump: the timer is to be before it
            initialization_timeout=waiting + 60,
            heartbeat_timeout_seconds=JAX_HEARTBEATS * heartbeat + 20,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"the processes of the run could not be joined: {reason}; outside a cluster that jax knows set "
            f"{', '.join(CLUSTER)}, as python -m launch.local does, or leave config.distributed=False"
        ) from error
    finally:
        late.cancel()


def _place(seconds: int) -> dict[str, Any]:
    """The place of this process among the others, as jax takes it; empty where neither tells it.

    Args:
      seconds: how long to wait for a cluster's answer.
    """
    values = [os.environ.get(name, "") for name in CLUSTER]
    given = [int(each) for each in os.environ.get("JAX_LOCAL_DEVICE_IDS", "").split(",") if each]
    local: Sequence[int] | None = given or None
    address: str | None = values[0] or None
    number: int | None
    rank: int | None
    if all(values):
        number, rank = _numbers(*values[1:])
    else:
        address, number, rank, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, local, None, seconds
        )
    if not address or number is None or rank is None:
        return {}
    return {
        "coordinator_address": address,
        "num_processes": number,
        "process_id": rank,
        "local_device_ids": local,
        "cluster_detection_method": "deactivate",
    }


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(name, "") or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{name}={value!r} should be a whole number of seconds")
    return int(value)


def _numbers(number: str, rank: str) -> tuple[int, int]:
    if not (number.isdecimal() and rank.isdecimal() and int(rank) < int(number)):
        raise UserError(
            f"{CLUSTER[1]}={number!r} and {CLUSTER[2]}={rank!r} should be a number of processes and one counted from 0"
        )
    return int(number), int(rank)

"""The processes of one run: how they join, which is the first, what they tell each other, and how they end together.

The first process makes the outputs that a run has once (tokenizer, held-out rows, metrics, pictures). All processes
compute. Their messages go through the key-value store of jax's coordination service. No device takes part, and a
waiting process still sees signals. A run of one process runs the same code and sends nothing.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import string
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # its state, the key-value store among it, has no public name

from base import storage
from base.command_line import INTERRUPTED
from base.errors import UserError
from pretrain.devices.platforms import leave_out_absent_tpu
from pretrain.runtime.roll_call import call_the_roll

T = TypeVar("T")

DISTRIBUTED = "UNMASK_DISTRIBUTED"
"""1, which launchers set, joins the other processes before anything else. 0 does not join, even if CLUSTER is set."""
CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where all three are set they say who belongs to the run; else jax asks the cluster (TPU pod, Slurm, Kubernetes)."""
LOST = re.compile(r"Gloo .*(reset|closed|timed out|broken)|heartbeat|coordination service", re.IGNORECASE)
"""JAX's messages in a process that has waited for a process that has ended."""
HEARTBEAT = "UNMASK_HEARTBEAT_SECONDS"
"""If a process sends no heartbeat for this number of seconds, the other processes end."""
INITIALIZATION = "UNMASK_INITIALIZATION_SECONDS"
"""Number of seconds that a process waits for the other processes at the start."""

DIRECTLY = "no_grpc_proxy"
"""The hosts that gRPC reaches without a proxy, by the ends of their names or addresses."""
EVERY_HOST = ",".join(string.ascii_lowercase + string.digits)

FAILED = "unmask/failed"
LOOK_SECONDS = 0.5  # between looks at whether another process has failed
SLICE_MS = 500  # part of a wait; signal handlers run between two parts
LEAVE_SECONDS = 10.0
"""Seconds after which a process that has to end at once waits for no store."""
LAST_WORDS_SECONDS = 3.0  # the first process ends this much later, so that the others can read its store

_state = distributed.global_state
_calls = itertools.count()  # every process makes the same calls in the same order, so that numbers match
_stop_watching = threading.Event()
_ending = threading.Lock()  # held by the thread that ends this process, so that only one says why


def count() -> int:
    """Processes of the run."""
    return _state.num_processes


def number() -> int:
    """This process's, counted from 0."""
    return _state.process_id


def is_first() -> bool:
    """Whether this process makes what the run has once: files, metrics, pictures, words in the terminal."""
    return _state.process_id == 0


def run(main: Callable[[Sequence[str]], int | None], *, alone: bool = False) -> NoReturn:
    """Run a command's main with sys.argv, as `base.command_line.run` does, on every process of a run.

    All processes end together. If one fails or is stopped, the others end with its exit status. The error of the
    first process that fails is shown once.

    Args:
      main: the command's; may call `join`.
      alone: whether the command needs only one process and a CPU. If it is launched on several processes, the first
        runs it, and the others do nothing.
    """
    leave_out_absent_tpu()
    report = ""
    try:
        if _wanted():
            join()
        status = 0 if alone and not _first_alone() else main(sys.argv) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:
        status, report = 2, f"error: {error}\n"
    except KeyboardInterrupt:
        status, report = INTERRUPTED, "interrupted\n"
    except BaseException as error:
        if failure := storage.outage(error):
            status, report = 1, f"error: {failure}\n"
        elif _state.client is None:
            raise
        elif isinstance(error, jax.errors.JaxRuntimeError) and LOST.search(str(error)):
            gone = "another process of the run is gone; start all again to go on from the last checkpoint"
            status, report = 1, f"error: {gone}\n"
        else:
            status, report = 1, traceback.format_exc()
    _leave(status, report)


def _wanted() -> bool:
    """Whether the environment says that this is one of several processes.

    Raises:
      UserError: UNMASK_DISTRIBUTED is neither 1 nor 0.
    """
    said = os.environ.get(DISTRIBUTED, "")
    if said not in ("", "0", "1"):
        raise UserError(f"{DISTRIBUTED}={said!r} should be 1 or 0")
    return said == "1" or (not said and all(os.environ.get(name) for name in CLUSTER))


def join() -> None:
    """Join the other processes of the run; does nothing where this has been done.

    Raises:
      UserError: they cannot be found, or do not come.
    """
    if _state.client is not None:
        return
    waiting, heartbeat = _seconds(INITIALIZATION, 300), _seconds(HEARTBEAT, 100)
    # jax's own service would take SIGTERM from Python's handlers, so that a process ignores it before its first step.
    jax.config.update("jax_enable_preemption_service", False)
    # jax and libtpu reach the other processes by gRPC, which would use a proxy that is meant for outside connections.
    # Downloads do not read this variable, and still use the proxy.
    os.environ[DIRECTLY] = EVERY_HOST
    jax.config.update("jax_check_proxy_envs", False)  # so there is nothing for jax to warn of
    arguments: dict[str, Any] = {}
    values = [os.environ.get(name, "") for name in CLUSTER]
    if all(values):
        address, number, rank = values[0], *_numbers(*values[1:])
        call_the_roll(address, number, rank, waiting)
        arguments = {
            "coordinator_address": address,
            "num_processes": number,
            "process_id": rank,
            "cluster_detection_method": "deactivate",
        }
    late = threading.Timer(waiting, _too_late, [waiting])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=waiting
            + 60,  # jax ends the process with a dump: the timer is to be before it
            heartbeat_timeout_seconds=heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"the processes of the run could not be joined: {reason}; outside a cluster that jax knows set "
            f"{', '.join(CLUSTER)}, as python -m launch.local does, or leave config.distributed=False"
        ) from error
    finally:
        late.cancel()
    threading.Thread(target=_watch, name="processes", daemon=True).start()


def from_first(make: Callable[[], T]) -> T:
    """Call `make` on the first process only, and return its result (JSON) on all processes; the others wait for it."""
    if count() == 1:
        return make()
    key = _next_key()
    if is_first():
        _client().key_value_set(key, json.dumps(make()))
    return json.loads(_get(key))


def same_as_first(value: T) -> T:
    """The first process's value (JSON). Values that decide to write a checkpoint must be the same on all processes."""
    return from_first(lambda: value)


def first_then_all(make: Callable[[], T]) -> T:
    """Call `make` on the first process, then on the others, which find the first one's files. Returns its result."""
    if count() == 1:
        return make()
    key = _next_key()
    if is_first():
        made = make()
        _client().key_value_set(key, "made")
        return made
    _get(key)
    return make()


def gather(value: T) -> list[T]:
    """Every process's value (JSON), by number, on the first process; nothing on the others, which do not wait."""
    if count() == 1:
        return [value]
    key = _next_key()
    _client().key_value_set(f"{key}/{_state.process_id}", json.dumps(value))
    if not is_first():
        return []
    values = [json.loads(_get(f"{key}/{number}")) for number in range(count())]
    _client().key_value_delete(key)
    return values


def check_same(values: Mapping[str, Any]) -> None:
    """Refuse to go on where a value ({what it is: JSON value}) is not the same on every process.

    Raises:
      UserError: on all processes; the message names one that differs from the first.
    """
    gathered = gather(dict(values))
    if flaw := from_first(lambda: _difference(gathered)):
        raise UserError(flaw)


@contextlib.contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """Call `close` at the end of the block. `close` may wait for the other processes.

    If the block fails on one of several processes, that process does not call `close`, because the others will not.
    """
    try:
        yield
    except BaseException:
        if count() == 1:
            close()
        raise
    close()


def _difference(gathered: Sequence[Mapping[str, Any]]) -> str:
    for number, values in enumerate(gathered):
        for name in sorted({*gathered[0], *values}):
            first, other = gathered[0].get(name), values.get(name)
            if first != other and (first == first or other == other):  # NaN is not like itself
                return (
                    f"the processes of the run disagree: {name} is {first!r} on process 0 and {other!r} on process "
                    f"{number}; start all with the same command, and a --workdir that all of them share"
                )
    return ""


def _first_alone() -> bool:
    """Disconnect from the other processes. Returns True on the first process, which then runs alone on its CPU."""
    if _state.client is None:
        return True
    first = is_first()
    _part()
    _state.process_id, _state.num_processes = 0, 1
    jax.config.update(
        "jax_platforms", "cpu"
    )  # the devices of a pod start on all of its processes or not at all
    return first


def _client() -> Any:
    assert _state.client is not None
    return _state.client


def _next_key() -> str:
    return f"unmask/{next(_calls)}"


def _get(key: str) -> str:
    """The value of a key, once it has one."""
    while True:
        try:
            return _client().blocking_key_value_get(key, SLICE_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


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


def _too_late(seconds: int) -> None:
    _exit(2, f"error: not all processes of the run have come within {seconds} s ({INITIALIZATION})\n")


def _watch() -> None:
    """End this process when another has failed, because it may wait forever in a collective."""
    while not _stop_watching.wait(LOOK_SECONDS):
        try:
            failure = json.loads(_client().key_value_try_get(FAILED))
        except jax.errors.JaxRuntimeError:
            continue  # no process has failed; if process 0 itself is gone, jax's heartbeats end this process
        if failure["process"] != _state.process_id:
            _fail(failure["status"], _told(failure))


def _told(failure: Mapping[str, int]) -> str:
    if failure["status"] in (0, 2):
        return ""  # it was stopped, or it is a mistake of the user's, which is shown once
    if failure["status"] in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return f"process {failure['process']} was stopped before the first step: this one ends too\n"
    return f"process {failure['process']} has failed (exit status {failure['status']}): this one ends too\n"


def _leave(status: int, report: str) -> NoReturn:
    """End the process: after an orderly shutdown if it has succeeded, else at once, together with the others."""
    if _state.client is None:
        sys.stderr.write(report)
        sys.exit(status)
    if status == 0:
        _part()
        sys.exit(0)
    _end_all(status, report)


def end_all(status: int) -> int:
    """The exit status of a command that a signal ended outside of its loop, at different places on each process.

    If there are several processes, this one and all others end here with that status.
    """
    if _state.client is not None:
        _end_all(status, "")
    return status


def end_now(status: int, words: str) -> NoReturn:
    """End this process at once, from any of its threads, and all others with it.

    Args:
      status: the exit status.
      words: what is said on stderr.
    """
    late = threading.Timer(LEAVE_SECONDS, os._exit, [status])  # the store may not answer
    late.daemon = True
    late.start()
    if _state.client is not None:
        _end_all(status, words)
    _exit(status, words)


def _end_all(status: int, report: str) -> NoReturn:
    """Tell the others to end, and end; what was told first counts."""
    failure = {"process": _state.process_id, "status": status}
    try:
        _client().key_value_set(FAILED, json.dumps(failure))  # fails if another process has reported first
    except jax.errors.JaxRuntimeError:
        try:
            failure = json.loads(_client().key_value_try_get(FAILED))
            status, report = failure["status"], _told(failure)
        except jax.errors.JaxRuntimeError:
            pass  # process 0 is gone: whatever happened here is worth showing
    _fail(status, report)


def _fail(status: int, words: str) -> NoReturn:
    """Say why, and end; the first process last, so that the others can read in its store what has happened."""
    with _ending:
        sys.stderr.write(words)
        sys.stderr.flush()
        if is_first():
            time.sleep(LAST_WORDS_SECONDS)
        _exit(status, "")


def _part() -> None:
    """End the ties to the other processes, when all have come to this point."""
    done = gather("done")
    from_first(lambda: len(done))
    _stop_watching.set()
    jax.distributed.shutdown()


def _exit(status: int, words: str) -> NoReturn:
    """End at once: Python's own way out would wait for threads that wait for other processes."""
    sys.stderr.write(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

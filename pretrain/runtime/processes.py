"""The processes of one run: how they join, which is the first, what they tell each other, and how they end together.

The first process makes what a run has once (its tokenizer, held-out rows, metrics, pictures); all compute. What they
tell each other goes through the key-value store of jax's coordination service: no device takes part, and a signal is
seen while a process waits. A run of one process is the same code: nothing is sent.
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
"""Set to 1 by launchers: join the other processes before anything else; 0 does not, whatever CLUSTER says."""
CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where all three are set they say who belongs to the run; else jax asks the cluster (TPU pod, Slurm, Kubernetes)."""
LOST = re.compile(r"Gloo .*(reset|closed|timed out|broken)|heartbeat|coordination service", re.IGNORECASE)
"""What JAX says in a process that has waited for one that is gone."""
HEARTBEAT = "UNMASK_HEARTBEAT_SECONDS"
"""A process that gives no sign of life for so long is taken for dead, and the others end."""
INITIALIZATION = "UNMASK_INITIALIZATION_SECONDS"
"""How long a process waits for the others to come."""

DIRECTLY = "no_grpc_proxy"
"""The hosts that gRPC reaches without a proxy, by the ends of their names or addresses."""
EVERY_HOST = ",".join(string.ascii_lowercase + string.digits)

FAILED = "unmask/failed"
LOOK_SECONDS = 0.5  # between looks at whether another process has failed
SLICE_MS = 500  # of a wait, between which signal handlers run
LAST_WORDS_SECONDS = 3.0  # for which a first process that ends, and its store, lets the others read in it

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

    All end together: when one fails or is stopped, the others leave with its exit status, and what went wrong with
    the first to fail is shown once.

    Args:
      main: the command's; may call `join`.
      alone: the command needs one process only, and no other device than a CPU: where launched on several, the first
        runs it, and the others have nothing to do.
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
      UserError: it says what is neither yes nor no.
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
    # jax's own service would take SIGTERM from Python's handlers, and deaf a process until its first step.
    jax.config.update("jax_enable_preemption_service", False)
    # jax and libtpu reach the other processes by gRPC, which would send them through a proxy that is for the world
    # outside. Downloads do not read this variable, and take the proxy as ever.
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
    """What `make` returns on the first process (JSON), on all of them; the others do not call it, and wait."""
    if count() == 1:
        return make()
    key = _next_key()
    if is_first():
        _client().key_value_set(key, json.dumps(make()))
    return json.loads(_get(key))


def same_as_first(value: T) -> T:
    """The first process's value (JSON): what decides whether a checkpoint is written must not differ by a bit."""
    return from_first(lambda: value)


def first_then_all(make: Callable[[], T]) -> T:
    """What `make` returns, called by the first process first, then by the others, which find what it has written."""
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
    """Call `close` at the end of the block, which may wait for the other processes in it.

    Where the block fails on one of several processes, the others will not come to that point: it is left out there.
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
            if first != other:
                return (
                    f"the processes of the run disagree: {name} is {first!r} on process 0 and {other!r} on process "
                    f"{number}; start all with the same command, and a --workdir that all of them share"
                )
    return ""


def _first_alone() -> bool:
    """End the ties to the other processes; True on the first of them, which then is a run of its own, on its CPU."""
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
    """End this process when another has failed: it may wait in a collective for what will never come."""
    while not _stop_watching.wait(LOOK_SECONDS):
        try:
            failure = json.loads(_client().key_value_try_get(FAILED))
        except jax.errors.JaxRuntimeError:
            continue  # none has; where process 0 itself is gone, jax's heartbeats end this one
        if failure["process"] != _state.process_id:
            _fail(failure["status"], _told(failure))


def _told(failure: Mapping[str, int]) -> str:
    if failure["status"] in (0, 2):
        return ""  # it was stopped, or it is a mistake of the user's, which is shown once
    if failure["status"] in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return f"process {failure['process']} was stopped before the first step: this one ends too\n"
    return f"process {failure['process']} has failed (exit status {failure['status']}): this one ends too\n"


def _leave(status: int, report: str) -> NoReturn:
    """End the process, in good order if it has done its work; else at once, the others with it."""
    if _state.client is None:
        sys.stderr.write(report)
        sys.exit(status)
    if status == 0:
        _part()
        sys.exit(0)
    _end_all(status, report)


def end_all(status: int) -> int:
    """The exit status of a command that a signal ended before its loop, where the processes may be anywhere in it.

    Of several processes this one ends here, and with it all others, with that status.
    """
    if _state.client is not None:
        _end_all(status, "")
    return status


def _end_all(status: int, report: str) -> NoReturn:
    """Tell the others to end, and end; what was told first counts."""
    failure = {"process": _state.process_id, "status": status}
    try:
        _client().key_value_set(FAILED, json.dumps(failure))  # refused where another was before
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

"""The processes of one run: how they join, which is the first, what they tell each other, and how they end together.

The first process makes the outputs that a run has once (tokenizer, held-out rows, metrics, pictures). All processes
compute. Their messages go through the key-value store of jax's coordination service. No device takes part, and a
waiting process still sees signals. A run of one process runs the same code and sends nothing.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # its state, the key-value store among it, has no public name

from base import interruptible, storage, terminal
from base.command_line import INTERRUPTED
from base.errors import UserError
from base.formatting import one_line
from pretrain.devices.platforms import leave_out_absent_tpu
from pretrain.runtime import cluster
from pretrain.runtime.beats import Activity, Beats, show_stacks
from pretrain.runtime.roll_call import MissingError

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOST = re.compile(r"Gloo .*(reset|closed|timed out|broken)|heartbeat|coordination service", re.IGNORECASE)
"""JAX's messages in a process that has waited for a process that has ended."""
LATE = 75
"""Exit status of all processes if one is late or has not come: run the same command again (EX_TEMPFAIL)."""

FAILED = "unmask/failed"
LOOK_SECONDS = 0.5  # between looks at whether another process has failed
SLICE_MS = 500  # part of a wait; signal handlers run between two parts
LEAVE_SECONDS = 10.0
"""Seconds after which a process that has to end at once waits for no store."""
CUT_OFF_SECONDS = 1.0
"""The same where the store has not answered for a while."""
LAST_WORDS_SECONDS = 3.0  # the first process ends this much later, so that the others can read its store

SAY_SECONDS = 60.0
"""Seconds of waiting for another process after which a line says so; the next comes after twice the time."""
AGAIN = "run the same command again to go on from what is saved"

_state = distributed.global_state
_activity = Activity()
_beats: Beats | None = None
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
    terminal.guard_logs()
    interruptible.begin()
    report = ""
    try:
        if cluster.wanted():
            join()
        status = 0 if alone and not _first_alone() else main(sys.argv) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except UserError as error:
        status = LATE if isinstance(error, MissingError) else 2
        report = f"error: {one_line(str(error))}\n"
    except KeyboardInterrupt:
        status, report = INTERRUPTED, "interrupted\n"
    except BaseException as error:
        if failure := storage.outage(error):
            status, report = 1, f"error: {one_line(failure)}\n"
        elif _state.client is None:
            raise
        elif isinstance(error, jax.errors.JaxRuntimeError) and LOST.search(str(error)):
            status, report = _lost(error)
        else:
            status, report = 1, traceback.format_exc()
    _leave(status, report)


def join() -> None:
    """Join the other processes of the run; does nothing where this has been done.

    Raises:
      UserError: they cannot be found, or do not come.
    """
    global _beats
    if _state.client is not None:
        return
    cluster.connect(lambda words: _exit(LATE, words))
    _beats = Beats(_client(), number(), count(), cluster.heartbeat_seconds(), _activity)
    threading.Thread(target=_watch, args=(_beats,), name="processes", daemon=True).start()
    threading.Thread(
        target=_beats.watch, args=(_stop_watching, _end_silent), name="beats", daemon=True
    ).start()


def doing(name: str) -> contextlib.AbstractContextManager[None]:
    """Say what happens inside, so that it can be named if other processes wait for it; all processes must do so."""
    return _activity.doing(name)


def late() -> str:
    """The process that the others wait for, in a sentence without a full stop; '' of a single process."""
    return _beats.late() if _beats else ""


def _lost(error: Exception) -> tuple[int, str]:
    """Exit status and words of a process whose wait in jax for the others has failed."""
    status, why = 1, ""
    if _beats and (_beats.quiet() or "timed out" in str(error)):
        status, why = LATE, _beats.late()
    elif _beats:
        why = _beats.gone()
    return status, f"error: {why or 'another process of the run is gone'}; {AGAIN}\n"


def from_first(make: Callable[[], T], what: str = "") -> T:
    """Call `make` on the first process only, and return its result (JSON) on all processes; the others wait for it.

    Args:
      make: what the first process does.
      what: its name, for those that wait; '' where it takes no time.
    """
    if count() == 1:
        return make()
    key = _next_key()
    with _activity.doing(what) if what else contextlib.nullcontext():
        if is_first():
            _client().key_value_set(key, json.dumps(make()))
        return json.loads(_get(key, 0))


def same_as_first(value: T) -> T:
    """The first process's value (JSON). Values that decide to write a checkpoint must be the same on all processes."""
    return from_first(lambda: value)


def first_then_all(make: Callable[[], T], what: str) -> T:
    """Call `make` on the first process, then on the others, which find the first one's files. Returns its result.

    Args:
      make: what each process does.
      what: its name, for those that wait.
    """
    if count() == 1:
        return make()
    key = _next_key()
    with _activity.doing(what):
        if is_first():
            made = make()
            _client().key_value_set(key, "made")
            return made
        _get(key, 0)
        return make()


def gather(value: T) -> list[T]:
    """Every process's value (JSON), by number, on the first process; nothing on the others, which do not wait."""
    if count() == 1:
        return [value]
    key = _next_key()
    _client().key_value_set(f"{key}/{_state.process_id}", json.dumps(value))
    if not is_first():
        return []
    values = [json.loads(_get(f"{key}/{number}", number)) for number in range(count())]
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
    global _beats
    if _state.client is None:
        return True
    first = is_first()
    _part()
    _beats = None
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


def _get(key: str, process: int) -> str:
    """The value of a key, once the process that sets it has done so."""
    begin, due = time.monotonic(), SAY_SECONDS
    with _activity.waiting(process):
        while True:
            try:
                return _client().blocking_key_value_get(key, SLICE_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if (seconds := time.monotonic() - begin) > due:
                due *= 2
                _say_waiting(process, seconds)


def _say_waiting(process: int, seconds: float) -> None:
    record = _beats.of(process) if _beats else None
    at = f", which is at {record.name!r}" if record else ""
    logger.warning("waiting for process %d%s: %d s", process, at, seconds)


def _watch(beats: Beats) -> None:
    """Make beats; end this process when another has failed, because it may wait forever in a collective."""
    while not _stop_watching.wait(min(LOOK_SECONDS, beats.every)):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: it will be silent
            beats.beat()
        try:
            failure = json.loads(_client().key_value_try_get(FAILED))
        except jax.errors.JaxRuntimeError:
            continue  # no process has failed
        if failure["process"] != _state.process_id:
            if failure["status"] == LATE:
                show_stacks()
            _fail(failure["status"], _told(failure))


def _told(failure: Mapping[str, Any]) -> str:
    if failure["why"]:
        return f"error: {failure['why']}: this process ends too; {AGAIN}\n"
    if failure["status"] in (0, 2):
        return ""  # it was stopped, or it is a mistake of the user's, which is shown once
    if failure["status"] in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return f"process {failure['process']} was stopped before the first step: this one ends too\n"
    return f"process {failure['process']} has failed (exit status {failure['status']}): this one ends too\n"


def _leave(status: int, report: str) -> NoReturn:
    """End the process: after an orderly shutdown if it has succeeded, else at once, together with the others."""
    if _state.client is None:
        if interruptible.broke_off():
            _exit(status, report)
        sys.stderr.write(report)
        sys.exit(status)
    if status == 0:
        _part()
        if interruptible.broke_off():
            _exit(0, "")
        sys.exit(0)
    _end_all(status, report)


def end_all(status: int) -> int:
    """The exit status of a command that a signal ended outside of its loop, at different places on each process.

    If there are several processes, this one and all others end here with that status.
    """
    if _state.client is not None:
        _end_all(status, "")
    return status


def end_late(words: str, why: str = "") -> NoReturn:
    """End this process and all others at once, with the stacks of their threads, because one of them is late.

    Args:
      words: what is said on stderr.
      why: what the others say: which process is late.
    """
    show_stacks()
    if _state.client is not None:
        _end_all(LATE, words, why)
    _exit(LATE, words)


def _end_silent(why: str) -> NoReturn:
    end_late(f"error: {why}: the run is ended; {AGAIN}\n", why)


def _end_all(status: int, report: str, why: str = "") -> NoReturn:
    """Tell the others to end, and end; what was told first counts."""
    seconds = CUT_OFF_SECONDS if _beats and _beats.cut_off else LEAVE_SECONDS
    stuck = threading.Timer(seconds, _exit, [status, report])  # the store may not answer
    stuck.daemon = True
    stuck.start()
    failure = {"process": _state.process_id, "status": status, "why": why}
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
    with contextlib.suppress(OSError):  # nobody may read them any more
        sys.stderr.write(words)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)

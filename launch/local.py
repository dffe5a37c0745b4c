"""`python -m launch.local -n N [--devices-per-process M] -- COMMAND ...`: N processes of one run on this machine.

The processes form a jax.distributed cluster. Each has its own GPUs, or CPU devices on a machine without GPUs.
`python` in the command is the launcher's own interpreter, so that no environment must be activated.
Each line of output starts with the number of its process. All processes get the launcher's signals. When one process
fails, the launcher ends the others.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from base import terminal
from base.command_line import run
from base.errors import UserError
from base.plain_arguments import Arguments
from launch.launch_command import with_own_python

POLL_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
IMPATIENT = 3
"""Number of signals after which the processes are killed at once, whether they have saved or not."""
DIE_WITH_PARENT = 1
"""prctl's PR_SET_PDEATHSIG."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status of the first process that failed, or 0."""
    options, command = _parse(argv[1:])
    path = {"PATH": _activated(os.environ.get("PATH", os.defpath))}
    environments = environments_of(options.processes, options.devices_per_process, os.environ)
    processes = _Processes(options.grace, options.log_dir)
    return processes.run(with_own_python(command), [path | each for each in environments])


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the command after `--`."""
    own, command = list(arguments), []
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = Arguments(
        prog="python -m launch.local",
        usage="python -m launch.local -n N [--devices-per-process M] [flags] -- COMMAND ...",
        description=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument("-n", "--processes", type=int, required=True, help="number of processes")
    parser.add_argument(
        "--devices-per-process",
        type=int,
        default=1,
        help="number of GPUs, or of CPU devices, of each process",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        help="seconds from SIGTERM to SIGKILL after one process has failed",
    )
    parser.add_argument("--log-dir", type=Path, help="folder for the output of each process, NUMBER.log")
    options = parser.read(["launch.local", *own])
    for name in ("processes", "devices_per_process"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}={getattr(options, name)} should be 1 or more")
    if options.grace < 0:
        parser.error(f"--grace={options.grace:g} should be 0 or more")
    if not command:
        parser.error("no command given; write it after --")
    return options, command


def environments_of(count: int, devices: int, given: Mapping[str, str]) -> list[dict[str, str]]:
    """The environment variables to add for each process.

    Args:
      count: number of processes.
      devices: number of devices of each process.
      given: the launcher's own environment.

    Raises:
      UserError: the machine has GPUs, but too few.
    """
    shared = {
        "UNMASK_DISTRIBUTED": "1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    own = [{"JAX_PROCESS_ID": str(number)} for number in range(count)]
    gpus = [] if given.get("JAX_PLATFORMS", "").startswith("cpu") else gpus_of(given)
    if gpus:
        if count * devices > len(gpus):
            raise UserError(
                f"{count} processes of {devices} GPUs need {count * devices}, and there are {len(gpus)}; "
                "lower -n or --devices-per-process, or set JAX_PLATFORMS=cpu"
            )
        for number, environment in enumerate(own):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[number * devices :][:devices])
    else:
        shared |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            # XLA makes this number of threads. With too few, collectives that wait for each other block all of them.
            "NPROC": given.get("NPROC", "16"),
        }
    return [shared | environment for environment in own]


def gpus_of(given: Mapping[str, str]) -> list[str]:
    """The GPUs of this machine that the processes may use, named as in CUDA_VISIBLE_DEVICES."""
    if "CUDA_VISIBLE_DEVICES" in given:
        return [name for name in given["CUDA_VISIBLE_DEVICES"].split(",") if name and name != "-1"]
    gpus = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return [str(index) for index in range(len(gpus))]


def _activated(path: str) -> str:
    """PATH with this interpreter's folder first, for a command that itself starts `python`: `env`, `sh -c`."""
    if sys.prefix == sys.base_prefix:
        return path
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _Running:
    number: int
    process: subprocess.Popen[bytes]
    threads: tuple[threading.Thread, ...]


class _Processes:
    """The processes of one call, from their start until all have ended."""

    def __init__(self, grace: float, log_dir: Path | None):
        self._grace, self._log_dir = grace, log_dir
        self._running: list[_Running] = []
        self._signals = 0
        self._printing = threading.Lock()

    def run(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
        """Start one process for each environment, and wait for all. Returns the first failure's exit status, or 0."""
        with self._signals_passed_on(), contextlib.ExitStack() as logs:
            try:
                for number, environment in enumerate(environments):
                    self._start(number, command, environment, logs)
                status = self._wait()
            finally:
                self._send(signal.SIGKILL)  # processes are left only if the launcher itself has failed
                for each in self._running:
                    each.process.wait()
            for each in self._running:
                for thread in each.threads:
                    thread.join(self._grace)  # a process that the command started may keep the pipe open
        return status

    def _start(
        self, number: int, command: Sequence[str], environment: Mapping[str, str], logs: contextlib.ExitStack
    ) -> None:
        log: IO[bytes] | None = None
        if self._log_dir is not None:
            try:
                self._log_dir.mkdir(parents=True, exist_ok=True)
                log = logs.enter_context((self._log_dir / f"{number}.log").open("wb"))
            except OSError as error:
                raise UserError(f"--log-dir={self._log_dir} cannot be written: {error.strerror}") from error
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal reaches only the launcher, which passes it on
                preexec_fn=_die_with_parent if _LIBC else None,
            )
        except OSError as error:
            raise UserError(f"{command[0]!r} cannot be started: {error.strerror}") from error
        assert process.stdout is not None and process.stderr is not None
        threads = tuple(
            threading.Thread(target=self._pass_on, args=(number, source, sink, log), daemon=True)
            for source, sink in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
        )
        self._running.append(_Running(number, process, threads))
        for thread in threads:
            thread.start()

    def _pass_on(self, number: int, source: IO[bytes], sink: IO[bytes], log: IO[bytes] | None) -> None:
        """Copy a process's lines, with the process's number before each line."""
        prefix = f"[{number}] ".encode()
        with source:
            for line in source:
                line = line if line.endswith(b"\n") else line + b"\n"
                with self._printing:
                    sink.write(prefix + line)
                    sink.flush()
                    if log is not None:
                        log.write(line)
                        log.flush()

    def _wait(self) -> int:
        """Wait until all processes have ended. If one fails, end the others."""
        status, kill_at = 0, float("inf")
        while alive := [each for each in self._running if each.process.poll() is None]:
            status = status or self._first_failure()
            if status and kill_at == float("inf"):
                self._send(signal.SIGTERM)
                kill_at = time.monotonic() + self._grace
            if time.monotonic() > kill_at:
                self._say(f"{len(alive)} processes have not ended within {self._grace:g} s: killed")
                self._send(signal.SIGKILL)
                kill_at = float("inf") if not status else time.monotonic() + self._grace
            time.sleep(POLL_SECONDS)
        return status or self._first_failure()

    def _first_failure(self) -> int:
        for each in self._running:
            code = each.process.poll()
            if code:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has exit status {code}"
                self._say(f"process {each.number} {how}")
                return 128 - code if code < 0 else code
        return 0

    def _send(self, number: signal.Signals) -> None:
        for each in self._running:
            if each.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    # The whole session: a process that the command started must not outlive a kill.
                    if number == signal.SIGKILL:
                        os.killpg(each.process.pid, number)
                    else:
                        each.process.send_signal(number)

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._pass_signal_on) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _pass_signal_on(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._send(signal.SIGKILL if self._signals >= IMPATIENT else signal.Signals(number))

    def _say(self, words: str) -> None:
        with self._printing:
            terminal.say(f"launch.local: {words}", error=True)


def _die_with_parent() -> None:
    """In the new process: ask the kernel to kill it when the launcher dies, since a dead launcher cannot end it."""
    if _LIBC:
        _LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    run(main)

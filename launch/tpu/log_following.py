"""Follow a job's log: show each new line of one machine exactly once, also after a broken connection."""

import threading
from collections.abc import Callable

from base import terminal
from launch.subprocesses import Stream
from launch.tpu.machines import Worker, Workers, answered
from launch.tpu.pod_state import Pod


def show(line: str) -> None:
    """Print a line of the job's log."""
    terminal.say(line)


def prefix(pod: Pod, worker: Worker) -> str:
    """The prefix of a machine's lines: [WORKER], or [SLICE.WORKER] with several slices."""
    slices = pod.nodes
    index = f"{slices.index(worker.node)}.{worker.index}" if len(slices) > 1 else str(worker.index)
    return f"[{index}] "


class Follower(threading.Thread):
    """A thread that shows the log of one machine until the job has ended. After a broken connection it continues at the
    same line."""

    def __init__(
        self,
        workers: Workers,
        worker: Worker,
        *,
        lines: int | None = None,
        on: bool = True,
        out: Callable[[str], None] = show,
    ):
        """Follow a machine.

        Args:
          workers: the pod's machines.
          worker: the machine to follow.
          lines: number of earlier lines to show; all by default.
          on: whether to continue until the job has ended; False shows only the lines that exist now.
          out: function that gets each line.
        """
        super().__init__(name=f"log of {worker}", daemon=True)
        self._workers, self._worker, self._out = workers, worker, out
        self._prefix = prefix(workers.pod, worker)
        self._on = on
        self._at = "offset=0" if lines is None else f"lines={lines}"
        self._offset: int | None = None
        self._rest = b""
        self._hurry, self._ended = threading.Event(), threading.Event()
        self._stream: Stream | None = None

    def run(self) -> None:
        """Show lines until the job has ended, or until `end` is called."""
        gcloud, runner = self._workers.pod.gcloud, self._workers.pod.runner
        while not self._ended.is_set():
            command = self._workers.remote(f"logs --{self._at} --follow={int(self._on)}")
            self._offset, self._rest = None, b""
            argv = gcloud.ssh(self._worker.node, str(self._worker.index), command)
            self._stream = runner.stream(argv, self._take)
            if self._stream.pump() == 0 or not self._on:
                break
            if self._hurry.is_set():
                self._ended.wait(1.0)
            else:
                self._hurry.wait(gcloud.tpu.poll_seconds)
        if self._rest:
            self._take(b"\n")  # the last line has no newline

    def end(self, seconds: float) -> None:
        """Wait until the whole log is shown, for at most `seconds`. A broken connection is made again at once."""
        if self.ident is None:
            return  # not started as a thread: the caller called `run` itself
        self._hurry.set()
        self.join(seconds)
        self._ended.set()
        if self._stream is not None and self.is_alive():
            self._stream.stop()
            self.join(seconds)

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            header = next(answered(line.decode("utf-8", "replace")), None) if self._offset is None else None
            if header is not None:
                self._offset = int(header["offset"])
            elif self._offset is not None:
                self._offset += len(line) + 1
                self._at = f"offset={self._offset}"
                self._out(self._prefix + last_state(line))


def last_state(line: bytes) -> str:
    """The part of a line after its last carriage return, as a terminal would show it."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]


def tail(workers: Workers, worker: Worker, lines: int) -> None:
    """Print the last lines of a machine's log to standard error."""
    pod = workers.pod
    result = pod.runner.run(
        pod.gcloud.ssh(worker.node, str(worker.index), workers.remote(f"logs --lines={lines}"))
    )
    for line in result.stdout.splitlines():
        if next(answered(line), None) is None:
            terminal.say(prefix(pod, worker) + line, error=True)

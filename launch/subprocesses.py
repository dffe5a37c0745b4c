"""The one place that runs programs: an argument list each, never a shell, never a value on a command line.

`Runner` runs them; `launch.dry_run.DryRunner` prints what it would run and answers as a cloud in which all goes well,
so that a dry run goes through the same code as a real one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from base.errors import UserError

ROOT = Path(__file__).absolute().parents[1]
"""The checkout; programs run in it, so that paths below it are short."""

SECONDS = 600.0
"""How long one call may take, unless it says otherwise."""
ABORTED = 124
"""The status of a call that took longer, as `timeout` gives it."""
COLUMNS = 80


@dataclass(frozen=True)
class Result:
    """What a program came to."""

    status: int
    """Its exit status; negative when a signal ended it."""
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, and well."""
        return self.status == 0


class Runner:
    """Runs programs in the checkout."""

    dry = False

    def run(self, argv: Sequence[str], *, stdin: str = "", seconds: float = SECONDS) -> Result:
        """Run a program to its end.

        It runs in a session of its own: Ctrl-C in the terminal reaches only this process, which lets the program end,
        so that a request that the cloud may have taken is never left without an answer.

        Raises:
          UserError: the program is not installed.
        """
        try:
            with subprocess.Popen(
                list(argv),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process:
                return _finish(process, stdin, seconds)
        except FileNotFoundError as error:
            raise _missing(argv[0]) from error

    def run_all(self, calls: Sequence[Sequence[str]], *, seconds: float = SECONDS) -> list[Result]:
        """Run several programs at the same time; results in their order."""
        if len(calls) == 1:
            return [self.run(calls[0], seconds=seconds)]
        with ThreadPoolExecutor(max_workers=len(calls) or 1) as pool:
            return list(pool.map(lambda argv: self.run(argv, seconds=seconds), calls))

    def show(self, argv: Sequence[str], *, seconds: float = SECONDS) -> int:
        """Run a program whose output the user sees as it comes; returns its exit status."""
        try:
            return subprocess.run(list(argv), cwd=ROOT, timeout=seconds).returncode
        except FileNotFoundError as error:
            raise _missing(argv[0]) from error
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{argv[0]} has not ended within {seconds:.0f} seconds: {shlex.join(argv)}"
            ) from error

    def stream(self, argv: Sequence[str], sink: Callable[[bytes], None]) -> "Stream":
        """Start a program whose output goes to `sink` as it comes, in another thread's time: see `Stream.pump`."""
        return Stream(argv, sink)

    def interactive(self, argv: Sequence[str]) -> int:
        """Run a program with the user's terminal; returns its exit status."""
        try:
            return subprocess.call(list(argv), cwd=ROOT)
        except FileNotFoundError as error:
            raise _missing(argv[0]) from error

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


class Stream:
    """A running program whose output is read as it comes."""

    def __init__(self, argv: Sequence[str], sink: Callable[[bytes], None]):
        self._sink = sink
        self._process = subprocess.Popen(
            list(argv),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def pump(self) -> int:
        """Read to the end of the output; returns the exit status."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while chunk := output.read1(65536):  # type: ignore[attr-defined]
                self._sink(chunk)
        return self._process.wait()

    def stop(self) -> None:
        """End the program."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)


def _finish(process: "subprocess.Popen[str]", stdin: str, seconds: float) -> Result:
    """Wait for a program; a Ctrl-C meanwhile is raised when it has ended, or after a minute."""
    try:
        stdout, stderr = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Result(ABORTED, stdout, f"{stderr}\nno answer within {seconds:.0f} seconds")
    except KeyboardInterrupt:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return Result(process.returncode, stdout, stderr)


def _missing(program: str) -> UserError:
    """What to say of a program that is not there."""
    where = "; install it from cloud.google.com/sdk" if program == "gcloud" else ""
    return UserError(f"{program} is not installed{where}")


def folded(argv: Sequence[str]) -> str:
    """A command as it can be pasted into a shell, in lines of about 80 columns."""
    lines, line = [], ""
    for word in (shlex.quote(argument) for argument in argv):
        if line and len(line) + len(word) + 3 > COLUMNS:
            lines.append(line)
            line = "   "
        line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])


def say(text: str) -> None:
    """Tell the user what the launcher does; standard output is left to the job's own lines."""
    print(f"launch: {text}", file=sys.stderr, flush=True)

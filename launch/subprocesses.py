"""The only module that runs programs. A program gets a list of arguments: no shell, and no secret value among them.

`Runner` runs programs. `launch.dry_run.DryRunner` prints them instead, and gives the answers of a cloud without errors.
So a dry run goes through the same code as a real run.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from base import terminal
from base.errors import UserError

ROOT = Path(__file__).absolute().parents[1]
"""The checkout; programs run in it, so that paths below it are short."""

SECONDS = 600.0
"""Default time limit of one call, in seconds."""
ABORTED = 124
"""Exit status of a call that exceeded its time limit; the program `timeout` uses the same number."""
COLUMNS = 80


@dataclass(frozen=True)
class Result:
    """The exit status and the output of a program that has ended."""

    status: int
    """Exit status; negative when a signal ended the program."""
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the program succeeded (exit status 0)."""
        return self.status == 0


class Runner:
    """Runs programs in the checkout."""

    dry = False

    def run(self, argv: Sequence[str], *, stdin: str = "", seconds: float = SECONDS) -> Result:
        """Run a program to its end.

        The program runs in its own session, so Ctrl-C in the terminal reaches only this process. This process then
        waits for the program: otherwise nobody would know whether the cloud accepted the request.

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
        """Run several programs at the same time; the results are in the order of the calls."""
        if len(calls) == 1:
            return [self.run(calls[0], seconds=seconds)]
        with ThreadPoolExecutor(max_workers=len(calls) or 1) as pool:
            return list(pool.map(lambda argv: self.run(argv, seconds=seconds), calls))

    def show(self, argv: Sequence[str], *, seconds: float = SECONDS) -> int:
        """Run a program and let the user see its output at once; returns its exit status."""
        try:
            return subprocess.run(list(argv), cwd=ROOT, timeout=seconds).returncode
        except FileNotFoundError as error:
            raise _missing(argv[0]) from error
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"{argv[0]} has not ended within {seconds:.0f} seconds: {shlex.join(argv)}"
            ) from error

    def stream(self, argv: Sequence[str], sink: Callable[[bytes], None]) -> "Stream":
        """Start a program whose output goes to `sink`. The caller's thread copies the output: see `Stream.pump`."""
        return Stream(argv, sink)

    def interactive(self, argv: Sequence[str]) -> int:
        """Run a program with the user's terminal; returns its exit status."""
        try:
            return subprocess.call(list(argv), cwd=ROOT)
        except FileNotFoundError as error:
            raise _missing(argv[0]) from error

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds; a dry run does not wait."""
        time.sleep(seconds)


class Stream:
    """A running program whose output is read while it runs."""

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
    """Wait for a program. A Ctrl-C during the wait is raised after the program has ended, or after a minute."""
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
    """The error for a program that is not installed."""
    where = "; install it from cloud.google.com/sdk" if program == "gcloud" else ""
    return UserError(f"{program} is not installed{where}")


def folded(argv: Sequence[str]) -> str:
    """A command in lines of about 80 columns, which a user can paste into a shell."""
    lines, line = [], ""
    for word in (shlex.quote(argument) for argument in argv):
        if line and len(line) + len(word) + 3 > COLUMNS:
            lines.append(line)
            line = "   "
        line = f"{line} {word}" if line else word
    return " \\\n".join([*lines, line])


def say(text: str) -> None:
    """Print a message of the launcher to standard error; standard output is for the job's own lines."""
    terminal.say(f"launch: {text}", error=True)

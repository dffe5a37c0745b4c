"""`--dry-run`: print the commands of a real run, execute none, and give the answers of a cloud without errors."""

import json
import sys
from collections.abc import Callable, Sequence

from base import terminal
from base.tpu_types import tpu_slice
from launch.subprocesses import SECONDS, Result, Runner, Stream, folded
from launch.tpu.gcloud import LABEL

OWN = {"project": "PROJECT", "compute/zone": "ZONE"}
"""Placeholders for gcloud's own settings, which a dry run does not read."""


class DryRunner(Runner):
    """Prints commands instead of running them."""

    dry = True

    def __init__(self, name: str, accelerator: str, *, there: bool):
        """Set up the simulated cloud.

        Args:
          name: the pod's name.
          accelerator: the pod's TPU type.
          there: whether the pod exists at the start; else it exists after the command that creates it.
        """
        self._name = name
        self._hosts = tpu_slice(accelerator).hosts
        self._there = there
        self._started = False

    def run(self, argv: Sequence[str], *, stdin: str = "", seconds: float = SECONDS) -> Result:
        """Print a command, and return success. Checks of the config (this Python) are executed nevertheless."""
        terminal.say(folded(argv))
        if argv[0] == sys.executable:
            return super().run(argv, stdin=stdin, seconds=seconds)
        return Result(0, self._answer(argv), "") if self._exists(argv) else Result(1, "", "NOT_FOUND")

    def run_all(self, calls: Sequence[Sequence[str]], *, seconds: float = SECONDS) -> list[Result]:
        """Print several commands; a real run starts them at the same time."""
        return [self.run(argv) for argv in calls]

    def show(self, argv: Sequence[str], *, seconds: float = SECONDS) -> int:
        """Print a command."""
        return self.run(argv).status

    def interactive(self, argv: Sequence[str]) -> int:
        """Print a command."""
        return self.run(argv).status

    def stream(self, argv: Sequence[str], sink: Callable[[bytes], None]) -> Stream:
        """Print a command, and return a stream without output."""
        self.run(argv)
        return _Nothing()

    def sleep(self, seconds: float) -> None:
        """Return at once."""

    def _exists(self, argv: Sequence[str]) -> bool:
        if "create" in argv:
            self._there = True
        if "delete" in argv:
            existed, self._there = self._there, False
            return existed
        return self._there or "describe" not in argv

    def _answer(self, argv: Sequence[str]) -> str:
        if argv[:3] == ["gcloud", "config", "get-value"]:
            return OWN[argv[3]]
        if "describe" in argv:
            labels = {"labels": {LABEL: self._name}}
            if "queued-resources" in argv:
                return json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [{"node": labels}]}})
            return json.dumps({"state": "READY", **labels})
        command = next((word for word in argv if word.startswith("--command=")), "")
        if "remote.py" not in command:
            return ""
        self._started = self._started or command.endswith("start")
        state = {"state": "exited", "exit": 0} if self._started else {"state": "none", "archive": "installed"}
        answers = [{"worker": index, **state} for index in range(self._hosts)]
        return "\n".join("UNMASK " + json.dumps(answer) for answer in answers)


class _Nothing(Stream):
    """A program without output that has ended."""

    def __init__(self) -> None:
        pass

    def pump(self) -> int:
        return 0

    def stop(self) -> None:
        pass

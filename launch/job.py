"""What runs on the pod: the command, its run id and workdir, and the variables and secrets that it is given."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from base.errors import UserError
from launch.config import LaunchConfig
from launch.launch_command import markers, with_workdir
from launch.variables import VARIABLE, check_names

NAME = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")
SECRET = re.compile(r"[A-Za-z0-9_-]+(:(\d+|latest))?")


@dataclass(frozen=True)
class Job:
    """A command, and all that goes with it to each machine."""

    command: tuple[str, ...]
    workdir: str
    run: str
    secrets: Mapping[str, str]
    """Names of variables and of the secrets they are read from; never a value."""
    environment: Mapping[str, str] = field(repr=False)
    """Values of config.env: they go into a file of their own."""
    distributed: bool

    @property
    def markers(self) -> list[str]:
        """The files of which one is there when nothing is left to do; none where that cannot be told."""
        return markers(self.command, self.workdir)

    @property
    def digest(self) -> str:
        """The same for the same command, wherever it is launched from."""
        content = [
            self.run,
            list(self.command),
            sorted(self.secrets),
            sorted(self.environment),
            self.distributed,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def description(self, project: str) -> dict[str, Any]:
        """What job.json says; its "launch" is another one each time."""
        return {
            "launch": uuid.uuid4().hex,
            "run": self.run,
            "digest": self.digest,
            "command": list(self.command),
            "secrets": dict(self.secrets),
            "project": project,
            "distributed": self.distributed,
        }


def check_name(name: str) -> None:
    """Refuse a name that Google Cloud would refuse.

    Raises:
      UserError: it has other characters, or is too long.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"NAME={name!r}: a pod's name is of small letters, digits and hyphens, begins with a letter, does not end "
            "with a hyphen, and has at most 48 characters"
        )


def run_id(name: str, workdir: str) -> str:
    """The run's id, the same on every machine that launches it: its pod's name, and a digest of its workdir."""
    return f"{name}-{hashlib.sha256(workdir.encode()).hexdigest()[:8]}"


def make_job(
    config: LaunchConfig,
    name: str,
    command: Sequence[str],
    hosts: int,
    environment: Mapping[str, str] = os.environ,
) -> Job:
    """The job of a command line.

    Args:
      config: says which variables and secrets it is given, and its workdir if the command does not.
      name: the pod's name.
      command: what stands after `--`.
      hosts: machines of the pod, over all slices.
      environment: where the values of config.env come from.

    Raises:
      UserError: no command or a search, a workdir that the machines cannot share, or a variable that is not set.
    """
    check_names(config, command)
    words, workdir = with_workdir(command, config.workdir, name)
    markers(words, workdir)
    if re.match(r"\w+:/", workdir) and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+/[^\s*?\[\]#]+", workdir):
        raise UserError(
            f"--workdir={workdir}: a folder in a bucket is written gs://BUCKET/FOLDER, with a bucket's name, of small "
            "letters, for BUCKET, and nothing that gcloud reads as a pattern (* ? [ ] #) in FOLDER"
        )
    if hosts > 1 and not workdir.startswith("gs://") and not config.shared_workdir:
        raise UserError(
            f"--workdir={workdir}: {hosts} machines need a folder in a bucket, gs://BUCKET/FOLDER (or "
            "--config.shared_workdir=True for a folder that they all mount)"
        )
    missing = [variable for variable in config.env if variable not in environment]
    if missing:
        raise UserError(f"config.env names {missing[0]}, which is not set here; export it, or take it out")
    return Job(
        tuple(words),
        workdir,
        run_id(name, workdir),
        parse_secrets(config),
        {variable: environment[variable] for variable in config.env},
        hosts > 1,
    )


def parse_secrets(config: LaunchConfig) -> dict[str, str]:
    """config.secrets as {variable: secret}.

    Raises:
      UserError: an entry that is not NAME=SECRET, which may be a value; it is not repeated.
    """
    found = {}
    for index, entry in enumerate(config.secrets):
        variable, equals, secret = entry.partition("=")
        if not equals or not VARIABLE.fullmatch(variable) or not SECRET.fullmatch(secret):
            raise UserError(
                f"config.secrets[{index}] should be NAME=SECRET: a variable, and the name of a secret in Secret "
                "Manager (with :VERSION if not the latest), as in HF_TOKEN=hf-token"
            )
        found[variable] = secret
    return found

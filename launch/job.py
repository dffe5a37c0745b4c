"""The job of a pod: the command, its run id and workdir, and its variables and secrets."""

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
    """A command, and everything that each machine needs to run it."""

    command: tuple[str, ...]
    workdir: str
    run: str
    secrets: Mapping[str, str]
    """Name of the secret for each variable; never a value."""
    environment: Mapping[str, str] = field(repr=False)
    """Values of config.env. They are written to a separate file."""
    distributed: bool
    """Whether the processes of several machines are one run."""

    @property
    def markers(self) -> list[str]:
        """The marker files: a finished run has written one of them. [] for a command that writes none."""
        return markers(self.command, self.workdir)

    @property
    def digest(self) -> str:
        """A hash of the job: equal for the same command, whichever machine launches it."""
        content = [
            self.run,
            list(self.command),
            sorted(self.secrets),
            sorted(self.environment),
            self.distributed,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def description(self, project: str) -> dict[str, Any]:
        """The content of job.json. Its "launch" is a new random id in each call."""
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
    """Refuse a pod name that Google Cloud would refuse.

    Raises:
      UserError: the name has other characters, or is too long.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"NAME={name!r}: a pod's name has lower-case letters, digits and hyphens, begins with a letter, does not "
            "end with a hyphen, and has at most 48 characters"
        )


def run_id(name: str, workdir: str) -> str:
    """The run's id: the pod's name and a digest of the workdir. It is equal on every machine that launches the run."""
    return f"{name}-{hashlib.sha256(workdir.encode()).hexdigest()[:8]}"


def make_job(
    config: LaunchConfig,
    name: str,
    command: Sequence[str],
    hosts: int,
    environment: Mapping[str, str] = os.environ,
) -> Job:
    """Make the job of a command line.

    Args:
      config: the launch config, with the variables, the secrets, and the workdir for a command without one.
      name: the pod's name.
      command: the command after `--`.
      hosts: number of machines of the pod, over all slices.
      environment: values of the variables in config.env.

    Raises:
      UserError: there is no command, the command is a search, the machines cannot share the workdir, or a variable is
        not set.
    """
    check_names(config, command)
    words, workdir = with_workdir(command, config.workdir, name)
    markers(words, workdir)
    if re.match(r"\w+:/", workdir) and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+/[^\s*?\[\]#]+", workdir):
        raise UserError(
            f"--workdir={workdir}: a folder in a bucket is written gs://BUCKET/FOLDER; BUCKET is a bucket's name, in "
            "small letters; FOLDER has no characters that gcloud reads as a pattern (* ? [ ] #)"
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
      UserError: an entry is not NAME=SECRET. It may be a secret value, so the message does not repeat it.
    """
    secrets = {}
    for index, entry in enumerate(config.secrets):
        variable, equals, secret = entry.partition("=")
        if not equals or not VARIABLE.fullmatch(variable) or not SECRET.fullmatch(secret):
            raise UserError(
                f"config.secrets[{index}] should be NAME=SECRET: a variable, and the name of a secret in Secret "
                "Manager (with :VERSION if not the latest), as in HF_TOKEN=hf-token"
            )
        secrets[variable] = secret
    return secrets

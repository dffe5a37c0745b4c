"""`python -m launch.slurm NAME --config=configs/launch_slurm.py [--submit] -- python -m pretrain ...`: a batch job.

It renders the script for sbatch. Each GPU has one process; a node without GPUs has one process too. The job goes back
to the queue until the run has finished. Without --submit or --out, the script is only printed.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from base import terminal
from base.command_line import parse, run
from base.errors import UserError
from base.storage import write_out
from launch import launch_command as commands
from launch.config import LaunchConfig, SlurmConfig, unused_by
from launch.finished import HUNG, UNFINISHED
from launch.variables import check_names

TEMPLATE = Path(__file__).with_name("slurm_job.sh")
ENVIRONMENT = ("HOME", "USER", "LOGNAME", "PATH", "LANG")
"""Environment variables of the sbatch call that every job gets, beside config.env."""
FOR_US = (
    *("requeue", "no-requeue", "open-mode", "signal", "export", "export-file", "array", "wrap"),
    *(
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "gpus",
        "gpus-per-node",
        "gpus-per-task",
        "gres",
        "cpus-per-task",
    ),
)
"""Options of sbatch that a user may not set: the script sets them, or jax's cluster detection fails with them."""
WORD = r"[\w.,@+-]+"


def main(argv: Sequence[str]) -> int:
    """Render the script of a job, and print, write or submit it."""
    own, command = commands.split(argv)
    name, own = commands.take_name(own)
    config, values = parse(LaunchConfig, own, _flags, unused=unused_by("slurm"))
    script = render(name, command, config)
    if not values.out and not values.submit:
        terminal.pass_on(script)
        return 0
    if values.out:
        write_out(values.out, script, "--out")
        terminal.say(f"written: {values.out}; on the cluster: {shlex.join(['sbatch', values.out])}")
    if values.submit:
        _submit(script, config)
    return 0


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("submit", False, "hand the script to sbatch, on this machine", flag_values=values)
    flags.DEFINE_string("out", "", "write the script to this file instead of printing it", flag_values=values)


def render(name: str, command: Sequence[str], config: LaunchConfig) -> str:
    """Render the script for sbatch.

    Args:
      name: the job's name.
      command: the command after `--`.
      config: the launch config; its group `slurm` and the shared fields are used.

    Raises:
      UserError: there is no command, there is no workdir, or Slurm would refuse the value of a field.
    """
    _check_name(name)
    job = config.slurm
    command, workdir = commands.with_workdir(command, config.workdir, name)
    _check(job)
    _check_command(command, workdir, job)
    check_names(config, command)
    secrets = [secret.partition("=")[0] for secret in config.secrets]
    if secrets and not job.secrets_file:
        raise UserError(
            f"config.secrets names {', '.join(secrets)}; set config.slurm.secrets_file to a file on the cluster with "
            "lines NAME=VALUE, readable by you alone"
        )
    settings = [
        f"python={shlex.quote(commands.python_of(command))}",
        f"limit_seconds={seconds(job.time)}",
        f"max_restarts={job.max_restarts}",
        f"unfinished={UNFINISHED}",
        f"hung={HUNG}",
        f"secrets_file={_path(job.secrets_file)}",
        f"names={shlex.quote(' '.join([*config.env, *secrets]))}",
        _array("markers", commands.markers(command, workdir)),
        _array("srun_options", srun_options(job)),
        _array("command", command),
    ]
    parts = {
        "DIRECTIVES": [f"#SBATCH {option}" for option in directives(name, job, config.env)],
        "SETTINGS": settings,
        "SETUP": list(job.setup) or [":"],
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    # One pass over the template: an argument of the command may look like a placeholder.
    return re.sub(r"^#@(\w+)$", lambda place: "\n".join(parts[place[1]]), template, flags=re.MULTILINE)


def directives(name: str, job: SlurmConfig, env: Sequence[str]) -> list[str]:
    """The options of sbatch at the top of the script."""
    options = {
        "job-name": name,
        "chdir": job.directory,
        "output": job.log,
        "open-mode": "append",
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "nodes": str(job.nodes),
        "ntasks-per-node": str(_tasks(job)),
        "gpus-per-node": f"{job.gpu_type}:{job.gpus_per_node}".strip(":") if job.gpus_per_node else "",
        "cpus-per-task": str(job.cpus_per_task),
        "mem": job.memory,
        "time": job.time,
        "signal": f"TERM@{job.signal_before}",
        "export": ",".join([*ENVIRONMENT, *(one for one in env if one not in ENVIRONMENT)]),
    }
    return [
        *(f"--{option}={value}" for option, value in options.items() if value),
        "--requeue",
        *job.options,
    ]


def srun_options(job: SlurmConfig) -> list[str]:
    """The options of srun. Each task is one process, which sees all GPUs of its node; jax assigns one GPU to it."""
    return [
        "--export=ALL",  # else sbatch's --export holds for srun too, without the variables that the script sets
        f"--nodes={job.nodes}",
        f"--ntasks={job.nodes * _tasks(job)}",
        f"--cpus-per-task={job.cpus_per_task}",  # since Slurm 22.05, srun does not inherit it from sbatch
        *(["--gpu-bind=none"] if job.gpus_per_node else []),  # jax picks the node's GPU number SLURM_LOCALID
        "--kill-on-bad-exit=1",
    ]


def seconds(time: str) -> int:
    """Convert a time limit, [D-]HH:MM:SS, to seconds.

    Raises:
      UserError: the limit has another form. Slurm would read 90:00 as minutes and seconds; few users mean that.
    """
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", time, re.ASCII)
    days, hours, minutes, rest = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total == 0 or (days and hours > 23):
        raise UserError(f"config.slurm.time={time!r} should be [D-]HH:MM:SS, 24:00:00 or 2-12:00:00")
    return total


def _tasks(job: SlurmConfig) -> int:
    return job.gpus_per_node or 1


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,62}", name, re.ASCII):
        raise UserError(f"NAME={name!r} should have at most 63 characters: letters, digits, '-', '_' and '.'")


def _check(job: SlurmConfig) -> None:
    """Refuse values that Slurm would refuse or misread."""
    patterns = {
        "partition": (WORD, "a partition's name, or several with commas"),
        "account": (WORD, "an account's name"),
        "qos": (WORD, "a quality of service's name"),
        "gpu_type": (r"[\w.-]+", "a type as sinfo -o %G shows it: a100, h100"),
        "memory": (r"\d+[KMGT]?", "a number of megabytes, or 200G"),
        "log": (r"[\w./%@+=-]+", "a path without spaces; %x is the job's name, %j its number"),
        "directory": (r"/[\w./@+=-]*", "an absolute path without spaces"),
    }
    for name, (pattern, right) in patterns.items():
        value = getattr(job, name)
        if value and not re.fullmatch(pattern, value, re.ASCII):
            raise UserError(f"config.slurm.{name}={value!r} should be {right}")
    limits = {"nodes": 1, "gpus_per_node": 0, "cpus_per_task": 1, "signal_before": 1, "max_restarts": 0}
    for name, least in limits.items():
        if getattr(job, name) < least:
            raise UserError(f"config.slurm.{name}={getattr(job, name)} should be at least {least}")
    if job.signal_before >= min(seconds(job.time), 65536):
        raise UserError(
            f"config.slurm.signal_before={job.signal_before} should be less than config.slurm.time={job.time} "
            "(in seconds), and less than 65536"
        )
    for option in job.options:
        match = re.fullmatch(r"--([a-z][a-z-]*)(=[^\s'\"\\#]+)?", option)
        if not match:
            raise UserError(
                f"config.slurm.options: {option!r} should be an option of sbatch, --constraint=h100"
            )
        if match[1] in FOR_US:
            raise UserError(f"config.slurm.options: {option!r} is set by the launcher; leave it out")
    if any("\n" in line for line in job.setup):
        raise UserError("config.slurm.setup should be a list of lines, one command each")


def _check_command(command: Sequence[str], workdir: str, job: SlurmConfig) -> None:
    if ":" in command:
        raise UserError(
            "the command has an argument ':', which srun takes for the end of a command; leave it out"
        )
    folder = workdir if "://" in workdir else str(Path(job.directory) / workdir)
    if job.nodes > 1 and re.match(r"(/var)?/tmp(/|$)|/dev/shm(/|$)", folder):
        raise UserError(
            f"--workdir={folder} is on each node's own disk; name a folder that all nodes share, or gs://..."
        )


def _path(path: str) -> str:
    """A path, quoted for the shell; ~/ becomes the home folder on the cluster."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def _array(name: str, items: Sequence[str]) -> str:
    """An array of the shell, with one flag a line."""
    text = ""
    for item in items:
        text += ("\n  " if item.startswith("-") else " ") + shlex.quote(item)
    return f"{name}=({text.strip(' ')}\n)" if "\n" in text else f"{name}=({text.strip()})"


def _submit(script: str, config: LaunchConfig) -> None:
    """Submit the script to sbatch, and print the job's number."""
    missing = [name for name in config.env if name not in os.environ]
    if missing:
        raise UserError(f"config.env names {', '.join(missing)}, not set here; export it, or take it out")
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(
            "there is no sbatch on this machine; write the script with --out=job.sh, and on the cluster: sbatch job.sh"
        ) from error
    if done.returncode:
        raise UserError(f"sbatch refused the job: {' '.join(done.stderr.split())}")
    number = done.stdout.strip().partition(";")[0]
    terminal.say(
        f"submitted: job {number}; to see its state: squeue -j {number}; to cancel it: scancel {number}"
    )


if __name__ == "__main__":
    run(main)

"""Tasks of a preparation on a cluster: Slurm and Ray, through datatrove's executors.

The command itself stays on one machine. It launches the tasks of each stage, waits for them, and decides what follows.
"""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from base.errors import UserError

if TYPE_CHECKING:
    from data.prepare.slurm_jobs import SlurmExecutor

EXECUTORS = ("local", "slurm", "ray")
SECONDS_BETWEEN_LOOKS = 15.0


@dataclass(frozen=True)
class Slurm:
    """A cluster with Slurm. WORK and OUT must be the same folders on all of its machines."""

    workers: int
    """Tasks at a time; 0 for no limit."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of sbatch; partition and time are among them."""

    def run(self, pipeline: Sequence[Any], tasks: int, folder: str) -> None:
        """Launch the tasks that have not ended as an array of jobs, and wait for them.

        Args:
          pipeline: the steps of a task.
          tasks: their number.
          folder: where datatrove notes which tasks have ended; the script and the output of the jobs are there too.

        Raises:
          UserError: a task has failed.
        """
        from data.prepare.slurm_jobs import SlurmExecutor

        rest = {
            name: value for name, value in self.options.items() if name not in ("partition", "time", "qos")
        }
        executor = SlurmExecutor(
            pipeline=list(pipeline),
            tasks=tasks,
            time=self.options["time"],
            partition=self.options["partition"],
            qos=self.options.get("qos", ""),
            workers=self.workers or -1,
            job_name="unmask-prepare",
            venv_path=f"{sys.prefix}/bin/activate" if sys.prefix != sys.base_prefix else None,
            sbatch_args=rest,
            logging_dir=folder,
        )
        try:
            _launch(executor)
            while executor.get_incomplete_ranks():
                waits = _in_queue(str(executor.job_id))
                if not waits and (failed := executor.get_incomplete_ranks()):
                    raise UserError(
                        f"{len(failed)} of {tasks} tasks have failed on the cluster; {folder}/slurm_logs has their "
                        "output; correct that and run the same command again, which does the others no more"
                    )
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except BaseException:
            if executor.launched:
                with contextlib.suppress(OSError):  # the last one first: it waits for those before it
                    subprocess.run(["scancel", *reversed(executor.launched)], check=False)
            raise


def _launch(executor: "SlurmExecutor") -> None:
    """Launch the arrays of jobs.

    Raises:
      UserError: sbatch refuses one.
    """
    try:
        executor.run()
    except (subprocess.CalledProcessError, OSError) as error:  # sbatch has said on stderr what it refuses
        raise UserError(
            f"sbatch has refused the job ({error}); correct --slurm, and run the same command again"
        ) from error


@dataclass(frozen=True)
class Ray:
    """A cluster with Ray."""

    workers: int
    """Tasks at a time; 0 for no limit."""

    def run(self, pipeline: Sequence[Any], tasks: int, folder: str) -> None:
        """Run the tasks that have not ended; see `Slurm.run`."""
        from datatrove.executor.ray import RayPipelineExecutor

        executor = RayPipelineExecutor(
            pipeline=list(pipeline), tasks=tasks, workers=self.workers or -1, logging_dir=folder
        )
        executor.run()
        if failed := executor.get_incomplete_ranks():
            raise UserError(
                f"{len(failed)} of {tasks} tasks have failed on the cluster; see {folder}/logs, correct that and run "
                "the same command again"
            )


Workers = int | Slurm | Ray
"""Who runs the tasks: a number of processes of this machine, or a cluster."""


def chosen_workers(executor: str, workers: int, slurm: str, cores: int) -> Workers:
    """Who runs the tasks, by the flags --executor, --workers and --slurm.

    Args:
      executor: one of EXECUTORS.
      workers: tasks at a time; 0 takes the machine's cores, or all of a cluster.
      slurm: options of sbatch, NAME=VALUE, comma-separated; `NAME=` is a flag without a value.
      cores: those of this machine.

    Raises:
      UserError: the cluster's programs are missing here, or an option that Slurm needs.
    """
    if slurm and executor != "slurm":
        raise UserError(f"--slurm has no effect with --executor={executor}; leave it out")
    if executor == "local":
        return workers or cores
    if executor == "ray":
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "--executor=ray needs ray; install it: pip install ray, on all machines of the cluster"
            )
        return Ray(workers)
    # A value may have commas of its own: partition=a,b.
    options = dict(
        option.strip().partition("=")[::2] for option in re.split(r",(?=\s*[\w-]+=)", slurm) if option.strip()
    )
    if missing := [name for name in ("partition", "time") if not options.get(name)]:
        raise UserError(
            f"--executor=slurm needs {' and '.join(missing)}; for example --slurm=partition=cpu,time=4:00:00"
        )
    if shutil.which("sbatch") is None:
        raise UserError(
            "--executor=slurm needs sbatch, which is not on this machine; run the command on a login node, or leave "
            "the flag out"
        )
    return Slurm(workers, options)


def _in_queue(job: str) -> bool:
    """Whether a job waits or runs, or may do so: a cluster that does not answer says nothing about its jobs."""
    try:
        found = subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True, check=False)
    except OSError:
        return True
    if found.returncode and b"invalid job id" not in found.stderr.lower():
        return True
    return bool(found.stdout.strip())

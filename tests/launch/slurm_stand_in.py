"""A cluster of one machine: srun, squeue and scontrol for a batch job, and the part of Slurm that runs it again.

The tasks of a step are processes here, with the variables that Slurm gives them; what Slurm does before a time limit is
`Slurm.signal_step`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds after which something is taken to hang."""
SRUN = """
import os, signal, subprocess, sys
options = [one for one in sys.argv[1:] if one.startswith("--")]
count = int(next(one for one in options if one.startswith("--ntasks=")).partition("=")[2])
command = sys.argv[1 + next(at for at, one in enumerate(sys.argv[1:]) if not one.startswith("--")) :]
signal.signal(signal.SIGTERM, lambda number, frame: [task.send_signal(number) for task in tasks])
step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count), "SLURM_STEP_NUM_NODES": str(count)}
tasks = [
    subprocess.Popen(command, env={**os.environ, **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": "0"})
    for task in range(count)
]
open(os.environ["STAND_IN"] + "/step", "w").write(str(os.getpid()))
sys.exit(max(task.wait() for task in tasks))
"""


class Slurm:
    """One job, in a folder of its own."""

    def __init__(self, folder: Path, *, job: int = 7) -> None:
        self.folder, self.job, self.restarts = folder, job, 0
        self.state = "RUNNING"
        programs = {
            "srun": f"#!{sys.executable}\n{SRUN}",
            "squeue": '#!/bin/sh\necho "$*" >> "$STAND_IN/asked"; cat "$STAND_IN/state"\n',
            "scontrol": '#!/bin/sh\necho "$*" >> "$STAND_IN/told"\n',
        }
        (folder / "bin").mkdir(parents=True)
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """Run the batch script for the first time, or again."""
        (self.folder / "state").write_text(self.state + "\n")
        (self.folder / "step").unlink(missing_ok=True)
        (self.folder / "told").unlink(missing_ok=True)
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": f"{self.folder}:{ROOT}",
                "HOME": str(self.folder),
                "JAX_PLATFORMS": "cpu",
                "STAND_IN": str(self.folder),
                "SLURM_JOB_ID": str(self.job),
                "SLURM_JOB_NAME": "big",
                "SLURM_RESTART_COUNT": str(self.restarts),
                **environment,
            },
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def signal_step(self, number: int, after: Path, job: subprocess.Popen[str]) -> None:
        """Signal the step's processes, as before a time limit, once `after` holds something."""
        deadline = time.monotonic() + PATIENCE
        while not (after.exists() and after.stat().st_size and (self.folder / "step").exists()):
            assert job.poll() is None, job.communicate()[1]
            assert time.monotonic() < deadline, f"no {after}"
            time.sleep(0.05)
        os.kill(int((self.folder / "step").read_text()), number)

    def end(self, job: subprocess.Popen[str]) -> tuple[int, str]:
        """The job's exit status, and the last line that it said."""
        said = job.communicate(timeout=PATIENCE)[1].splitlines()
        return job.returncode, said[-1] if said else ""

    def requeued(self) -> bool:
        """Whether the last run asked to be put in the queue again."""
        told = self.folder / "told"
        if told.exists():
            assert told.read_text() == f"requeue {self.job}\n"
            self.restarts += 1
        return told.exists()

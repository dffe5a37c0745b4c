"""Tasks of a preparation on a cluster; programs in place of Slurm's run the jobs here."""

import os
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from data.config import DataConfig
from data.prepare import clusters
from data.prepare.clusters import Slurm, chosen_workers
from data.prepare.config import LengthConfig, PrepareConfig
from data.prepare.preparation import Task, prepare
from data.prepare.slurm_jobs import SlurmExecutor
from tests.tiny import write_corpus
from tokenizer.config import TokenizerConfig

SBATCH = """#!/bin/bash
# Runs the script's array of jobs at once, and gives the number of the job.
script="${!#}"
cp "$script" "$SCRIPTS/$(ls "$SCRIPTS" | wc -l).sh"
tasks=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "$tasks"); do
    SLURM_ARRAY_TASK_ID=$task RUN_OFFSET=0 SLURM_NODELIST=here bash "$script" > "$SCRIPTS/output" 2>&1
done
echo Submitted batch job 7
"""
SRUN = """#!/bin/bash
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
"""
NODE = "#!/bin/bash\necho here\n"
NOTHING = "#!/bin/bash\n"


def write_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> Path:
    """Programs on the path; the folder of the scripts that sbatch was given."""
    (folder / "bin").mkdir()
    (folder / "scripts").mkdir()
    for name, text in texts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SCRIPTS", str(folder / "scripts"))
    return folder / "scripts"


def task_of(folder: Path) -> Task:
    config = PrepareConfig(steps=("length",), length=LengthConfig(min_words=5, min_mean_word=1.0))
    data = DataConfig(source="files", path=str(write_corpus(folder / "text.txt")))
    return Task(config, data, TokenizerConfig(vocab_size=300, min_frequency=1), 32)


def test_the_output_of_slurm_jobs_is_that_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = write_programs(tmp_path, monkeypatch, sbatch=SBATCH, srun=SRUN, squeue=NOTHING, scontrol=NODE)
    task, folders = task_of(tmp_path), []
    slurm = chosen_workers("slurm", 3, "partition=cpu,time=1:00:00,mem-per-cpu=3G", 2)
    for name, workers in (("here", 1), ("cluster", slurm)):
        out = epath.Path(tmp_path / name)
        out.mkdir()
        prepare(task, out, None, workers)
        names = [path for path in sorted(Path(out).rglob("*")) if path.is_file()]
        folders.append({path.relative_to(out): path.read_bytes() for path in names})
    assert folders[0] == folders[1]
    first, *_ = sorted(scripts.glob("*.sh"))
    lines = first.read_text().splitlines()
    options = {"partition=cpu", "time=1:00:00", "mem-per-cpu=3G", "array=0-0%3", "job-name=unmask-prepare"}
    assert options < {line.removeprefix("#SBATCH --") for line in lines}
    assert not any("qos" in line for line in lines)
    assert len(list(scripts.glob("*.sh"))) == 3, "an array for each stage that has tasks for the cluster"


def test_tasks_that_fail_on_the_cluster_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_programs(tmp_path, monkeypatch, sbatch="#!/bin/bash\necho Submitted batch job 7\n", squeue=NOTHING,
                   scancel="#!/bin/bash\necho \"$@\" > $SCRIPTS/cancelled\n")  # fmt: skip
    monkeypatch.setattr(clusters, "SECONDS_BETWEEN_LOOKS", 0.0)
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    with pytest.raises(
        UserError, match=r"1 of 1 tasks have failed on the cluster; .*/slurm_logs has their output"
    ):
        prepare(task_of(tmp_path), out, None, Slurm(0, {"partition": "cpu", "time": "1"}))
    assert (tmp_path / "scripts" / "cancelled").read_text() == "7\n"


def test_all_arrays_of_many_tasks_are_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last one was: those before it went on."""
    write_programs(
        tmp_path,
        monkeypatch,
        sbatch="#!/bin/bash\ntouch $SCRIPTS/$RANDOM\necho Submitted batch job 1$(ls $SCRIPTS | wc -l)\n",
        scontrol=NODE,
        squeue=NOTHING,
        scancel='#!/bin/bash\necho "$@" > $SCRIPTS/cancelled\n',
    )
    monkeypatch.setattr(SlurmExecutor, "get_incomplete_ranks", lambda executor: list(range(2500)))
    with pytest.raises(UserError, match=r"2500 of 2500 tasks have failed"):
        Slurm(0, {"partition": "cpu", "time": "1"}).run([], 2500, str(tmp_path / "log"))
    assert (tmp_path / "scripts" / "cancelled").read_text() == "13 12 11\n"


@pytest.mark.parametrize(
    ("executor", "slurm", "message"),
    [
        ("slurm", "time=1:00:00", r"--executor=slurm needs partition; for example --slurm=partition=cpu"),
        ("slurm", "", r"--executor=slurm needs partition and time"),
        (
            "slurm",
            "partition=cpu,time=1",
            r"needs sbatch, which is not on this machine; run the command on a login",
        ),
        ("local", "time=1", r"--slurm has no effect with --executor=local"),
        ("ray", "", r"--executor=ray needs ray; install it: pip install ray"),
    ],
)
def test_what_a_cluster_lacks_is_one_line(
    executor: str, slurm: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        chosen_workers(executor, 0, slurm, 2)


def test_workers_of_this_machine_are_its_cores() -> None:
    assert chosen_workers("local", 0, "", 6) == 6
    assert chosen_workers("local", 2, "", 6) == 2


def test_values_of_slurms_options_may_have_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_programs(tmp_path, monkeypatch, sbatch=NOTHING)
    slurm = chosen_workers("slurm", 0, "partition=a,b,time=1:00,exclude=n[1,2],requeue=", 1)
    assert isinstance(slurm, Slurm)
    assert slurm.options == {"partition": "a,b", "time": "1:00", "exclude": "n[1,2]", "requeue": ""}


@pytest.mark.parametrize(
    ("squeue", "waits"),
    [
        ("echo 7 running", True),
        ("true", False),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
    ],
)
def test_a_cluster_that_does_not_answer_has_not_lost_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str, waits: bool
) -> None:
    write_programs(tmp_path, monkeypatch, squeue=f"#!/bin/bash\n{squeue}\n")
    assert clusters._in_queue("7") is waits


def test_a_job_that_sbatch_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_programs(tmp_path, monkeypatch, sbatch="#!/bin/bash\nexit 1\n", scontrol=NODE, scancel=NOTHING)
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    with pytest.raises(UserError, match=r"sbatch has refused the job .*correct --slurm"):
        prepare(task_of(tmp_path), out, None, Slurm(1, {"partition": "cpu", "time": "1:00"}))

"""The batch job of a run: what it says, that its command arrives as it was written, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UserError
from launch.config import LaunchConfig, SlurmConfig
from launch.slurm import main, render, seconds, srun_options

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parent / "goldens"
COMMAND = ["python", "-m", "pretrain", "--config=configs/roberta_base.py", "--workdir=runs/big"]
TEXT = ["--config.data.path=corpus/*.jsonl.zst", '--config.run_name=it\'s $HOME; `id`\n"x"']
CPUS = [
    *("--config.slurm.gpus_per_node=0", "--config.slurm.nodes=4", "--config.slurm.time=2-12:00:00"),
    *("--config.slurm.partition=long", "--config.slurm.account=group1", "--config.slurm.memory=64G"),
    *("--config.slurm.directory=/home/me/unmask", "--config.slurm.options=('--constraint=cascadelake',)"),
    *("--config.env=('HF_HOME',)", "--config.secrets=('HF_TOKEN=hf',)"),
    *("--config.slurm.secrets_file=~/.unmask secrets", "--config.workdir=gs://bucket/{name}"),
]


def launch(*arguments: str) -> list[str]:
    return ["launch.slurm", arguments[0], f"--config={ROOT}/configs/launch_slurm.py", *arguments[1:]]


def of(**changes) -> LaunchConfig:
    """A launch config with other values in its group `slurm`."""
    return LaunchConfig(slurm=replace(SlurmConfig(nodes=2), **changes))


# To bring a golden up to date, write to it what the command gives, and read the difference.
@pytest.mark.parametrize(
    ("golden", "arguments"),
    [
        ("slurm_gpus.sh", launch("big", "--", *COMMAND, *TEXT)),
        ("slurm_cpus.sh", launch("long-run", *CPUS, "--", ".venv/bin/python", *COMMAND[1:4])),
    ],
)
def test_the_script_is_the_golden_one(golden, arguments, tmp_path, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == (GOLDENS / golden).read_text()

    place = arguments.index("--")
    assert main([*arguments[:place], f"--out={tmp_path}/job.sh", *arguments[place:]]) == 0
    assert (tmp_path / "job.sh").read_text() == (GOLDENS / golden).read_text()
    assert (
        capsys.readouterr().out == f"written: {tmp_path}/job.sh; on the cluster: sbatch {tmp_path}/job.sh\n"
    )


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.sh")), ids=lambda path: path.name)
def test_the_script_is_clean_bash(golden):
    subprocess.run(["bash", "-n", golden], check=True)
    # Not followed: what a user's own setup sources. Not expanded, rightly: what stands between single quotes.
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--exclude=SC1091,SC2016", golden],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """A folder with an srun that writes down its arguments, each ended by a NUL."""
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "srun").write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" > "$RECORD"\n')
    (folder / "srun").chmod(0o755)
    return folder


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_every_argument_arrives_as_it_was_written(stubs, arguments):
    command = ["env", *(one for one in [*arguments, "#@SETUP", "#@SETTINGS"] if one != ":"), "--workdir=w"]
    script = render("big", command, of())
    environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "RECORD": str(stubs / "argv")}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "job: the run has finished\n")
    found = (stubs / "argv").read_bytes().decode().split("\0")[:-1]
    assert found == [*srun_options(of().slurm), *command]


def test_secrets_and_environment_are_named_and_their_values_are_nowhere(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("HF_HOME", "/home/canary")
    main(launch("long-run", *CPUS, "--", *COMMAND))
    script = capsys.readouterr().out
    assert "canary" not in script
    assert "#SBATCH --export=HOME,USER,LOGNAME,PATH,LANG,HF_HOME\n" in script
    assert "names='HF_HOME HF_TOKEN'\n" in script


def test_a_time_limit_is_read_as_slurm_reads_it():
    assert [seconds(time) for time in ("24:00:00", "2-12:00:00", "100:00:01", "0-00:30:00")] == [
        86400,
        216000,
        360001,
        1800,
    ]


@pytest.mark.parametrize("time", ["90", "90:00", "1-24:00:00", "00:00:00", "24:60:00", "1d", "-1:00:00", ""])
def test_other_time_limits_are_refused(time):
    with pytest.raises(UserError, match=r"should be \[D-\]HH:MM:SS"):
        seconds(time)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (launch("big"), "no command given; write it after --"),
        (launch("big", "--"), "no command given; write it after --"),
        (launch("--submit", "--", *COMMAND), "no NAME given"),
        (launch("big name", "--", *COMMAND), "NAME='big name' should have at most 63"),
        (launch("big", "--", *COMMAND[:4]), "the command names no folder for the run"),
        (
            launch("big", "--", "python", "--workdir=/tmp/run"),
            "--workdir=/tmp/run is on each node's own disk",
        ),
        (
            launch("big", "--config.slurm.directory=/tmp", "--", *COMMAND),
            "--workdir=/tmp/runs/big is on each",
        ),
        (launch("big", "--", *COMMAND, ":"), "srun takes for the end of a command"),
        (launch("big", "--config.slurm.time=24", "--", *COMMAND), "config.slurm.time='24' should be"),
        (
            launch("big", "--config.slurm.nodes=0", "--", *COMMAND),
            "config.slurm.nodes=0 should be at least 1",
        ),
        (launch("big", "--config.slurm.memory=4 GB", "--", *COMMAND), "config.slurm.memory='4 GB' should be"),
        (launch("big", "--config.slurm.signal_before=86400", "--", *COMMAND), "less than config.slurm.time"),
        (launch("big", "--config.slurm.options=('--nodes=3',)", "--", *COMMAND), "is set by the launcher"),
        (launch("big", "--config.slurm.options=('-N3',)", "--", *COMMAND), "should be an option of sbatch"),
        (
            launch("big", "--config.env=('A B',)", "--", *COMMAND),
            "config.env[0] should be the name of an environment variable alone",
        ),
        (launch("big", "--config.secrets=('A=b',)", "--", *COMMAND), "set config.slurm.secrets_file"),
        (launch("big", "--", *COMMAND, "-m", "finetune", "--config.search.trials=3"), None),
        (
            launch("big", "--", "python", "-m", "finetune", "--config.search.trials=3", "--workdir=w"),
            "search",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    if message is None:  # what a command's own module does not take is not looked at
        assert main(arguments) == 0
        return
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


HOSTILE = ["$(touch x)", "`id`", "a b;c", "a\n#SBATCH --wrap=x", "a'b", 'a"b', "a\\b", "--x y", "é", "\u2028"]


@pytest.mark.parametrize(
    "field",
    ["partition", "account", "qos", "gpu_type", "memory", "time", "directory", "log", "options", "name"],
)
@pytest.mark.parametrize("value", HOSTILE)
def test_what_a_shell_or_slurm_would_read_is_one_line(value, field):
    given = {} if field == "name" else {field: (value,) if field == "options" else value}
    with pytest.raises(UserError) as error:
        render(value if field == "name" else "big", COMMAND, of(**given))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value", ["$(touch x)", "~/$(touch x)", "`touch x`", "a'; touch x; '", 'a"; touch x; "', "-x", "a\nb"]
)
def test_a_secrets_file_is_a_path_and_no_code(value, tmp_path):
    script = render("big", COMMAND, of(secrets_file=value))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": "/h"},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and f"{value.replace('~', '/h')} should be a file that you alone can read" in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_submitting_hands_the_script_to_sbatch(tmp_path, monkeypatch, capsys):
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        main(launch("big", "--submit", "--", *COMMAND, *TEXT))

    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    (tmp_path / "sbatch").write_text(
        f"#!/bin/sh\n[ \"$*\" = --parsable ] && cat > {tmp_path}/got; echo '42;c1'\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    assert main(launch("big", "--submit", "--", *COMMAND, *TEXT)) == 0
    assert (tmp_path / "got").read_text() == (GOLDENS / "slurm_gpus.sh").read_text()
    assert (
        capsys.readouterr().out
        == "submitted: job 42; to see its state: squeue -j 42; to cancel it: scancel 42\n"
    )

    with pytest.raises(UserError, match=r"config.env names NOT_HERE, not set here"):
        main(launch("big", "--submit", "--config.env=('NOT_HERE',)", "--", *COMMAND))

    (tmp_path / "sbatch").write_text("#!/bin/sh\ncat > /dev/null; echo 'invalid\npartition' >&2; exit 1\n")
    with pytest.raises(UserError, match="sbatch refused the job: invalid partition"):
        main(launch("big", "--submit", "--", *COMMAND))
